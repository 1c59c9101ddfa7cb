"""The tokenizer: trained on captions, it knows the word of every token; and the masking of words."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer as Engine
from tokenizers import models, pre_tokenizers, trainers

from lcl import storage
from lcl.bpe import ALPHABET, MASK, PAD, SPECIAL, make_engine, read_engine
from lcl.config import LclError, require
from lcl.machine import to_device
from lcl.words import FUNCTION_WORDS, clean, has_unspaced, is_word, splitters

if TYPE_CHECKING:
    import torch  # at run time only where tensors are made: ONNX folders are opened without torch

MAX_WORDS = 1000  # of a caption
MAX_TRAINING_WORDS = 50_000  # that a tokenizer keeps, the most frequent ones
FORMAT = "lcl-tokenizer-1"


@dataclass(frozen=True)
class Tokens:
    """A batch of captions as token ids; L is the length of the longest, in tokens.

    Attributes:
        ids: (B, L) int64; [BEGIN] words… [END] [PAD]….
        mask: (B, L) bool, false at padding.
        words: (B, L) int64, the number of a token's word in its caption (0, 1, …); -1 at special tokens, and at punctuation
            marks and other signs without a letter or digit, which are no words.
        spans: for every caption the characters (start, end) of its words; without words that were cut off.
        function: (B, L) bool, true at tokens of function words, those of `lcl.words.FUNCTION_WORDS`; None: not known.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    words: torch.Tensor
    spans: tuple[tuple[tuple[int, int], ...], ...]
    function: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> Tokens:
        """The same tokens on a device; the host does not wait for it."""
        return self._each(lambda tensor: to_device(tensor, device))

    def __getitem__(self, rows: Sequence[int]) -> Tokens:
        """Some of the captions, padded to the longest of them."""
        rows = [int(row) for row in rows]
        length = int(self.mask[rows].sum(1).max())
        return replace(self._each(lambda tensor: tensor[rows, :length]), spans=tuple(self.spans[row] for row in rows))

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Tokens:
        function = None if self.function is None else change(self.function)
        return Tokens(change(self.ids), change(self.mask), change(self.words), self.spans, function)

    def content(self) -> Tokens:
        """The same tokens, of which those of function words belong to no word; other words keep their numbers."""
        return self if self.function is None else replace(self, words=self.words.masked_fill(self.function, -1))

    def __len__(self) -> int:
        return len(self.ids)


def _words_of(captions: Sequence[str], engine: Engine) -> list[str]:
    """The words of clean captions, lower case, the most frequent first."""
    split, counts = pre_tokenizers.Sequence(splitters(any(map(has_unspaced, captions)))), collections.Counter()
    for caption in captions:
        counts.update(word for word, _ in split.pre_tokenize_str(engine.normalizer.normalize_str(caption)))
    return sorted((word for word in counts if is_word(word)), key=lambda word: (-counts[word], word))


