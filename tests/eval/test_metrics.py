"""Evaluation against brute force, clip_benchmark and scikit-learn; what chance gives, against a simulation."""

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from conftest import TINY, untrained
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ndcg_score, top_k_accuracy_score

from lcl.config import EvalConfig, LclError
from lcl.course.metrics import COLUMNS
from lcl.data.base import Samples
from lcl.data.drawn.captions import one
from lcl.data.drawn.foils import KINDS
from lcl.data.drawn.pictures import Concept
from lcl.data.scenes import SPLITS, Pairs
from lcl.eval import probes
from lcl.eval.metrics import (
    category_accuracy,
    class_embeddings,
    embed,
    embed_images,
    embed_texts,
    evaluate,
    evaluate_pairs,
    graded_retrieval,
    ndcg_at_k,
    neighbour_purity,
    relevance,
    top_k_accuracy,
)
from lcl.eval.probes import image_features, linear_probe
from lcl.eval.retrieval import ranks, recall_at_k, retrieval
from lcl.losses.masked_lm import FusedMlm

SMALL = EvalConfig(retrieval=64, views=2, gallery=96)


def random_scores(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def measured(small_world, tokenizer):
    """The figures of three untrained models."""
    return [evaluate(untrained(seed), tokenizer, small_world, SMALL) for seed in range(3)]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(0, 2**31), st.sampled_from([0, 1, 9]))
def test_ranks_and_recall_are_those_of_a_stable_sort(number, seed, decimals):
    similarity = random_scores(number, number, seed).round(decimals=decimals)  # few decimals: many ties
    order = np.argsort(-similarity.numpy(), axis=1, kind="stable")
    brute = [order[row].tolist().index(row) for row in range(number)]
    assert ranks(similarity).tolist() == brute
    for k in (1, 2, 5, 10):
        assert recall_at_k(similarity, k) == pytest.approx(sum(rank < k for rank in brute) / number)


@pytest.mark.parametrize("seed", range(4))
def test_recall_is_that_of_clip_benchmark(seed):
    v, t = F.normalize(random_scores(2 * 80, 16, seed).unflatten(0, (2, 80)), dim=-1)
    scores, own = t @ v.T, torch.eye(80, dtype=torch.bool)
    found = retrieval(v, t)
    for k in (1, 5, 10):
        for name, matrix in (("text_to_image", scores), ("image_to_text", scores.T)):
            peer = zeroshot_retrieval.batchify(zeroshot_retrieval.recall_at_k, matrix, own, 32, "cpu", k=k)
            assert found[f"{name}_recall@{k}"]["value"] == pytest.approx((peer > 0).double().mean().item())


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_top_k_accuracy_is_that_of_clip_benchmark_and_scikit_learn(seed, k, monkeypatch):
    # NumPy 2.4 refuses float(an array of one number), on which the peer relies: give it one that does not
    monkeypatch.setattr(zeroshot_classification, "float", lambda array: array.item(), raising=False)
    scores = random_scores(200, 12, seed)
    target = torch.randint(12, (200,), generator=torch.Generator().manual_seed(seed + 100))
    ours = top_k_accuracy(scores, F.one_hot(target, 12).bool(), k)
    assert ours["value"] == pytest.approx(zeroshot_classification.accuracy(scores, target, (k,))[0])
    assert ours["value"] == pytest.approx(top_k_accuracy_score(target, scores, k=k, labels=range(12)))
    assert ours["chance"] == pytest.approx(k / 12)


@pytest.mark.parametrize("columns", [4, 40])  # a sort of few values is stable by chance
def test_of_equal_scores_the_first_comes_first_in_top_k_and_in_ndcg(columns):
    scores = torch.randint(3, (50, columns), generator=torch.Generator().manual_seed(0)).double()
    right = F.one_hot(torch.randint(columns, (50,), generator=torch.Generator().manual_seed(1)), columns).bool()
    for k in (1, 5, 10):
        hits, gains = [], []
        for score, own in zip(scores.tolist(), right.int().argmax(1).tolist(), strict=True):
            rank = sorted(range(columns), key=lambda c: (-score[c], c)).index(own)  # noqa: B023
            hits.append(rank < k)
            gains.append(1 / math.log2(rank + 2) if rank < k else 0.0)
        assert top_k_accuracy(scores, right, k)["value"] == pytest.approx(sum(hits) / 50)
        assert ndcg_at_k(scores, right, k)["value"] == pytest.approx(sum(gains) / 50)


