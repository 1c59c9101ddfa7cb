"""Grounding against brute force over patches, scipy's assignment, and models that know the scene or only guess."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, untrained
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from lcl.config import LclError
from lcl.data.drawn.captions import plural
from lcl.data.scenes import Pairs
from lcl.eval.grounding import align, alignment, alignments, mask_names, masked_words, patches_in_box
from lcl.losses.masked_lm import FusedMlm
from lcl.models.clip import Clip
from lcl.models.tokenizer import MASK, SPECIAL, Tokenizer, words_of_span


@settings(max_examples=60)
@given(st.tuples(*[st.integers(0, 64)] * 4), st.sampled_from([1, 4, 16, 64]), st.sampled_from([32, 64, 65]))
@example((4, 60, 0, 64), 64, 64)  # centres on the left and right edge: the first is inside, the last is not
@example((0, 64, 4, 60), 64, 64)
def test_a_patch_is_in_a_box_if_its_centre_is(corners, patches, side):
    left, right = sorted(corners[:2])
    top, bottom = sorted(corners[2:])
    rows = round(patches**0.5)
    brute = [
        n
        for n in range(patches)
        if left <= (n % rows + 0.5) * side / rows < right and top <= (n // rows + 0.5) * side / rows < bottom
    ]
    assert patches_in_box((left, top, right, bottom), side, patches) == brute
    assert patches_in_box((0, 0, side, side), side, patches) == list(range(patches))


@torch.no_grad()
def test_words_are_aligned_as_scipy_assigns_them(small_world, tokenizer):
    model, pairs = untrained(0), small_world.pairs("new_scenes", range(12))
    found = align(model.train(), tokenizer, pairs)
    assert not model.training and len(found) == 12
    for row, caption in enumerate(pairs.captions):
        tokens = tokenizer.encode([caption], 48)
        patches = model.embed_patches(model.vision(pairs.images[row : row + 1]))[0]
        words, _ = model.embed_words(model.language(tokens), tokens)
        cost = 1 - (words[0] @ patches.T).double()
        assert found[row].shape == (len(tokens.spans[0]),) and len(set(found[row].tolist())) == len(found[row])
        ours = cost[torch.arange(len(cost)), found[row]].sum().item()
        rows, columns = linear_sum_assignment(cost.numpy())
        assert ours == pytest.approx(cost[torch.from_numpy(rows), torch.from_numpy(columns)].sum().item(), abs=1e-4)


def object_words(pairs, spans) -> list[tuple[int, int, set[int]]]:
    """Every word that names something: its scene, its number, and the patches (8 × 8 of them) that would be right."""
    found = []
    for row, scene in enumerate(pairs.scenes):
        for name in sorted({obj.span for obj in scene.objects}):
            right = set()
            for obj in scene.objects:
                if obj.span == name:
                    right |= set(patches_in_box(obj.box, 64, 64))
            found += [(row, word, right) for word in words_of_span(spans[row], name)]
    return found


@pytest.mark.parametrize("split", ["new_scenes", "unseen_pairs"])
def test_alignment_is_the_share_of_object_words_that_point_into_a_box_of_theirs(small_world, tokenizer, split):
    model, pairs = untrained(1), small_world.pairs(split, range(40))
    asked = object_words(pairs, tokenizer.encode(pairs.captions, 48).spans)
    patch, figure = align(model, tokenizer, pairs), alignment(model, tokenizer, pairs)
    hits = [int(patch[row][word]) in right for row, word, right in asked]
    assert figure["value"] == pytest.approx(sum(hits) / len(hits))
    assert figure["chance"] == pytest.approx(sum(len(right) / 64 for *_, right in asked) / len(asked))
    shown = {row: {n for obj in scene.objects for n in patches_in_box(obj.box, 64, 64)} for row, scene in enumerate(pairs.scenes)}
    on_object = [(row, word, right) for row, word, right in asked if int(patch[row][word]) in shown[row]]
    among = alignments(model, tokenizer, pairs)["alignment_among_objects"]
    assert 0 < len(on_object) < len(asked)
    assert among["value"] == pytest.approx(sum(hits) / len(on_object))  # a word in the box of its object is in that of an object
    assert among["chance"] == pytest.approx(sum(len(right) / len(shown[row]) for row, _, right in on_object) / len(on_object))


class Knowing(Clip):
    """A model that looks where it is told: `places` says for every scene which patch each word points at."""

    places: list[list[int]]

    def embed_patches(self, features):
        return torch.eye(64).expand(len(features.pooled), -1, -1)

    def embed_words(self, features, tokens):
        real = torch.arange(int(tokens.words.max()) + 1) <= tokens.words.amax(1, keepdim=True)
        words = torch.zeros(*real.shape, 64)
        for row, places in enumerate(self.places):
            words[row, torch.arange(len(places)), torch.tensor(places)] = 1.0
        return words, real


@pytest.mark.parametrize("inside", [True, False])
def test_a_model_that_points_into_the_boxes_is_right_and_one_that_points_beside_wrong(small_world, tokenizer, inside):
    pairs = small_world.pairs("new_scenes", range(40))
    spans, kept, places = tokenizer.encode(pairs.captions, 48).spans, [], []
    for row, words in enumerate(spans):
        wrong = torch.zeros(len(words), 64)
        for scene, word, right in object_words(pairs, spans):
            if scene == row:
                wrong[word] = torch.tensor([float((patch in right) != inside) for patch in range(64)])
        rows, columns = linear_sum_assignment(wrong.numpy())
        if wrong[torch.from_numpy(rows), torch.from_numpy(columns)].sum() == 0:  # all its words find room
            kept.append(row)
            places.append(columns.tolist())
    assert len(kept) > 25
    model = Knowing(TINY)
    model.places = places
    some = dataclasses.replace(pairs, images=pairs.images[kept], scenes=tuple(pairs.scenes[row] for row in kept))
    assert alignment(model, tokenizer, some)["value"] == float(inside)
    among = alignments(model, tokenizer, some)["alignment_among_objects"]
    assert among["value"] == float(inside) and 0 < among["chance"] < 1


def test_alignment_of_untrained_models_is_near_chance(small_world, tokenizer):
    pairs = small_world.pairs("new_scenes", range(100))
    both = [alignments(untrained(seed), tokenizer, pairs) for seed in range(4)]
    for name, low, high in (("alignment", 0.05, 0.5), ("alignment_among_objects", 0.4, 0.7)):
        figures = [each[name] for each in both]
        chance = sum(figure["chance"] for figure in figures) / 4
        assert low < chance < high
        assert sum(figure["value"] for figure in figures) / 4 == pytest.approx(chance, abs=0.12)


def test_a_word_cut_off_at_the_contexts_end_counts_as_missed(small_world, tokenizer):
    pairs = small_world.pairs("new_scenes", range(40))
    short = dataclasses.replace(TINY, language=dataclasses.replace(TINY.language, context_length=8))
    model = Clip(short)
    asked = object_words(pairs, tokenizer.encode(pairs.captions, 1000).spans)
    patch = align(model, tokenizer, pairs)
    hits = [word < len(patch[row]) and int(patch[row][word]) in right for row, word, right in asked]
    assert any(word >= len(patch[row]) for row, word, _ in asked)
    assert alignment(model, tokenizer, pairs)["value"] == pytest.approx(sum(hits) / len(hits))


# --- masked words


class Guessing(FusedMlm):
    """Reads the caption of whatever scene it is shown; without an image it says the same token always."""

    def know(self, model: Clip, tokenizer, pairs, always: int):
        self.always, self.shown = always, []
        self.captions = tokenizer.encode(pairs.captions, 48).ids
        self.looks = model.eval().vision(pairs.images).pooled

    def forward(self, language, tokens, image, where):
        guess = torch.full_like(tokens.ids, self.always)
        if image is not None:
            scenes = torch.cdist(image.pooled, self.looks).argmin(1)
            self.shown += scenes.tolist()
            guess = self.captions[scenes, : guess.shape[1]]
        return F.one_hot(guess[where], 400).float()


@pytest.mark.parametrize("context", [48, 12])
def test_of_every_scene_one_name_of_a_single_word_is_masked_wholly(small_world, tokenizer, context):
    pairs = small_world.pairs("new_scenes", range(80))
    tokens = tokenizer.encode(pairs.captions, context)
    masked, where, concepts = mask_names(tokenizer, pairs, context)
    assert torch.equal(masked.ids, torch.where(where, SPECIAL.index(MASK), tokens.ids))
    assert torch.equal(masked.words, tokens.words) and len(concepts) == 80
    for row, scene in enumerate(pairs.scenes):
        hidden = set(tokens.words[row][where[row]].tolist())
        known = {obj.concept: words_of_span(tokens.spans[row], obj.span) for obj in scene.objects}
        if concepts[row] == -1:
            assert not hidden
            assert not any(
                len(known[obj.concept]) == 1 and scene.caption[slice(*obj.span)].isalpha() for obj in scene.objects
            )
        else:
            assert sorted(hidden) == known[concepts[row]] and len(hidden) == 1
            assert torch.equal(where[row], tokens.words[row] == min(hidden))
    if context == 48:
        assert len(set(concepts)) > 10 and concepts.count(-1) < 40
    assert concepts != [scene.objects[0].concept for scene in pairs.scenes]  # not always the first


def told(small_world, tokenizer, concept: int) -> set[tuple[int, ...]]:
    """The tokens of everything that a concept may be called."""
    known, found = small_world.pictures.concepts[concept], set()
    for name in (known.name, *known.synonyms):
        for form in (name, plural(name)):
            tokens = tokenizer.encode([form], 48)
            found.add(tuple(tokens.ids[0, 1:-1].tolist()))
    return found


@torch.no_grad()
def test_who_reads_the_scene_it_sees_is_right_with_the_true_image_and_not_with_a_wrong_one(small_world, tokenizer):
    pairs = small_world.pairs("new_scenes", range(60))
    model = untrained(0)
    mlm = Guessing(TINY, model.language, 32)
    mlm.know(model, tokenizer, pairs, 5)
    found = masked_words(model.train(), mlm.train(), tokenizer, small_world, pairs)
    assert not model.training and not mlm.training
    assert list(found) == ["masked_word_true_image", "masked_word_no_image", "masked_word_wrong_image"]
    assert found["masked_word_true_image"]["value"] == 1.0
    concepts = mask_names(tokenizer, pairs, 48)[2]
    asked = [row for row in range(60) if concepts[row] >= 0]
    true, wrong = mlm.shown[: len(asked)], mlm.shown[len(asked) :]
    assert true == asked and len(wrong) == len(asked)
    for row, shown in zip(asked, wrong, strict=True):  # the next scene that does not show the thing
        following = [(row + step) % 60 for step in range(1, 60)]
        assert shown == next(other for other in following if concepts[row] not in pairs.scenes[other].concepts)
    assert found["masked_word_wrong_image"]["value"] < 0.1


@torch.no_grad()
def test_a_guess_is_right_if_it_names_the_thing_and_chance_is_the_best_constant_answer(small_world, tokenizer):
    pairs = small_world.pairs("new_scenes", range(60))
    model, mlm = untrained(0), Guessing(TINY, untrained(0).language, 32)
    _, where, concepts = mask_names(tokenizer, pairs, 48)
    asked = [(concept, int(count)) for concept, count in zip(concepts, where.sum(1), strict=True) if concept >= 0]
    shown = [concept for concept, _ in asked]
    single = sorted({name[0] for c in set(shown) for name in told(small_world, tokenizer, c) if len(name) == 1})
    assert single
    values = []
    for always in single[:6]:
        mlm.know(model, tokenizer, pairs, always)
        found = masked_words(model, mlm, tokenizer, small_world, pairs)["masked_word_no_image"]
        hits = [(always,) * count in told(small_world, tokenizer, concept) for concept, count in asked]
        values.append(found["value"])
        assert found["value"] == pytest.approx(sum(hits) / len(hits))
        assert found["chance"] == pytest.approx(max(shown.count(concept) for concept in shown) / len(shown))
    assert max(values) > 0


def test_masked_words_of_an_untrained_model_are_near_zero(small_world, tokenizer):
    pairs = small_world.pairs("new_scenes", range(64))
    for seed in range(2):
        model = untrained(seed)
        found = masked_words(model, FusedMlm(TINY, model.language, 32), tokenizer, small_world, pairs)
        assert len({figure["chance"] for figure in found.values()}) == 1
        assert all(0 <= figure["value"] < 0.1 and 0 < figure["chance"] < 0.5 for figure in found.values())
        assert found["masked_word_true_image"] == found["masked_word_no_image"]  # its gates are shut
        assert found["masked_word_wrong_image"] == found["masked_word_no_image"]


@pytest.mark.parametrize("measure", ["alignment", "masked words"])
def test_a_context_too_short_for_any_name_is_measured_or_refused(small_world, tokenizer, measure):
    scenes = (small_world.scene("new_scenes", index) for index in range(400))
    late = [scene for scene in scenes if min(obj.span[0] for obj in scene.objects) > 12][:4]
    assert len(late) == 4
    pairs = Pairs(small_world.render(late), tuple(late))
    short = dataclasses.replace(TINY, language=dataclasses.replace(TINY.language, context_length=8))
    basic = Tokenizer.train(["x"], 260, tokenizer.data)  # a token a letter: six letters of each caption are left
    model = Clip(short)
    try:
        if measure == "alignment":
            figures = [alignment(model, basic, pairs)]
        else:
            mlm = FusedMlm(short, model.language, 32)
            figures = list(masked_words(model, mlm, basic, small_world, pairs).values())
    except LclError:
        return
    assert all(0 <= figure["value"] <= 1 for figure in figures)
