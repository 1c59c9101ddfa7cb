"""What a word is, in any script; captions and names as plain text."""

import re

from tokenizers import Regex, pre_tokenizers

UNSPACED = (
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
    r"(?:[\x{17D2}\x{1039}]\p{L}|[\p{M}\x{0E33}\x{0EB3}])*"
)
"""A character of a script that is written without spaces, with its combining marks and stacked consonants."""

CONTROL = dict.fromkeys([*range(1, 32), *range(127, 160)], " ")  # NUL is refused instead: it is a sign of UTF-16, or of no text


def clean(caption: str) -> str:
    """A caption with a space in the place of every control character, so that places in it stay the same."""
    return caption if caption.isprintable() else caption.translate(CONTROL)


UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys or what reorders a line: control characters, line ends, marks of direction, halves of characters."""


def printable(text: str) -> str:
    """A text from outside on one line of a terminal: what it would obey is written as an escape, such as \\n or \\x1b."""
    return UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def spreadsheet_cell(text: str) -> str:
    """A text from outside as a cell of a CSV: an apostrophe before what a spreadsheet would compute as a formula."""
    return f"'{text}" if text.startswith(tuple("=+-@\t\r")) else text


def splitters(unspaced: bool) -> list:
    """What splits captions into words and punctuation marks.

    Words are what white space and punctuation separate. In scripts that are written without spaces (Chinese, Japanese, Thai,
    Lao, Khmer, Burmese) every character with its marks is a word, since a clause would otherwise be one word (our reading).
    This rule is there only with `unspaced`, where the captions have such characters.
    """
    return [pre_tokenizers.Whitespace(), *([pre_tokenizers.Split(Regex(UNSPACED), "isolated")] if unspaced else [])]


def count_words(caption: str) -> int:
    """The number of words, without punctuation marks of their own; a character of a script without spaces is a word."""
    if not has_unspaced(caption):
        return len(caption.split())
    return sum(len(piece.split()) for piece, _ in pre_tokenizers.Split(Regex(UNSPACED), "isolated").pre_tokenize_str(caption))


def has_unspaced(caption: str) -> bool:
    """Whether a caption has characters of a script that is written without spaces."""
    if caption.isascii():
        return False
    rest = pre_tokenizers.Split(Regex(UNSPACED), "removed").pre_tokenize_str(caption)
    return [piece for piece, _ in rest] != [caption]


FUNCTION_WORDS = frozenset(
    "a an the and but nor or am are be been being is was were about above across after against along among around as at before "
    "behind below beneath beside besides between beyond by during for from in inside into near of off on onto out outside over "
    "through to toward towards under upon with within without".split()
)
"""English articles, conjunctions, forms of be and prepositions, lower case: words that name nothing in an image (our choice)."""


def is_word(word: str) -> bool:
    """Whether a text has a letter or a digit, so that it is more than punctuation marks and other signs."""
    return any(letter.isalnum() for letter in word)
