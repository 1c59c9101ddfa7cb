"""Lines that a notebook shows whole: it breaks longer ones within words."""

import textwrap

WIDTH = 96  # characters


def short_lines(text: str, first: str = "", rest: str = "") -> str:
    """A text with its lines broken between words; a single word that is longer stays whole.

    Args:
        first, rest: what the first line of each line begins with, and what the others begin with.
    """
    return "\n".join(
        textwrap.fill(line, WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False)
        for line in text.split("\n")
    )
