"""The engine of the tokenizer, byte-level BPE: made of a vocabulary and merges, which are all that is taken from a file."""

import json

from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from lcl.config import LclError, require
from lcl.words import splitters

PAD, BEGIN, END, MASK = "[PAD]", "[BEGIN]", "[END]", "[MASK]"
SPECIAL = (PAD, BEGIN, END, MASK)
"""Special tokens; their ids are their places here, so padding is 0."""

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
MAX_VOCABULARY = 250_000


def make_engine(model: models.BPE, unspaced: bool) -> Engine:
    """The engine around a vocabulary and merges. unspaced: see `lcl.words.splitters`."""
    engine = Engine(model)
    engine.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [*splitters(unspaced), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    engine.decoder = decoders.ByteLevel()
    engine.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}", special_tokens=[(token, SPECIAL.index(token)) for token in (BEGIN, END)]
    )
    return engine


def cut_and_pad(engine: Engine, context_length: int) -> Engine:
    """Let an engine cut texts as `lcl.models.tokenizer` does, keeping the end token, and pad them; the same engine."""
    engine.encode_special_tokens = True
    engine.enable_truncation(context_length)
    engine.enable_padding(pad_id=SPECIAL.index(PAD), pad_token=PAD)
    return engine


def read_engine(saved: str | dict, where: str, context_length: int | None = None) -> Engine:
    """Make the engine that a JSON text describes, if it is one of ours.

    The library's own reader obeys whatever the text says, such as a padding of 10⁹ tokens or a hundred nested replacements.

    Args:
        saved: what `Engine.to_str` gave, or this JSON already parsed.
        where: the file, for messages.
        context_length: what `cut_and_pad` was given, if the saved engine cuts and pads.

    Raises:
        LclError: for anything else.
    """
    try:
        saved = json.loads(saved) if isinstance(saved, str) else saved
        vocab, merges = saved["model"]["vocab"], saved["model"]["merges"]
        require(len(vocab) <= MAX_VOCABULARY and len(merges) <= MAX_VOCABULARY, f"more than {MAX_VOCABULARY} tokens")
        require(sorted(vocab.values()) == list(range(len(vocab))), "the ids in its vocabulary are not 0, 1, 2 and so on")
        require(all(vocab.get(token) == number for number, token in enumerate(SPECIAL)), f"its first tokens are not {SPECIAL}")
        require(vocab.keys() >= set(ALPHABET), "its vocabulary lacks some of the 256 bytes")
        unspaced = len(saved["pre_tokenizer"]["pretokenizers"]) == len(splitters(True)) + 1
        engine = make_engine(models.BPE(vocab, [(left, right) for left, right in merges]), unspaced)
        engine.add_special_tokens(list(SPECIAL))
        if context_length is not None:
            cut_and_pad(engine, context_length)
        ours = json.loads(engine.to_str())
        other = [part for part in ours if part not in saved or not _agree(saved[part], ours[part])]
        require(not other, f"this library writes another {' and '.join(other)[:99]}")
    except Exception as error:  # the engine raises plain Exception
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise LclError(f"the tokenizer in {where} is damaged ({reason}); train it again, or export it again.") from None
    return engine


def _agree(saved: object, ours: object) -> bool:
    """Are both equal, but for fields that only one version of the engine writes?"""
    if isinstance(saved, dict) and isinstance(ours, dict):
        return all(_agree(saved[name], ours[name]) for name in saved.keys() & ours.keys())
    if isinstance(saved, list) and isinstance(ours, list):
        return len(saved) == len(ours) and all(map(_agree, saved, ours))
    return saved == ours