@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_chance_with_several_right_answers_is_what_random_scores_reach(k):
    right = torch.rand(300, 9, generator=torch.Generator().manual_seed(0)) < 0.2
    right[torch.arange(300), torch.arange(300) % 9] = True
    figures = [top_k_accuracy(random_scores(300, 9, seed), right, k) for seed in range(60)]
    mean = sum(figure["value"] for figure in figures) / len(figures)
    assert mean == pytest.approx(figures[0]["chance"], abs=4 * math.sqrt(0.25 / (300 * 60)))
    assert len({figure["chance"] for figure in figures}) == 1


def test_chance_of_retrieval_is_what_random_embeddings_reach():
    draws = [retrieval(random_scores(50, 8, seed), random_scores(50, 8, seed + 1000)) for seed in range(60)]
    for name, figure in draws[0].items():
        mean = sum(draw[name]["value"] for draw in draws) / len(draws)
        assert mean == pytest.approx(figure["chance"], abs=4 * math.sqrt(0.25 / (50 * 60)))


def test_chance_never_exceeds_one_among_few():
    found = retrieval(torch.eye(3), torch.eye(3))
    assert found["image_to_text_recall@1"]["chance"] == pytest.approx(1 / 3)
    assert found["image_to_text_recall@10"] == {"value": 1.0, "chance": 1.0, "queries": 3, "candidates": 3}


def test_of_equal_candidates_the_smaller_number_comes_first():
    assert ranks(torch.zeros(6, 6)).tolist() == [0, 1, 2, 3, 4, 5]
    same = F.normalize(torch.ones(20, 4), dim=-1)  # a collapsed model is no better than chance
    for figure in retrieval(same, same).values():
        assert figure["value"] == pytest.approx(figure["chance"])


def test_a_perfect_model_gets_everything_right_and_a_reversed_one_nothing():
    eye = torch.eye(30)
    assert {figure["value"] for figure in retrieval(eye, eye).values()} == {1.0}
    assert {figure["value"] for figure in retrieval(eye, -eye).values()} == {0.0}
    right = torch.rand(40, 7, generator=torch.Generator().manual_seed(1)) < 0.3
    right[:, 0] |= ~right.any(1)
    assert top_k_accuracy(right.double(), right, 1)["value"] == 1.0
    assert top_k_accuracy(-right[:, :3].double(), right[:, :3] & False, 1) == {"value": 0.0, "chance": 0.0}


def test_embeddings_do_not_depend_on_the_batch_size_or_on_the_mode_before(small_world, tokenizer):
    model, pairs = untrained(0), small_world.pairs("new_scenes", range(20))
    v, t = embed(model.train(), tokenizer, pairs)
    assert not model.training
    assert v.shape == t.shape == (20, 32) and v.device.type == "cpu"
    torch.testing.assert_close(v.norm(dim=1), torch.ones(20))
    torch.testing.assert_close(embed_images(model, pairs.images, 7), v, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embed_texts(model, tokenizer, pairs.captions, 7), t, rtol=1e-4, atol=1e-5)