class Tokenizer:
    """Byte-level BPE within words and punctuation marks, so that no text has unknown tokens.

    Words are those of `lcl.words`.

    Attributes:
        data: fingerprint of the data set whose captions it was trained on.
        training_words: the words of these captions, lower case, the most frequent first, at most MAX_TRAINING_WORDS; None for
            a tokenizer that was saved without them, as those of exports and of earlier versions are.
    """

    def __init__(self, engine: Engine, data: str, training_words: tuple[str, ...] | None = None):
        self._engine, self.data, self.training_words = engine, data, training_words
        self._known = None if training_words is None else frozenset(training_words)
        engine.encode_special_tokens = True  # "[PAD]" in a caption is ordinary text

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self._engine.get_vocab().values(), default=-1) + 1

    def for_data(self, data: str, captions: Iterable[str]) -> Tokenizer:
        """The same tokens for another data set, the words of whose training captions are added to the known ones."""
        if self.training_words is None:
            return Tokenizer(self._engine, data)
        words = dict.fromkeys([*self.training_words, *_words_of([clean(caption) for caption in captions], self._engine)])
        return Tokenizer(self._engine, data, tuple(words)[:MAX_TRAINING_WORDS])

    @property
    def fingerprint(self) -> str:
        return storage.fingerprint(self._engine.to_str())

    @classmethod
    def train(cls, captions: Iterable[str], vocab_size: int, data: str) -> Tokenizer:
        """Learn a vocabulary of at most `vocab_size` tokens; equal captions give equal tokenizers."""
        require(vocab_size >= 256 + len(SPECIAL), f"a vocabulary of {vocab_size} has no room for the 260 basic tokens.")
        captions = [clean(caption) for caption in captions]
        engine = make_engine(models.BPE(), any(map(has_unspaced, captions)))
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL),
            initial_alphabet=ALPHABET,
            show_progress=False,
        )
        engine.train_from_iterator(captions, trainer)
        return cls(engine, data, tuple(_words_of(captions, engine)[:MAX_TRAINING_WORDS]))

    def encode(self, captions: Sequence[str], context_length: int) -> Tokens:
        """Captions to tokens; a caption of more than `context_length` tokens is cut, and keeps its [END].

        Raises:
            LclError: for a caption that is empty, has more than MAX_WORDS words, or is no text (holds a NUL).
        """
        import torch

        for number, caption in enumerate(captions):
            check_caption(caption, number)
        captions = [clean(caption) for caption in captions]
        encodings = [
            self._cut(encoding, caption, context_length)
            for encoding, caption in zip(self._engine.encode_batch(captions), captions, strict=True)
        ]
        lengths = torch.tensor([len(ids) for ids, _, _ in encodings], dtype=torch.long)
        mask = torch.arange(int(lengths.max()) if len(lengths) else 0) < lengths[:, None]  # (B, L)
        ids, words = torch.zeros(mask.shape, dtype=torch.long), torch.full(mask.shape, -1)
        function = torch.zeros(mask.shape, dtype=torch.bool)
        known = []
        for caption, (_, numbers, spans) in zip(captions, encodings, strict=True):
            found = {word for word, (start, end) in enumerate(spans) if caption[start:end].lower() in FUNCTION_WORDS}
            known += [word in found for word in numbers]
        ids[mask] = torch.tensor([token for row, _, _ in encodings for token in row], dtype=torch.long)
        words[mask] = torch.tensor([word for _, row, _ in encodings for word in row], dtype=torch.long)
        function[mask] = torch.tensor(known, dtype=torch.bool)
        return Tokens(ids, ids != SPECIAL.index(PAD), words, tuple(spans for _, _, spans in encodings), function)

    @staticmethod
    def _cut(encoding, caption: str, context_length: int) -> tuple[list[int], list[int], tuple[tuple[int, int], ...]]:
        ids, numbers = encoding.ids, encoding.word_ids  # the engine numbers words and punctuation marks; None is special
        if len(ids) > context_length:
            ids, numbers = ids[: context_length - 1] + ids[-1:], numbers[: context_length - 1] + [None]
        spans: dict[int, tuple[int, int]] = {}
        for number, (start, end) in zip(numbers, encoding.offsets, strict=False):
            if number is not None:
                while end < len(caption) and not caption[end].isspace() and encoding.char_to_token(end) is None:
                    end += 1  # an accent that NFC joined with its letter
                spans[number] = (spans.get(number, (start, end))[0], end)
        spans = {number: (start, end) for number, (start, end) in spans.items() if is_word(caption[start:end])}
        word_of = {number: word for word, number in enumerate(spans)}
        return ids, [word_of.get(number, -1) for number in numbers], tuple(spans.values())

    def count_cut(self, captions: Sequence[str], context_length: int) -> int:
        """How many captions have more than `context_length` tokens, so that `encode` cuts them."""
        cut = 0
        for start in range(0, len(captions), 4096):  # what the engine returns takes much memory
            rows = self._engine.encode_batch_fast([clean(caption) for caption in captions[start : start + 4096]])
            cut += sum(len(row) > context_length for row in rows)
        return cut

    def unseen(self, text: str) -> list[str]:
        """The words of a text that the captions of the training lacked, as they are written, each once.

        Without `training_words`, these are the words that split into several tokens: BPE gives frequent words a token of
        their own, so such a word was rare or missing, and a rare one may be listed although it was there.
        """
        check_caption(text, 0)
        text = clean(text)
        _, numbers, spans = self._cut(self._engine.encode(text), text, len(text) * 4 + 2)
        tokens, found = collections.Counter(numbers), {}
        for number, (start, end) in enumerate(spans):
            word = self._engine.normalizer.normalize_str(text[start:end])
            new = tokens[number] > 1 if self._known is None else word not in self._known
            if new:
                found.setdefault(word, text[start:end])
        return list(found.values())

    def decode(self, ids: Sequence[int]) -> list[str]:
        """The text of each token; special tokens as "[PAD]" and so on, an incomplete character as �."""
        return [
            SPECIAL[token] if token < len(SPECIAL) else self._engine.decode([token]) for token in (int(i) for i in ids)
        ]

    def to_dict(self, words: bool = False) -> dict:
        """The tokenizer as JSON. words: with `training_words`, which do not change how texts are encoded."""
        value = {"format": FORMAT, "data": self.data, "engine": self._engine.to_str()}
        return value | {"words": " ".join(self.training_words)} if words and self.training_words is not None else value

    @classmethod
    def from_dict(cls, value: dict, where: str = "the tokenizer") -> Tokenizer:
        """The inverse of `to_dict`. Raises LclError if `value` holds no tokenizer of this library."""
        require(isinstance(value, dict) and value.get("format") == FORMAT, f"{where} is no tokenizer of this library.")
        words = value.get("words")
        fits = isinstance(value.get("data"), str) and ("words" not in value or isinstance(words, str))
        require(fits, f"the tokenizer in {where} is damaged (its data or its words are no text); train it again.")
        engine = read_engine(value.get("engine"), where)
        return cls(engine, value["data"], None if words is None else tuple(words.split(" ")[:MAX_TRAINING_WORDS]))

    def save(self, path: Path) -> None:
        storage.write_json(path, self.to_dict(words=True))

    @classmethod
    def load(cls, path: Path, data: str | None = None) -> Tokenizer:
        """Read a tokenizer; with `data`, refuse one that was trained on another data set."""
        tokenizer = cls.from_dict(storage.read_json(path, storage.MAX_MODEL_BYTES), str(path))
        if data is not None and tokenizer.data != data:
            raise LclError(
                f"{path} belongs to another data set ({tokenizer.data}) than the one at hand ({data}); "
                "use the tokenizer of this data set, or train again."
            )
        return tokenizer


