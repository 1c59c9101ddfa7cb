"""Tokens are words with known places: what went in can be read back from the spans, whatever the script."""

import json
import unicodedata

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from lcl.bpe import BEGIN, END, MASK, SPECIAL
from lcl.config import LclError
from lcl.data.scenes import SPLITS
from lcl.models.tokenizer import (
    MAX_WORDS,
    NOT_MASKED,
    Tokenizer,
    Tokens,
    clean,
    mask_words,
    words_of_span,
)
from lcl.words import FUNCTION_WORDS

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
    assert read.to_dict() == tokenizer.to_dict() and read.training_words == tokenizer.training_words
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
        lambda good: good | {"words": None},
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
    signs = torch.tensor([not any(map(str.isalnum, text)) for text in tokenizer.decode(tokens.ids.flatten())])
    assert torch.equal(tokens.words == -1, special | signs.view_as(special)) and (signs.view_as(special) & ~special).any()


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
    return "".join(clean(text).split())


UNSPACED = ["红色的船在水上", "コーヒーと赤い犬", "เรือสีแดงบนน้ำ", "ទូកពណ៌ក្រហម", "ເຮືອສີແດງ", "လှေအနီရောင်", "a red boat"]


@pytest.fixture(scope="module")
def eastern():
    """A tokenizer of scripts that are written without spaces, with merges over many characters."""
    return Tokenizer.train(UNSPACED * 9, 500, "some data")


scripts = st.text(
    st.sampled_from("aZ éÅßİ.,-'’_19\t\n👩\u200d🚀🏽🇫🇷كلبשלום狗犬ไก่कुत्ता\u0301\u0327\u1100\u1161"), min_size=1
)


@given(st.text(min_size=1, max_size=40) | scripts)
@example("don't a_b-c 3.5")
@example("e\u0301 cafe\u0301")
@example("q\u0307\u0323 \u1100\u1161\u11a8")
@example("كلب أحمر and שלום")
@example("[PAD] a [BEGIN] [END][MASK]")
@example("ก็น้ำ")
@example("!!!")
@example("(a), __ 'b'... 🚀")
def test_spans_reproduce_the_words(tokenizer, eastern, caption):
    assume(clean(caption).strip() and "\0" not in caption)
    for learned in (tokenizer, eastern):
        check_spans(learned, learned.encode([caption], 1000), caption)


def check_spans(learned: Tokenizer, tokens: Tokens, caption: str) -> None:
    (spans,), words = tokens.spans, tokens.words[0].tolist()
    assert tokens.mask.all()
    assert words[0] == words[-1] == -1
    numbers = [word for word in words if word >= 0]
    assert numbers == sorted(numbers) and set(numbers) == set(range(len(spans)))
    assert all(0 <= start < end <= len(caption) for start, end in spans)
    assert all(first[1] <= second[0] for first, second in zip(spans, spans[1:], strict=False))
    inside = {place for start, end in spans for place in range(start, end)}
    assert all(place in inside for place, letter in enumerate(caption) if letter.isalnum())
    assert all(any(map(str.isalnum, caption[start:end])) for start, end in spans)
    for word, (start, end) in enumerate(spans):  # a word's tokens are its text
        text = learned._engine.decode(tokens.ids[0, tokens.words[0] == word].tolist())
        assert squeezed(text) == squeezed(learned._engine.normalizer.normalize_str(caption[start:end]))


@given(st.text(min_size=1, max_size=40) | scripts)
@example("[PAD] a [BEGIN] [END][MASK]")
def test_tokens_are_the_text_and_nothing_is_unknown(tokenizer, caption):
    assume(clean(caption).strip() and "\0" not in caption)
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
        for start, end in (obj.span for obj in scene.objects):
            words = words_of_span(spans, (start, end))
            assert words and words == list(range(words[0], words[-1] + 1))
            assert (spans[words[0]][0], spans[words[-1]][1]) == (start, end)


def test_words_of_a_span_touch_it():
    spans = [(0, 1), (2, 5), (5, 6), (8, 12)]
    assert words_of_span(spans, (2, 5)) == [1]
    assert words_of_span(spans, (4, 9)) == [1, 2, 3]
    assert words_of_span(spans, (6, 8)) == []
    assert words_of_span(spans, (0, 99)) == [0, 1, 2, 3]