def test_a_class_is_embedded_on_its_own_with_length_one(tokenizer):
    model = untrained(0)
    names = [
        Concept(name, (), "things", counted, (None,))
        for name, counted in (("wolf", True), ("rice", False), ("owl", True))
    ]
    classes = class_embeddings(model, tokenizer, names)
    assert classes.shape == (3, 32)
    torch.testing.assert_close(classes.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(class_embeddings(model, tokenizer, names[1:2])[0], classes[1], rtol=1e-4, atol=1e-5)


def test_a_prompt_names_a_thing_as_captions_do():
    assert one(Concept("owl", (), "things", True, (None,))) == "an owl"
    assert one(Concept("popcorn", (), "things", False, (None,))) == "popcorn"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_embeddings_that_are_no_numbers_are_refused_and_never_pass_for_perfect(bad):
    scores = torch.eye(4)
    scores[2, 1] = bad
    for measure in (lambda: recall_at_k(scores, 1), lambda: top_k_accuracy(scores, torch.eye(4).bool(), 1)):
        with pytest.raises(LclError, match="not finite"):
            measure()


def test_always_saying_the_largest_category_is_worth_no_more_than_chance(small_world, tokenizer):
    pairs = small_world.pairs("unseen_concepts", range(len(small_world.unseen)), single=True)
    blind = torch.nn.functional.normalize(torch.ones(len(pairs), 32), dim=1)  # sees the same in every picture
    figure = category_accuracy(untrained(0), tokenizer, small_world, blind, pairs)
    categories = {small_world.pictures.concepts[concept].category for concept in small_world.unseen}
    assert figure["value"] in (pytest.approx(0), pytest.approx(1 / len(categories)))


def test_pictures_that_lie_where_the_names_of_their_category_lie_are_all_right(small_world, tokenizer):
    model, concepts = untrained(0), small_world.pictures.concepts
    pairs = small_world.pairs("unseen_concepts", range(2 * len(small_world.unseen)), single=True)
    shown = [concepts[scene.objects[0].concept].category for scene in pairs.scenes]
    known = {category: [concepts[c] for c in small_world.known if concepts[c].category == category] for category in shown}
    v = torch.stack([class_embeddings(model, tokenizer, known[category]).mean(0) for category in shown])
    assert category_accuracy(model, tokenizer, small_world, v, pairs)["value"] == 1
    assert category_accuracy(model, tokenizer, small_world, -v, pairs)["value"] == 0


def test_every_split_but_train_is_measured_with_value_and_chance(measured):
    for figures in measured:
        assert list(figures) == [split for split in SPLITS if split != "train"]
        for split, found in figures.items():
            probes, aligned = {"probe_concept", "probe_category"}, {"alignment", "alignment_among_objects"}
            foils = {f"foil_{kind}{tail}" for kind in KINDS for tail in ("", "_no_image")}
            assert {"foil_object", "foil_background"} <= found.keys()  # of 64 scenes, some kinds may have none
            queries = {name for name in found if "recall@" in name and name.count("_") > 3}
            assert len(queries) == (4 + 1 + 7 if split == "new_scenes" else 0)
            assert queries <= COLUMNS.keys()
            assert found.keys() - queries - {"category_top1", *aligned, *probes, *foils} == {
                *(f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)),
                "image_to_text_ndcg@10", "text_to_image_ndcg@10", "zero_shot_top1", "zero_shot_top5",
            }  # fmt: skip
            assert aligned <= found.keys() and ("category_top1" in found) == (split == "unseen_concepts")
            assert probes & found.keys() == (set() if split == "unseen_pairs" else probes)  # which show one thing
            for figure in found.values():
                assert figure.keys() in ({"value", "chance"}, {"value", "chance", "queries", "candidates"})
                assert 0 <= figure["value"] <= 1 and 0 < figure["chance"] <= 1


def test_chance_counts_the_names_that_a_split_is_asked_for(measured, small_world):
    known, unseen = len(small_world.known), len(small_world.unseen)
    categories = len({small_world.pictures.concepts[concept].category for concept in small_world.known})
    assert len({known, unseen, categories}) == 3  # each chance below says which of them was counted
    for split in ("new_scenes", "unseen_drawings", "unseen_concepts"):
        names, found = unseen if split == "unseen_concepts" else known, measured[0][split]
        assert found["zero_shot_top1"]["chance"] == pytest.approx(1 / names)
        assert found["zero_shot_top5"]["chance"] == pytest.approx(min(5, names) / names)
        assert found["probe_category"]["chance"] == pytest.approx(1 / categories)
    assert measured[0]["unseen_concepts"]["category_top1"]["chance"] == pytest.approx(1 / categories)