def check_caption(caption: str, number: int) -> None:
    """Raise LclError, with the caption's number, unless it is usable text."""
    require(isinstance(caption, str), f"caption {number} is {type(caption).__name__}, not text.")
    require("\0" not in caption, f"caption {number} holds a NUL character, so it is no text; repair or remove it.")
    broken = any("\ud800" <= letter <= "\udfff" for letter in caption)
    require(not broken, f"caption {number} holds half a character, so it is no text; repair or remove it.")
    words = len(clean(caption).split())
    require(words > 0, f"caption {number} is empty; give it at least one word or remove its pair.")
    require(
        words <= MAX_WORDS, f"caption {number} has {words} words; {MAX_WORDS} are the most that a caption may have."
    )


NOT_MASKED = -100  # the target where nothing is masked; torch's cross-entropy ignores it


def mask_words(
    tokens: Tokens, generator: torch.Generator, vocab_size: int, share: float = 0.15
) -> tuple[Tokens, torch.Tensor]:
    """Mask whole words: of every caption a share of its words, at least one if it has words.

    Of the chosen words 80 % become [MASK], token by token, 10 % random tokens, and 10 % stay unchanged (Devlin et al. 2019,
    arXiv 1810.04805, section 3.1; whole words and "at least one" are our reading). Punctuation marks are never masked.

    Args:
        tokens: a batch of captions; best on the CPU, where all of this is computed.
        generator: on the CPU; equal states mask alike.
        vocab_size: of the random tokens.
        share: 0 to 1; 1 chooses every word, 0 still one a caption.

    Returns:
        The masked tokens, on the device of `tokens`, and targets (B, L) int64 on the CPU: the true id where a word was chosen,
        NOT_MASKED elsewhere.
    """
    import torch

    require(0 <= share <= 1, f"the share of words to mask must lie between 0 and 1, not {share}.")
    device, tokens = tokens.ids.device, tokens.to("cpu")
    words = tokens.words  # (B, L)
    number = int(words.max()) + 1 if words.numel() else 0
    counts = words.amax(1) + 1 if words.numel() else torch.zeros(len(words), dtype=torch.long)  # (B,) words of a caption
    draw = torch.rand(len(words), max(number, 1), generator=generator)  # (B, m)
    draw = draw.masked_fill(torch.arange(draw.shape[1]) >= counts[:, None], 2.0)
    wanted = (share * counts).round().clamp(min=1)[:, None]
    chosen = (draw.argsort(1).argsort(1) < wanted) & (draw < 2)  # (B, m), the lowest draws of each caption
    fate = torch.rand(draw.shape, generator=generator)  # (B, m)
    noise = torch.randint(len(SPECIAL), vocab_size, words.shape, generator=generator)  # (B, L)

    at = words.clamp(min=0)
    hidden = chosen.gather(1, at) & (words >= 0)  # (B, L)
    fate = fate.gather(1, at)
    ids = torch.where(hidden & (fate < 0.8), SPECIAL.index(MASK), tokens.ids)
    ids = torch.where(hidden & (fate >= 0.8) & (fate < 0.9), noise, ids)
    return replace(tokens, ids=ids).to(device), torch.where(hidden, tokens.ids, NOT_MASKED)


def words_of_span(spans: Sequence[tuple[int, int]], span: tuple[int, int]) -> list[int]:
    """The numbers of the words that overlap the characters `span` = (start, end)."""
    return [word for word, (start, end) in enumerate(spans) if start < span[1] and end > span[0]]