@pytest.mark.parametrize("length", [1000, 12])
def test_function_words_are_known_by_their_text_and_however_many_tokens_they_have(tokenizer, basic, captions, length):
    some = [*captions[:40], "The CAT is ON theme: 2 ofs!", "of the", "!!!"]
    for learned in (tokenizer, basic):
        tokens = learned.encode(some, length)
        content = tokens.content()
        for row, (caption, spans) in enumerate(zip(some, tokens.spans, strict=True)):
            names = [caption[start:end].lower() in FUNCTION_WORDS for start, end in spans]
            for place, word in enumerate(tokens.words[row].tolist()):
                function = word >= 0 and names[word]
                assert tokens.function[row, place] == function
                assert content.words[row, place] == (-1 if function else word)
            picked = tokens[[row]]
            assert torch.equal(picked.function, tokens.function[row : row + 1, : picked.ids.shape[1]])
        assert torch.equal(hide(tokens)[0].function, tokens.function)
        assert content.spans == tokens.spans and torch.equal(content.ids, tokens.ids)
    assert tokens.function[40].any() and not tokens.function[42].any()
    unknown = Tokens(tokens.ids, tokens.mask, tokens.words, tokens.spans)
    assert unknown.content() is unknown and unknown[[0]].function is None and unknown.to("cpu").function is None


def test_numbers_directions_and_colours_are_content_and_function_words_are_lower_case_words():
    assert not FUNCTION_WORDS & {"two", "one", "left", "right", "red", "not", "no", "next", "front"}
    assert all(word.isalpha() and word.islower() for word in FUNCTION_WORDS) and {"a", "of", "and", "is"} <= FUNCTION_WORDS


def words_of(tokenizer: Tokenizer, caption: str) -> list[str]:
    return [caption[start:end] for start, end in tokenizer.encode([caption], 1000).spans[0]]


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("红色的船", "红 色 的 船"),
        ("コーヒー、赤い犬", "コ ー ヒ ー 赤 い 犬"),
        ("น้ำแข็ง", "น้ำ แ ข็ ง"),
        ("ខ្មែរ", "ខ្មែ រ"),
        ("ນ້ຳ", "ນ້ຳ"),
        ("မြန်မာ", "မြ န် မာ"),
        ("a red boat, two cafe\u0301s and 3.5", "a red boat two cafe\u0301s and 3 5"),
        ("красная лодка کشتی قرمز 빨간 배 लाल नाव", "красная лодка کشتی قرمز 빨간 배 लाल नाव"),
        ("2只狗dog", "2 只 狗 dog"),
        ("«don't», said T-Rex: 'no'…", "don t said T Rex no"),
    ],
)
def test_without_spaces_a_character_with_its_marks_is_a_word(eastern, tokenizer, caption, words):
    assert words_of(eastern, caption) == words.split()
    masked = hide(eastern.encode([caption], 100), share=0.0)[1]
    assert 1 <= (masked != NOT_MASKED).sum() <= 15  # one word's tokens
    if caption.startswith("a red"):  # control: where there are spaces, the tokenizer of English has the same words
        assert words_of(tokenizer, caption) == words.split()


def test_the_rule_for_scripts_without_spaces_leaves_other_tokenizers_as_they_were(tokenizer, captions, eastern):
    rules = lambda learned: json.loads(learned.to_dict()["engine"])["pre_tokenizer"]["pretokenizers"]  # noqa: E731
    assert [rule["type"] for rule in rules(tokenizer)] == ["Whitespace", "ByteLevel"]
    assert [rule["type"] for rule in rules(eastern)] == ["Whitespace", "Split", "ByteLevel"]
    assert Tokenizer.train([*captions, "un café, красная, 빨간"], 600, "").to_dict()["engine"].count("Split") == 0
    assert Tokenizer.train([*captions, "犬"], 600, "").to_dict()["engine"].count("Split") == 1
    assert words_of(tokenizer, "红色的船") == ["红色的船"]