def test_an_untrained_model_does_about_as_well_as_chance(measured):
    for split in measured[0]:
        for name in measured[0][split]:
            if name.startswith("probe_") or "_oracle" in name:
                continue  # a probe learns, and untrained features tell a red thing from a blue one; an oracle is no model
            values = [figures[split][name]["value"] for figures in measured]
            chance = measured[0][split][name]["chance"]
            few = name == "category_top1" or name.startswith("foil_")  # few things, and an untrained model likes the same few
            room = 0.35 if few else 0.15
            assert sum(values) / len(values) == pytest.approx(chance, abs=room), (split, name)


def test_measuring_twice_gives_the_same_bits(measured, small_world, tokenizer):
    assert evaluate(untrained(0), tokenizer, small_world, SMALL) == measured[0]


def test_masked_words_are_asked_for_where_something_can_guess_them(measured, small_world, tokenizer):
    model = untrained(0)
    extra = torch.nn.ModuleDict({"masked_language": FusedMlm(TINY, model.language, 32)})
    found = evaluate(model, tokenizer, small_world, SMALL, extra)
    for split, figures in found.items():
        names = {name for name in figures if name.startswith("masked_word_")}
        assert names == {"masked_word_true_image", "masked_word_no_image", "masked_word_wrong_image"}
        assert {name: figure for name, figure in figures.items() if name not in names} == measured[0][split]


# --- graded retrieval


@pytest.mark.parametrize("k", [1, 3, 10, 40])
@pytest.mark.parametrize("seed", range(3))
def test_ndcg_is_that_of_scikit_learn(seed, k):
    scores = random_scores(50, 30, seed)
    gains = torch.randint(0, 4, (50, 30), generator=torch.Generator().manual_seed(seed))
    gains[:, seed] += 1  # every row has something to find
    peer = ndcg_score(gains.numpy(), scores.numpy(), k=k, ignore_ties=True)
    assert ndcg_at_k(scores, gains, k)["value"] == pytest.approx(peer, rel=1e-9)


@settings(max_examples=30)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 10), st.integers(0, 2**31))
def test_ndcg_is_the_formula_summed_term_by_term(rows, columns, k, seed):
    scores = random_scores(rows, columns, seed).round(decimals=0)  # many ties
    gains = torch.randint(0, 3, (rows, columns), generator=torch.Generator().manual_seed(seed + 1))
    gains[0, 0] = 1
    found = []
    for score, gain in zip(scores.tolist(), gains.tolist(), strict=True):
        order = sorted(range(columns), key=lambda c: (-score[c], c))  # noqa: B023
        dcg = sum(gain[c] / math.log2(rank + 2) for rank, c in enumerate(order[:k]))
        best = sum(g / math.log2(rank + 2) for rank, g in enumerate(sorted(gain, reverse=True)[:k]))
        found += [dcg / best] if best else []
    assert ndcg_at_k(scores, gains, k)["value"] == pytest.approx(sum(found) / len(found))


@pytest.mark.parametrize("k", [1, 5, 30])
def test_chance_of_ndcg_is_what_random_orders_reach(k):
    gains = torch.randint(0, 4, (40, 12), generator=torch.Generator().manual_seed(0)) * (torch.arange(12) % 2)
    gains[:, 1] += 1
    figures = [ndcg_at_k(random_scores(40, 12, seed), gains, k) for seed in range(200)]
    values = torch.tensor([figure["value"] for figure in figures])
    assert len({figure["chance"] for figure in figures}) == 1
    room = 4 * values.std().item() / math.sqrt(200) + 1e-9
    assert values.mean().item() == pytest.approx(figures[0]["chance"], abs=room)


