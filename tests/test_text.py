"""Tokens are words with known places: what went in can be read back from the spans, whatever the script."""

import json
import unicodedata

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from lcl.config import LclError
from lcl.scenes import SPLITS
from lcl.text import BEGIN, END, MAX_WORDS, SPECIAL, Tokenizer, words_of_span

CONTEXT = 48
BEGINS, ENDS = SPECIAL.index(BEGIN), SPECIAL.index(END)


@pytest.fixture(scope="module")
def captions(few_world):
    return [few_world.scene("train", index).caption for index in range(1000)]


@pytest.fixture(scope="module")
def tokenizer(captions):
    return Tokenizer.train(captions, 600, "some data")


# --- learning and keeping


def test_equal_captions_make_an_equal_tokenizer(tokenizer, captions):
    again = Tokenizer.train(iter(captions), 600, "some data")
    assert json.dumps(again.to_dict()).encode() == json.dumps(tokenizer.to_dict()).encode()
    assert again.fingerprint == tokenizer.fingerprint
    assert Tokenizer.train(captions[:500], 600, "some data").fingerprint != tokenizer.fingerprint


def test_the_vocabulary_is_no_larger_than_asked_and_saves_tokens(tokenizer, captions):
    assert 260 < tokenizer.vocab_size <= 600
    basic = Tokenizer.train(captions, 260, "some data")
    assert basic.vocab_size == 260
    assert tokenizer.encode(captions, 500).mask.sum() < 0.5 * basic.encode(captions, 500).mask.sum()
    with pytest.raises(LclError, match="a vocabulary of 259 has no room"):
        Tokenizer.train(captions, 259, "some data")


def test_a_tokenizer_comes_back_from_disk_as_it_went(tokenizer, captions, tmp_path):
    tokenizer.save(tmp_path / "t.json")
    read = Tokenizer.load(tmp_path / "t.json", "some data")
    assert read.to_dict() == tokenizer.to_dict()
    assert torch.equal(read.encode(captions, CONTEXT).ids, tokenizer.encode(captions, CONTEXT).ids)