def test_control_characters_are_white_space(tokenizer):
    odd, plain = "a\x07red\x1b\x7fdog\x85", "a red  dog "
    one, other = (tokenizer.encode([caption], CONTEXT) for caption in (odd, plain))
    assert torch.equal(one.ids, other.ids) and one.spans == other.spans
    assert Tokenizer.train([odd] * 3, 300, "").fingerprint == Tokenizer.train([plain] * 3, 300, "").fingerprint
    with pytest.raises(LclError, match="caption 0 is empty"):
        tokenizer.encode(["\x07\x1b"], CONTEXT)
    assert not torch.equal(tokenizer.encode(["a\u200bdog"], CONTEXT).ids, tokenizer.encode(["a dog"], CONTEXT).ids)


@pytest.mark.parametrize("length", [8, 12, 16, CONTEXT])
def test_captions_that_are_cut_are_counted(tokenizer, captions, length):
    whole, cut = tokenizer.encode(captions, 1000).mask.sum(1), tokenizer.encode(captions, length).mask.sum(1)
    assert tokenizer.count_cut(captions, length) == (whole != cut).sum() == (whole > length).sum()
    fits = captions[int(whole.argmin())]
    longest = int(whole.min())
    assert tokenizer.count_cut([fits] * 5000, longest) == 0 and tokenizer.count_cut([fits] * 5000, longest - 1) == 5000
    assert tokenizer.count_cut([], length) == 0


# --- words that were not in the training


def test_unseen_words_are_those_that_no_caption_had(tokenizer, captions):
    assert all(tokenizer.unseen(caption) == [] for caption in captions[:200])
    assert tokenizer.unseen("A qwzx, a Dog; and a Qwzx!") == ["qwzx"]
    assert tokenizer.unseen("?! ...") == []
    every = set(tokenizer.training_words)
    assert len(every) == len(tokenizer.training_words) and not any(word in tokenizer.unseen(word) for word in every)
    assert {"a"} <= every and "," not in every
    counts = [sum(word in words_of(tokenizer, caption.lower()) for caption in captions) for word in list(every)[:3]]
    assert min(counts) > 0


def test_words_are_kept_the_most_frequent_first_up_to_a_bound(monkeypatch):
    monkeypatch.setattr("lcl.models.tokenizer.MAX_TRAINING_WORDS", 2)
    learned = Tokenizer.train(["b b b a a c"], 300, "")
    assert learned.training_words == ("b", "a") and learned.unseen("a b c") == ["c"]


def test_without_saved_words_a_word_of_several_tokens_counts_as_rare_or_unseen(tokenizer, captions):
    old = Tokenizer.from_dict(tokenizer.to_dict())
    assert old.training_words is None and "words" not in old.to_dict(words=True)
    assert old.unseen("a qwzx") == ["qwzx"] and old.unseen("a") == []
    assert old.fingerprint == tokenizer.fingerprint
    tokens = old.encode(captions[:100], 1000)
    for row, caption in enumerate(captions[:100]):
        split = [word for word in range(len(tokens.spans[row])) if (tokens.words[row] == word).sum() > 1]
        wanted = dict.fromkeys(caption[slice(*tokens.spans[row][word])] for word in split)
        assert old.unseen(caption) == [word for word in wanted if any(letter.isalnum() for letter in word)]


# --- masking words

MASKED = SPECIAL.index(MASK)


@pytest.fixture(scope="module")
def basic():
    """A tokenizer without merges: most words have several tokens."""
    return Tokenizer.train(["x"], 260, "some data")


def hide(tokens: Tokens, seed: int = 0, **changes) -> tuple[Tokens, torch.Tensor]:
    return mask_words(tokens, torch.Generator().manual_seed(seed), 600, **changes)


def chosen_words(tokens: Tokens, targets: torch.Tensor) -> list[set[int]]:
    """Of every caption the words that were chosen."""
    return [set(words[row != NOT_MASKED].tolist()) for words, row in zip(tokens.words, targets, strict=True)]


