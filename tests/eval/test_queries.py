"""Retrieval query by query: an oracle, numbers of objects, a larger gallery and saved ranks, against slow loops."""

import dataclasses
import math
from fractions import Fraction

import pytest
import torch
from conftest import untrained

from lcl import storage
from lcl.config import EvalConfig, LclError
from lcl.data.duplicates import caption_key
from lcl.data.scenes import Pairs
from lcl.eval.metrics import embed_candidates, embed_images, embed_texts, evaluate, evaluate_queries
from lcl.eval.queries import (
    QueryRanks,
    gallery_retrieval,
    object_oracle,
    rank_queries,
    read_ranks,
    recall_by_objects,
    write_ranks,
)
from lcl.eval.retrieval import candidates, retrieval

ORACLE = "image_to_text_recall@1_object_oracle"


def new_scenes(world, *indices: int) -> Pairs:
    return world.pairs("new_scenes", indices)


def objects_of(scene) -> list[int]:
    return sorted(obj.concept for obj in scene.objects)


@pytest.fixture(scope="module")
def many(small_world) -> Pairs:
    """Scenes of few classes, two of them twice: many show the same objects."""
    return new_scenes(small_world, *range(300), 7, 19)


@pytest.mark.slow
@pytest.mark.parametrize(("world", "wanted"), [(1, 0.919), (2, 0.9254)], indirect=["world"])
def test_among_a_thousand_scenes_the_objects_alone_tell_nearly_nine_in_ten(world, wanted):
    scenes = tuple(world.scene("new_scenes", index) for index in range(1000))
    pictures = torch.arange(1000)[:, None, None, None] // torch.tensor([1, 256, 1])[:, None, None] % 256  # all differ
    found = candidates(Pairs(pictures.to(torch.uint8), scenes))
    agree, right = {}, {}  # the captions of equal objects, and of equal facts
    for scene in scenes:
        agree.setdefault(tuple(objects_of(scene)), set()).add(caption_key(scene.caption))
        right.setdefault(scene.facts, set()).add(caption_key(scene.caption))
    value = sum(Fraction(len(right[scene.facts]), len(agree[tuple(objects_of(scene))])) for scene in scenes) / 1000
    metric = object_oracle(scenes, found)[ORACLE]
    assert metric["queries"] == 1000 and metric["value"] == pytest.approx(float(value))
    assert metric["value"] == pytest.approx(wanted, abs=5e-4)


def test_the_oracle_guesses_among_the_captions_of_equal_objects(many):
    found, values = candidates(many), []
    assert len(found.rows) == 300 and len(found.captions) <= 300  # the copies are no queries
    owner = {int(caption): many.scenes[row] for row, caption in reversed([*enumerate(found.caption)])}
    for row in found.rows:
        agree = [caption for caption in owner if objects_of(owner[caption]) == objects_of(many.scenes[row])]
        right = [each for each in agree if owner[each].facts == many.scenes[row].facts]
        values.append(len(right) / len(agree))
    assert 0.2 < sum(values) / 300 < 0.9  # neither of both ends, at which a mistake could hide
    metric = object_oracle(many.scenes, found)[ORACLE]
    assert metric["value"] == pytest.approx(sum(values) / 300)
    assert metric["chance"] == retrieval(torch.ones(300, 2), torch.ones(len(found.captions), 2), found.right)[
        "image_to_text_recall@1"]["chance"]  # fmt: skip
    assert (metric["queries"], metric["candidates"]) == (300, len(found.captions))


def test_a_model_that_sees_objects_alone_reaches_what_the_oracle_says(many):
    found, generator = candidates(many), torch.Generator().manual_seed(0)
    reached = []
    for _ in range(40):
        names = {}
        one = lambda scene: names.setdefault(tuple(objects_of(scene)), len(names))  # noqa: B023, E731
        kinds = [one(scene) for scene in many.scenes]
        v = torch.eye(len(names))[[kinds[row] for row in found.rows]]
        t = torch.zeros(len(found.captions), len(names))
        t[found.caption, kinds] = 1
        order = torch.randperm(len(t), generator=generator)  # so that ties are guessed
        reached.append(retrieval(v, t[order], found.right[:, order])["image_to_text_recall@1"]["value"])
    room = 4 * torch.tensor(reached).std().item() / math.sqrt(40)
    assert sum(reached) / 40 == pytest.approx(object_oracle(many.scenes, found)[ORACLE]["value"], abs=room)


def test_counts_tell_pictures_apart_and_so_they_do_for_the_oracle(small_world):
    scene = next(each for each in new_scenes(small_world, *range(60)).scenes if len(each.objects) == 1)
    two = dataclasses.replace(scene, objects=scene.objects * 2, caption="two of them", facts=frozenset({"two"}))
    pairs = Pairs(torch.arange(2, dtype=torch.uint8)[:, None, None, None].expand(2, 3, 64, 64), (scene, two))
    assert object_oracle(pairs.scenes, candidates(pairs))[ORACLE]["value"] == 1.0