def test_the_best_order_reaches_one_and_rows_without_gain_do_not_count():
    gains = torch.tensor([[3, 1, 0, 2], [0, 0, 0, 0], [0, 0, 1, 0]])
    assert ndcg_at_k(gains.double(), gains, 3)["value"] == pytest.approx(1.0)
    assert ndcg_at_k(-gains.double(), gains, 1)["value"] == 0.0
    assert ndcg_at_k(gains.double(), gains, 3) == ndcg_at_k(gains[[0, 2]].double(), gains[[0, 2]], 3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_refused_by_ndcg(bad):
    scores = torch.eye(3)
    scores[0, 2] = bad
    with pytest.raises(LclError, match="not finite"):
        ndcg_at_k(scores, torch.eye(3), 2)


def test_relevance_is_the_number_of_concepts_that_two_scenes_share(small_world):
    scenes = [small_world.scene(split, index) for split in SPLITS for index in range(12)]
    shared = relevance(scenes)
    for i, one_scene in enumerate(scenes):
        for j, other in enumerate(scenes):
            assert shared[i, j] == len({t.concept for t in one_scene.objects} & {t.concept for t in other.objects})
    assert torch.equal(shared, shared.T) and (shared.diagonal() >= 1).all()


def test_graded_retrieval_counts_scenes_that_share_things_both_ways(small_world):
    scenes = [small_world.scene("new_scenes", index) for index in range(40)]
    shared = relevance(scenes)
    v, t = F.normalize(random_scores(80, 8, 0).unflatten(0, (2, 40)), dim=-1)
    found = graded_retrieval(v, t, scenes)
    for name, matrix in (("image_to_text", v @ t.T), ("text_to_image", t @ v.T)):
        peer = ndcg_score(shared.numpy(), matrix.numpy(), k=10, ignore_ties=True)
        assert found[f"{name}_ndcg@10"]["value"] == pytest.approx(peer)
        assert 0 < found[f"{name}_ndcg@10"]["chance"] < 1
    shows = torch.tensor([[float(c in scene.concepts) for c in small_world.known] for scene in scenes])
    ideal = graded_retrieval(shows, shows, scenes)  # who knows what a scene shows, orders by what is shared
    assert [figure["value"] for figure in ideal.values()] == [pytest.approx(1.0)] * 2
    assert {figure["value"] for figure in retrieval(shows, shows).values()} != {1.0}  # which recall does not see


# --- linear probes


PROBED = [split for split in SPLITS if split not in ("train", "unseen_pairs")]


class Labelled:
    """A world whose pictures of one thing are a code of what they show; it keeps which it was asked for."""

    def __init__(self, world, code):
        self.world, self.code, self.asked = world, code, []

    def __getattr__(self, name):
        return getattr(self.world, name)

    def pairs(self, split, indices, single):
        assert single
        self.asked.append((split, list(indices)))
        scenes = tuple(self.world.scene(split, index, single) for index in indices)
        return Pairs(torch.stack([self.code(scene.objects[0].concept) for scene in scenes]), scenes)


def categories_of(world, split: str) -> set[str]:
    return {world.pictures.concepts[concept].category for concept in world.concepts(split)}


@pytest.fixture
def reading(monkeypatch):
    """An image tower that says what stands in the picture."""
    monkeypatch.setattr(probes, "image_features", lambda model, images: images.float())


@pytest.mark.parametrize("split", PROBED)
def test_who_sees_the_concept_is_probed_to_know_it_and_of_known_ones_the_category(small_world, reading, split):
    number = len(small_world.pictures.concepts)
    found = linear_probe(None, Labelled(small_world, lambda c: torch.eye(number)[c]), split, 2)
    among = small_world.unseen if split == "unseen_concepts" else small_world.known  # even where a split shows but some
    assert found["probe_concept"] == {"value": 1.0, "chance": 1 / len(among)}
    assert found["probe_category"]["chance"] == 1 / len(categories_of(small_world, "train"))
    if split == "unseen_concepts":  # of these it saw no picture when it learned the categories
        assert found["probe_category"]["value"] == pytest.approx(1 / len(categories_of(small_world, split)))
    else:
        assert found["probe_category"]["value"] == 1.0


@pytest.mark.parametrize("split", PROBED)
def test_who_sees_the_category_knows_that_of_unseen_things_too_but_not_the_thing(small_world, reading, split):
    names = sorted(categories_of(small_world, "train"))
    see = lambda c: torch.eye(len(names))[names.index(small_world.pictures.concepts[c].category)]  # noqa: E731
    found = linear_probe(None, Labelled(small_world, see), split, 2)
    assert found["probe_category"]["value"] == 1.0 > found["probe_concept"]["value"]


@pytest.mark.parametrize("split", PROBED)
def test_who_sees_nothing_says_one_thing_always_and_that_is_worth_one_class_however_large(small_world, reading, split):
    found = linear_probe(None, Labelled(small_world, lambda c: torch.ones(3)), split, 2)
    assert found["probe_concept"]["value"] in (0, pytest.approx(1 / len(small_world.concepts(split))))
    assert found["probe_category"]["value"] in (0, pytest.approx(1 / len(categories_of(small_world, split))))


@pytest.mark.parametrize("split", PROBED)
def test_chance_of_a_probe_is_what_features_of_nothing_reach(small_world, reading, split):
    draws = []
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        world = Labelled(small_world, lambda c, g=generator: torch.randn(3, generator=g))
        draws.append(linear_probe(None, world, split, 2))
    for name in ("probe_concept", "probe_category"):
        values = torch.tensor([figures[name]["value"] for figures in draws])
        room = 4 * values.std().item() / math.sqrt(len(draws))
        assert values.mean().item() == pytest.approx(draws[0][name]["chance"], abs=room)
        assert len({figures[name]["chance"] for figures in draws}) == 1


@pytest.mark.parametrize("split", PROBED)
def test_a_probe_is_asked_what_zero_shot_is_asked_and_learns_from_other_pictures(small_world, reading, split):
    world = Labelled(small_world, lambda c: torch.ones(3))
    linear_probe(None, world, split, 2)
    number, seen = len(small_world.concepts(split)), set()
    asked = [(split, index) for index in range(2 * number)]
    assert ([split] * len(asked), list(range(2 * number))) == ([world.asked[0][0]] * len(asked), world.asked[0][1])
    for name, indices in world.asked[1:]:
        assert name == "train" or split == name == "unseen_concepts"
        assert len(indices) == probes.PROBE_VIEWS * len(small_world.concepts(name))
        seen |= {(name, index) for index in indices}
    assert seen.isdisjoint(asked)
    assert {name for name, _ in seen} == {"train"} | ({split} if split == "unseen_concepts" else set())


def test_a_world_of_one_category_as_of_ones_own_drawings_is_probed_too(small_world, reading, monkeypatch):
    plain = [dataclasses.replace(concept, category="things") for concept in small_world.pictures.concepts]
    pictures = dataclasses.replace(small_world.pictures, concepts=plain)
    monkeypatch.setattr(small_world, "pictures", pictures)
    found = linear_probe(None, Labelled(small_world, lambda c: torch.eye(len(plain))[c]), "new_scenes", 2)
    assert found["probe_concept"]["value"] == 1.0
    assert found.get("probe_category", {"value": 1.0})["value"] == 1.0


def slow_probe(learned, labels, asked, right) -> float:
    """A probe by hand: standardise, learn, and take the mean over what there is of the share that is right."""
    mean, deviation = learned.mean(0), learned.std(0)
    deviation[deviation == 0] = 1
    guess = LogisticRegression(max_iter=1000, class_weight="balanced").fit((learned - mean) / deviation, labels)
    guesses, shares = guess.predict((asked - mean) / deviation), []
    for label in sorted(set(right)):
        of_this = [guessed == label for guessed, shown in zip(guesses, right, strict=True) if shown == label]
        shares.append(sum(of_this) / len(of_this))
    return sum(shares) / len(shares)


@torch.no_grad()
def test_a_probe_is_a_classifier_of_the_towers_pooled_features(small_world):
    model = untrained(0)
    found = linear_probe(model, small_world, "new_scenes", 2)
    looks = {}
    for split, views in (("train", probes.PROBE_VIEWS), ("new_scenes", 2)):
        pairs = small_world.pairs(split, range(32 * views), single=True)
        concepts = [scene.objects[0].concept for scene in pairs.scenes]
        features = model.eval().vision(pairs.images).pooled.double().numpy()
        looks[split] = features, concepts, [small_world.pictures.concepts[c].category for c in concepts]
    (learned, *labels), (asked, *right) = looks["train"], looks["new_scenes"]
    for figure, known, wanted in zip(found.values(), labels, right, strict=True):
        assert figure["value"] == pytest.approx(slow_probe(learned, known, asked, wanted), abs=0.02)
        assert figure["value"] > figure["chance"]  # colours alone tell something


@torch.no_grad()
def test_image_features_are_what_the_tower_pools_whatever_the_batch_and_the_mode_before(small_world):
    model, images = untrained(0), small_world.pairs("new_scenes", range(20)).images
    found = image_features(model.train(), images)
    assert not model.training and found.shape == (20, model.vision.width) and found.device.type == "cpu"
    torch.testing.assert_close(found, model.vision(images).pooled)
    torch.testing.assert_close(image_features(model, images, 7), found, rtol=1e-4, atol=1e-5)


class View:
    """A dataset view that gives these samples, whatever rows it is asked for."""

    def __init__(self, images: torch.Tensor, rows: list[int]):
        self.samples = Samples(images[rows], [(f"caption {row}",) for row in rows], rows)

    def __len__(self) -> int:
        return len(self.samples)

    def take(self, rows) -> Samples:
        return self.samples


def test_pairs_that_cannot_be_read_are_left_out_with_a_warning_and_whole_ones_without(tokenizer, caplog):
    images = torch.randint(256, (6, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    readable = evaluate_pairs(untrained(0), tokenizer, View(images[[0, 1, 3, 4]], [0, 1, 2, 3]))
    assert caplog.text == "" and readable["image_to_text_recall@1"]["queries"] == 4
    found = evaluate_pairs(untrained(0), tokenizer, View(images, [0, 1, 3, 3, 4, 0]))  # pairs 2 and 5 are replaced
    assert "2 of 6 pairs to evaluate on cannot be read" in caplog.text
    assert found["image_to_text_recall@5"]["queries"] == found["text_to_image_recall@1"]["candidates"] == 4


def test_measuring_says_nothing_on_the_side(small_world, tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(untrained(1), tokenizer, small_world, SMALL)


# --- the purity of neighbours


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_purity_is_the_mean_share_of_a_scenes_things_that_its_neighbours_show(small_world, seed, k):
    scenes = [small_world.scene(split, index) for split in SPLITS for index in range(9)]
    number, generator = len(scenes), torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randperm(number - 1, generator=generator)[:k] for _ in range(number)])
    indices += indices >= torch.arange(number)[:, None]  # none is his own neighbour
    share = lambda i, j: len(scenes[i].concepts & scenes[j].concepts) / len(scenes[i].concepts)  # noqa: E731
    found = [share(i, j) for i in range(number) for j in indices[i].tolist()]
    random = [share(i, j) for i in range(number) for j in range(number) if i != j]
    wanted = {"value": sum(found) / len(found), "chance": sum(random) / len(random)}
    assert neighbour_purity(scenes, indices) == pytest.approx(wanted)


def test_neighbours_that_show_the_same_things_are_pure_and_those_that_share_nothing_are_not(small_world):
    first = [small_world.scene("train", index) for index in range(20)]
    twins = torch.arange(40).roll(20)[:, None]
    assert neighbour_purity(first * 2, twins)["value"] == 1.0 > neighbour_purity(first * 2, twins)["chance"]
    apart = {scene.objects[0].concept: scene for scene in (small_world.scene("train", i, single=True) for i in range(8))}
    assert len(apart) == 8
    found = neighbour_purity([*apart.values()], torch.arange(8).roll(1)[:, None])
    assert found == {"value": 0.0, "chance": 0.0}