@given(st.integers(0, 2**31), st.floats(0, 1))
def test_masking_takes_whole_words_as_many_as_asked_and_at_least_one(basic, captions, seed, share):
    tokens = basic.encode(captions[seed % 900 : seed % 900 + 8], 400)
    masked, targets = hide(tokens, seed, share=share)
    for row, chosen in enumerate(chosen_words(tokens, targets)):
        of_chosen = torch.tensor([word in chosen for word in tokens.words[row].tolist()])
        assert torch.equal(targets[row] != NOT_MASKED, of_chosen)  # all tokens of a word or none
        assert -1 not in chosen
        count = len(tokens.spans[row])
        assert len(chosen) == max(1, round(share * count)) or abs(len(chosen) - share * count) <= 0.5 + 1e-4
        assert 1 <= len(chosen) <= count
    assert torch.equal(targets[targets != NOT_MASKED], tokens.ids[targets != NOT_MASKED])
    assert torch.equal(masked.ids[targets == NOT_MASKED], tokens.ids[targets == NOT_MASKED])
    assert torch.equal(masked.mask, tokens.mask) and torch.equal(masked.words, tokens.words)
    assert masked.spans == tokens.spans


def test_special_tokens_and_padding_are_never_chosen(tokenizer, captions):
    tokens = tokenizer.encode(captions, CONTEXT)
    for share in (0.0, 0.15, 1.0):
        masked, targets = hide(tokens, share=share)
        special = tokens.ids < len(SPECIAL)
        assert (targets[special] == NOT_MASKED).all() and torch.equal(masked.ids[special], tokens.ids[special])


def test_about_15_in_100_words_are_chosen_each_as_often_as_its_neighbours(tokenizer, captions):
    long = [" ".join(["dog"] * 20)] * 2000
    tokens = tokenizer.encode(long, 100)
    targets = hide(tokens)[1]
    picked = (targets != NOT_MASKED)[:, 1:21].double()
    assert picked.mean().item() == pytest.approx(0.15)  # 3 of 20, in every caption
    assert (picked.mean(0) - 0.15).abs().max() < 5 * (0.15 * 0.85 / 2000) ** 0.5
    scenes = tokenizer.encode(captions, CONTEXT)
    chosen = sum(len(some) for some in chosen_words(scenes, hide(scenes)[1]))
    assert 0.13 < chosen / sum(len(spans) for spans in scenes.spans) < 0.22  # short captions lose at least one


def test_of_the_chosen_words_8_in_10_are_hidden_1_is_replaced_and_1_stays(tokenizer):
    tokens = tokenizer.encode([" ".join(["dog"] * 20)] * 1000, 100)
    masked, targets = hide(tokens, share=1.0)
    chosen, spread = targets != NOT_MASKED, lambda p: 5 * (p * (1 - p) / 20_000) ** 0.5
    assert chosen.sum() == 20_000
    hidden, same = (masked.ids == MASKED) & chosen, (masked.ids == tokens.ids) & chosen
    assert hidden.sum().item() / 20_000 == pytest.approx(0.8, abs=spread(0.8))
    assert same.sum().item() / 20_000 == pytest.approx(0.1, abs=spread(0.1) + 0.1 / 596)  # noise may hit the truth
    noise = masked.ids[chosen & ~hidden & ~same]
    assert (noise >= len(SPECIAL)).all() and (noise < 600).all() and len(noise.unique()) > 500


def test_the_tokens_of_one_word_share_its_fate(basic):
    tokens = basic.encode(["elephant"] * 400, 20)
    masked, targets = hide(tokens)
    assert (targets[:, 1:9] != NOT_MASKED).all()
    hidden = (masked.ids[:, 1:9] == MASKED).sum(1)
    same = (masked.ids[:, 1:9] == tokens.ids[:, 1:9]).sum(1)
    assert set(hidden.tolist()) == {0, 8}
    assert ((same == 8) | (same <= 1)).all() and (same == 8).any() and ((hidden == 0) & (same <= 1)).any()