def test_recall_by_number_of_objects_is_that_of_a_loop_and_adds_up(many):
    found = candidates(many)
    v, t = (torch.randn(len(each), 8, generator=torch.Generator().manual_seed(5)) for each in (found.rows, found.captions))
    v[:150] = t[found.caption[:150]]  # half of them are right
    ranked, metrics = rank_queries(v, t, many, found), {}
    for place, row in enumerate(found.rows):
        best = max(range(len(t)), key=lambda caption: (v[place] @ t[caption]).item())
        key = f"image_to_text_recall@1_objects{len(many.scenes[row].objects)}"
        metrics.setdefault(key, []).append(bool(found.right[place, best]))
    measured = recall_by_objects(ranked.image_to_text, many.scenes, found)
    assert measured.keys() == metrics.keys() == {f"image_to_text_recall@1_objects{number}" for number in (1, 2, 3, 4)}
    for name, hits in metrics.items():
        assert measured[name]["value"] == pytest.approx(sum(hits) / len(hits)) and measured[name]["queries"] == len(hits)
        assert measured[name]["candidates"] == len(found.captions) and 0 < measured[name]["chance"] < 0.02
    whole = retrieval(v, t, found.right)["image_to_text_recall@1"]
    for key in ("value", "chance"):
        assert sum(each[key] * each["queries"] for each in measured.values()) / 300 == pytest.approx(whole[key])


def test_a_gallery_is_what_is_ranked_if_all_is_embedded_at_once(small_world, tokenizer):
    model = untrained(0)
    pairs, more = new_scenes(small_world, *range(40)), new_scenes(small_world, *range(40, 90), 3)  # one again
    every = new_scenes(small_world, *range(90), 3)
    found, first = candidates(every), candidates(pairs)
    v, t = embed_candidates(model, tokenizer, pairs, first)
    measured = gallery_retrieval(
        pairs, more, v, t, lambda images: embed_images(model, images), lambda texts: embed_texts(model, tokenizer, texts)
    )
    wanted = retrieval(*embed_candidates(model, tokenizer, every, found), found.right) | object_oracle(every.scenes, found)
    assert measured == {f"{name}_gallery": metric for name, metric in wanted.items()}
    assert measured["image_to_text_recall@1_gallery"]["queries"] == 90


@pytest.mark.slow
def test_an_evaluation_ranks_among_a_gallery_only_if_it_is_larger(small_world, tokenizer):
    model = untrained(0)
    config = EvalConfig(retrieval=24, views=1, gallery=50)
    metrics, ranked = evaluate_queries(model, tokenizer, small_world, config)
    more = {name for name in metrics["new_scenes"] if "gallery" in name}
    images, captions = (
        {metrics["new_scenes"][name]["queries"] for name in more if name.startswith(way)} for way in ("image", "text")
    )
    assert len(more) == 7 and images == {50} and captions <= {49, 50}  # equal captions are one query
    others = [name for split, found in metrics.items() if split != "new_scenes" for name in found]
    assert not any("gallery" in name or "recall@1_object" in name for name in others)
    for way in ("image_to_text", "text_to_image"):
        share = (getattr(ranked, way) < 5).double().mean().item()
        assert share == metrics["new_scenes"][f"{way}_recall@5"]["value"]
    same = evaluate(model, tokenizer, small_world, dataclasses.replace(config, gallery=24))
    assert same == {split: {n: m for n, m in each.items() if "gallery" not in n} for split, each in metrics.items()}


def test_ranks_come_back_from_a_file(tmp_path):
    ranked = QueryRanks("abc", torch.tensor([0, 3, 1]), torch.tensor([2, 0]))
    write_ranks(tmp_path / "ranks.safetensors", ranked)
    found = read_ranks(tmp_path / "ranks.safetensors")
    assert found.queries == "abc"
    assert torch.equal(found.image_to_text, ranked.image_to_text) and torch.equal(found.text_to_image, ranked.text_to_image)
    storage.write_tensors(tmp_path / "other.safetensors", {"weights": torch.ones(2)})
    with pytest.raises(LclError, match="does not hold the ranks of queries"):
        read_ranks(tmp_path / "other.safetensors")
    with pytest.raises(LclError, match="does not exist"):
        read_ranks(tmp_path / "none.safetensors")


def test_other_queries_or_other_right_answers_have_another_fingerprint(small_world):
    pairs = new_scenes(small_world, *range(20))

    def queries(pairs: Pairs, **changes) -> str:
        found = dataclasses.replace(candidates(pairs), **changes)
        return rank_queries(torch.ones(len(found.rows), 2), torch.ones(len(found.captions), 2), pairs, found).queries

    assert queries(pairs) == queries(new_scenes(small_world, *range(20)))
    painted, right = pairs.images.clone(), candidates(pairs).right.clone()
    painted[4, 0, 0, 0] ^= 1
    right[0, 5] = True
    words = tuple(dataclasses.replace(scene, caption=scene.caption + " now") for scene in pairs.scenes)
    others = [
        queries(new_scenes(small_world, *range(1, 21))), queries(new_scenes(small_world, *range(19))),
        queries(Pairs(painted, pairs.scenes)), queries(Pairs(pairs.images, words)), queries(pairs, right=right),
    ]  # fmt: skip
    assert len({queries(pairs), *others}) == 6