def test_a_tokenizer_of_other_data_is_refused(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t.json")
    with pytest.raises(LclError, match=r"t\.json belongs to another data set \(some data\) .* \(other data\)"):
        Tokenizer.load(tmp_path / "t.json", "other data")
    assert Tokenizer.load(tmp_path / "t.json").data == "some data"


@pytest.mark.parametrize(
    "change",
    [
        lambda good: [],
        lambda good: {},
        lambda good: good | {"format": "another"},
        lambda good: good | {"engine": "{}"},
        lambda good: good | {"engine": good["engine"][:-9]},
        lambda good: good | {"engine": None},
        lambda good: {name: value for name, value in good.items() if name != "data"},
        lambda good: json.loads(good["engine"]),
    ],
)
def test_what_is_no_tokenizer_of_ours_is_refused(tokenizer, tmp_path, change):
    (tmp_path / "t.json").write_text(json.dumps(change(tokenizer.to_dict())))
    with pytest.raises(LclError, match=r"t\.json is (no tokenizer of this library|damaged)"):
        Tokenizer.load(tmp_path / "t.json")


# --- captions to tokens


def test_tokens_begin_end_and_are_padded_with_nothing(tokenizer, captions):
    tokens = tokenizer.encode(captions, CONTEXT)
    assert tokens.ids.shape == tokens.mask.shape == tokens.words.shape and len(tokens) == len(captions)
    assert (tokens.ids.dtype, tokens.mask.dtype, tokens.words.dtype) == (torch.int64, torch.bool, torch.int64)
    lengths = tokens.mask.sum(1)
    assert lengths.max() == tokens.ids.shape[1] <= CONTEXT
    assert torch.equal(tokens.mask, torch.arange(tokens.ids.shape[1]) < lengths[:, None])
    assert (tokens.ids[~tokens.mask] == 0).all() and (tokens.ids[tokens.mask] != 0).all()
    assert (tokens.ids[:, 0] == BEGINS).all()
    assert (tokens.ids.gather(1, lengths[:, None] - 1) == ENDS).all()
    special = tokens.ids < len(SPECIAL)
    assert special.sum() == (~tokens.mask).sum() + 2 * len(captions)
    assert torch.equal(tokens.words == -1, special)


def test_a_caption_has_the_same_tokens_in_every_batch(tokenizer, captions):
    tokens = tokenizer.encode(captions[:50], CONTEXT)
    for row in range(50):
        alone, picked = tokenizer.encode(captions[row : row + 1], CONTEXT), tokens[[row]]
        assert torch.equal(alone.ids, picked.ids) and torch.equal(alone.words, picked.words)
        assert torch.equal(alone.mask, picked.mask) and alone.mask.all() and alone.spans == picked.spans


def test_capitals_and_composed_accents_make_no_difference(tokenizer):
    ids = tokenizer.encode(["A Café", "a cafe\u0301"], CONTEXT).ids
    assert torch.equal(ids[0], ids[1])


def test_decoding_gives_the_words_back(tokenizer, captions):
    tokens = tokenizer.encode(captions[:100], CONTEXT)
    for row, caption in enumerate(captions[:100]):
        parts = tokenizer.decode(tokens.ids[row, tokens.mask[row]])
        assert parts[0] == BEGIN and parts[-1] == END
        assert "".join(parts[1:-1]) == caption.lower().replace(" ", "")
    assert tokenizer.decode(range(len(SPECIAL))) == list(SPECIAL)


def test_decoding_a_token_gives_its_letters_not_its_bytes():
    learned = Tokenizer.train(["a café über 狗"] * 9, 300, "some data")
    ids = learned.encode(["Café über 狗"], CONTEXT).ids[0]
    assert learned.decode(ids) == [BEGIN, "café", "über", "狗", END]
    assert learned.decode(Tokenizer.train(["dog"], 260, "").encode(["é"], CONTEXT).ids[0, 1:2]) == ["\ufffd"]


def squeezed(text):
    return "".join(text.split())


scripts = st.text(
    st.sampled_from("aZ éÅßİ.,-'’_19\t\n👩\u200d🚀🏽🇫🇷كلبשלום狗犬ไก่कुत्ता\u0301\u0327\u1100\u1161"), min_size=1
)


@given(st.text(min_size=1, max_size=40) | scripts)
@example("don't a_b-c 3.5")
@example("e\u0301 cafe\u0301")
@example("q\u0307\u0323 \u1100\u1161\u11a8")
@example("كلب أحمر and שלום")
@example("[PAD] a [BEGIN] [END][MASK]")
def test_spans_reproduce_the_words(tokenizer, caption):
    assume(caption.strip() and "\0" not in caption)
    tokens = tokenizer.encode([caption], 1000)
    (spans,), words = tokens.spans, tokens.words[0].tolist()
    assert tokens.mask.all()
    assert words[0] == words[-1] == -1
    assert words[1:-1] == sorted(words[1:-1]) and set(words[1:-1]) == set(range(len(spans)))
    assert all(0 <= start < end <= len(caption) for start, end in spans)
    assert all(first[1] <= second[0] for first, second in zip(spans, spans[1:], strict=False))
    assert squeezed("".join(caption[start:end] for start, end in spans)) == squeezed(caption)


@given(st.text(min_size=1, max_size=40) | scripts)
@example("[PAD] a [BEGIN] [END][MASK]")
def test_tokens_are_the_text_and_nothing_is_unknown(tokenizer, caption):
    assume(caption.strip() and "\0" not in caption)
    ids = tokenizer.encode([caption], 1000).ids[0, 1:-1]
    assert (ids >= len(SPECIAL)).all()
    text = tokenizer._engine.decode(ids.tolist())
    lower = "".join(letter.lower() for letter in unicodedata.normalize("NFC", caption))
    assert squeezed(text) == squeezed(lower)


def test_special_words_in_a_caption_are_only_words(tokenizer):
    tokens = tokenizer.encode(["a [PAD] dog [END] [MASK]"], CONTEXT)
    assert tokens.mask.all()
    assert ((tokens.ids[0] < len(SPECIAL)).nonzero().flatten().tolist()) == [0, tokens.ids.shape[1] - 1]


def test_a_long_caption_is_cut_and_keeps_its_end(tokenizer):
    caption = " ".join(["dog"] * 300)
    tokens = tokenizer.encode([caption, "a cat"], CONTEXT)
    whole = tokenizer.encode([caption], 1000)
    assert tokens.ids.shape == (2, CONTEXT) and tokens.mask[0].all()
    assert torch.equal(tokens.ids[0, :-1], whole.ids[0, : CONTEXT - 1])
    assert tokens.ids[0, -1] == ENDS and tokens.words[0, -1] == -1
    assert len(tokens.spans[0]) == int(tokens.words[0].max()) + 1 < len(whole.spans[0]) == 300
    assert tokens.spans[0] == whole.spans[0][: len(tokens.spans[0])]


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        ("", "is empty"),
        (" \t\n\u2003", "is empty"),
        ("a \0 dog", "NUL"),
        ("dog " * 10_000, f"10000 words; {MAX_WORDS}"),
        (None, "NoneType, not text"),
        (b"a dog", "bytes, not text"),
        (7, "int, not text"),
        ("half a \ud83d smiley", "no text"),
    ],
)
def test_what_is_no_caption_is_refused_with_its_number(tokenizer, caption, said):
    with pytest.raises(LclError, match=f"caption 2 .*{said}"):
        tokenizer.encode(["a dog", "a cat", caption, ""], CONTEXT)


def test_the_longest_caption_is_no_mistake(tokenizer):
    assert tokenizer.encode(["dog " * MAX_WORDS], CONTEXT).ids.shape == (1, CONTEXT)


# --- words and spans


def test_every_thing_of_a_scene_finds_its_words(few_world, tokenizer):
    scenes = [few_world.scene(split, index) for split in SPLITS for index in range(60)]
    tokens = tokenizer.encode([scene.caption for scene in scenes], 200)
    for scene, spans in zip(scenes, tokens.spans, strict=True):
        for start, end in (thing.span for thing in scene.things):
            words = words_of_span(spans, (start, end))
            assert words and words == list(range(words[0], words[-1] + 1))
            assert (spans[words[0]][0], spans[words[-1]][1]) == (start, end)


def test_words_of_a_span_touch_it():
    spans = [(0, 1), (2, 5), (5, 6), (8, 12)]
    assert words_of_span(spans, (2, 5)) == [1]
    assert words_of_span(spans, (4, 9)) == [1, 2, 3]
    assert words_of_span(spans, (6, 8)) == []
    assert words_of_span(spans, (0, 99)) == [0, 1, 2, 3]