def test_equal_generators_mask_alike_and_a_generator_goes_on(tokenizer, captions):
    tokens = tokenizer.encode(captions[:64], CONTEXT)
    (first, targets), (again, same) = hide(tokens, 7), hide(tokens, 7)
    assert torch.equal(first.ids, again.ids) and torch.equal(targets, same)
    generator = torch.Generator().manual_seed(7)
    mask_words(tokens, generator, 600)
    assert not torch.equal(mask_words(tokens, generator, 600)[1], targets)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    hide(tokens)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_masking_leaves_the_tokens_that_it_was_given_as_they_were(tokenizer, captions):
    tokens = tokenizer.encode(captions[:32], CONTEXT)
    ids, words, mask = tokens.ids.clone(), tokens.words.clone(), tokens.mask.clone()
    masked, _ = hide(tokens, share=1.0)
    masked.ids.zero_()
    assert torch.equal(tokens.ids, ids) and torch.equal(tokens.words, words) and torch.equal(tokens.mask, mask)


def test_a_share_of_one_chooses_every_word_and_of_none_still_one(tokenizer, captions):
    tokens = tokenizer.encode([*captions[:50], "dog"], CONTEXT)
    assert torch.equal(hide(tokens, share=1.0)[1] != NOT_MASKED, tokens.words >= 0)
    assert {len(chosen) for chosen in chosen_words(tokens, hide(tokens, share=0.0)[1])} == {1}


def test_a_caption_without_words_stays_as_it_is(tokenizer):
    tokens = tokenizer.encode(["dog", "a red dog"], CONTEXT)
    bare = Tokens(tokens.ids, tokens.mask, tokens.words.clone(), tokens.spans)
    bare.words[0] = -1
    masked, targets = hide(bare, share=1.0)
    assert torch.equal(masked.ids[0], tokens.ids[0]) and (targets[0] == NOT_MASKED).all()
    assert (targets[1] != NOT_MASKED).any()
    none = Tokens(tokens.ids, tokens.mask, torch.full_like(tokens.words, -1), tokens.spans)
    masked, targets = hide(none)
    assert torch.equal(masked.ids, tokens.ids) and (targets == NOT_MASKED).all()


def test_punctuation_is_read_but_is_no_word_and_is_never_masked(tokenizer):
    tokens = tokenizer.encode(["a cat, and a dog!", "!!!", "a cat and a dog"], CONTEXT)
    assert [len(spans) for spans in tokens.spans] == [5, 0, 5] and (tokens.words[1] == -1).all()
    assert tokens.mask.sum(1).tolist()[::2] == [9, 7] and tokens.mask[1].sum() > 2
    without = tokens.words[0][tokens.words[0] >= 0], tokens.words[2][tokens.words[2] >= 0]
    assert torch.equal(*without)
    for share in (0.0, 0.5, 1.0):
        masked, targets = hide(tokens, share=share)
        wanted = max(1, round(5 * share))
        assert [len(chosen) for chosen in chosen_words(tokens, targets)] == [wanted, 0, wanted]
        assert torch.equal(masked.ids[tokens.words < 0], tokens.ids[tokens.words < 0])


def test_a_word_that_is_cut_off_within_its_signs_is_no_word(tokenizer):
    caption, length = "a ___b", len(tokenizer.encode(["a ___b"], 100).ids[0])
    assert tokenizer.encode([caption], 100).spans == (((0, 1), (2, 6)),)
    assert tokenizer.encode([caption], length - 1).spans == (((0, 1),),)


@pytest.mark.parametrize("share", [-0.01, 1.01, float("nan"), float("inf")])
def test_a_share_of_words_outside_zero_to_one_is_refused(tokenizer, share):
    with pytest.raises(LclError, match=f"between 0 and 1, not {share}"):
        hide(tokenizer.encode(["a dog"], CONTEXT), share=share)


def test_a_tokenizer_for_other_data_has_the_same_tokens_and_more_words():
    first = Tokenizer.train(["a red cat", "a red dog"], 300, "one")
    other = first.for_data("two", ["a cat", "a blue boat"])
    assert (other.data, other.fingerprint) == ("two", first.fingerprint)
    assert set(other.training_words) == {*first.training_words, "blue", "boat"}
    old = Tokenizer(first._engine, "one")  # saved before words were
    assert old.for_data("two", ["a cat"]).training_words is None
