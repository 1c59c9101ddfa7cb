"""Planned runs: read if they can be compared, refused with the reason if not, and named in a sentence if they are missing."""

import copy

import pytest

from lcl import storage
from lcl.config import LclError
from lcl.course import planned
from lcl.course.planned import compare, missing, points, read_arms

I2T, NDCG, ZERO, PROBE = "image_to_text_recall@1", "image_to_text_ndcg@10", "zero_shot_top1", "probe_concept"
RELATION = "foil_relation"


def run_of(recall: float, **other) -> dict:
    metrics = {I2T: {"value": recall, "chance": 0.001}, RELATION: {"value": 0.5, "chance": 0.5}}
    return {
        "seed": 0, "steps": 10, "data": "d", "queries": "q", "provenance": {"code": "c"}, "metrics": {"new_scenes": metrics},
    } | other  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(planned, "FOLDER", tmp_path)
    return tmp_path


def keep(folder, arm: str, run: object) -> None:
    storage.write_json(folder / f"{planned.stem_of(arm)}-laptop-seed0.json", run)


def test_arms_are_read_in_the_order_asked_and_those_without_a_run_are_named(folder):
    keep(folder, "clip", run_of(0.7))
    keep(folder, "clip, 10 epochs", run_of(0.8))
    arms = ["clip, 10 epochs", "siglip", "clip", "clip+distil"]
    runs = read_arms(arms)
    assert list(runs) == ["clip, 10 epochs", "clip"]
    sentence = missing(arms, runs)
    assert sentence.startswith("No run of siglip and clip+distil is saved in results/planned/ yet; ")
    assert '--only "siglip" --seed 0' in sentence and missing(["clip"], runs) == ""
    assert points(runs, "clip, 10 epochs", "clip", I2T) == pytest.approx(10)


def test_a_table_has_a_row_per_arm_a_dash_where_nothing_was_measured_and_chance_last(folder):
    lacking = run_of(0.8)
    del lacking["metrics"]["new_scenes"][RELATION]
    keep(folder, "clip", run_of(0.7))
    keep(folder, "siglip", lacking)
    assert compare(read_arms(["siglip", "clip"]), [I2T, RELATION]) == [
        ["new_scenes, seed 0", "image→text R@1", "foil, relation"], ["siglip", "80.0", "–"], ["clip", "70.0", "50.0"],
        ["chance", "0.1", "50.0"],
    ]  # fmt: skip


def test_without_any_run_the_table_is_its_header_and_all_arms_are_missing(folder):
    runs = read_arms(["clip", "siglip"])
    assert compare(runs, [I2T]) == [["new_scenes", "image→text R@1"]]
    assert missing(["clip", "siglip"], runs).startswith("No run of clip and siglip is saved")
    with pytest.raises(LclError, match="recall@2"):
        compare(runs, ["recall@2"])
    with pytest.raises(LclError, match="no arm with a saved run 'clip'"):
        points(runs, "clip", "siglip", I2T)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": "e"}, "another data set"),
        ({"queries": "r"}, "another set of test queries"),
        ({"steps": 11}, "another number of steps"),
        ({"provenance": {"code": "d"}}, "another code"),
        ({"metrics": {}}, "another set of splits"),
        ({"seed": 1}, "holds a run of seed 1"),
    ],
    ids=str,
)
def test_a_run_that_differs_in_more_than_its_arm_is_refused(folder, change, said):
    keep(folder, "clip", run_of(0.7))
    keep(folder, "siglip", run_of(0.7, **change))
    with pytest.raises(LclError, match=f"siglip-laptop-seed0.json.*{said}.*train it anew"):
        read_arms(["clip", "siglip"])


@pytest.mark.parametrize("run", [[], {}, {"metrics": 3}, run_of(0.7) | {"provenance": None}], ids=str)
def test_a_damaged_run_is_refused(folder, run):
    keep(folder, "clip", copy.deepcopy(run))
    with pytest.raises(LclError, match="damaged"):
        read_arms(["clip"])


ARMS = ["clip", "clip-ping", "clip+distil", "clip-ping+shuffled", "clip-ping+oracle", "clip-ping+constant", "siglip"]


def wrong_claims(runs: dict[str, dict]) -> list[str]:
    """Which sentences of chapter 10 these runs do not bear."""

    def above(arm: str, metric: str, over: str = "clip") -> float:
        return points(runs, arm, over, metric)

    relations = [100 * run["metrics"]["new_scenes"][RELATION]["value"] for run in runs.values()]
    claims = {
        "distillation reaches the whole gain in recall@1":
            above("clip-ping", I2T) > 10 and above("clip+distil", I2T) >= 0.95 * above("clip-ping", I2T),
        "zero-shot accuracy is about the same": abs(above("clip-ping", ZERO, "clip+distil")) < 2,
        "slightly ahead of distillation in nDCG@10 and in the linear probe":
            all(0 < above("clip-ping", metric, "clip+distil") < 6 for metric in (NDCG, PROBE)),
        "of shuffled nothing rises by more than about a point, and recall falls a little":
            all(above("clip-ping+shuffled", metric) < 1.5 for metric in (I2T, NDCG, ZERO, PROBE))
            and -5 < above("clip-ping+shuffled", I2T) < 0,
        "neighbours by true objects are clearly the highest":
            all(above("clip-ping+oracle", metric, arm) > 3
                for metric in (NDCG, ZERO, PROBE) for arm in ARMS if arm != "clip-ping+oracle"),
        "but their recall is that of clip-ping": abs(above("clip-ping+oracle", I2T, "clip-ping")) < 2,
        "with a constant weight most of the recall gain is lost": above("clip-ping+constant", I2T) < above("clip-ping", I2T) / 2,
        "zero-shot and probe keep most of theirs":
            all(above("clip-ping+constant", metric) > above("clip-ping", metric) / 2 for metric in (ZERO, PROBE)),
        "relations stay within a few points of chance": all(abs(value - 50) < 6 for value in relations),
        "siglip stands near clip in retrieval": all(abs(above("siglip", metric)) < 3 for metric in (I2T, NDCG)),
    }  # fmt: skip
    return [claim for claim, holds in claims.items() if not holds]


def test_what_chapter_10_says_of_the_arms_is_so():
    runs = read_arms(ARMS)
    if lacking := missing(ARMS, runs):
        pytest.skip(lacking)
    assert wrong_claims(runs) == []


def test_other_results_would_contradict_chapter_10():
    """Arms that are all alike bear few of its sentences, so the test above can fail."""
    alike = run_of(0.7)
    for metric in (NDCG, ZERO, PROBE):
        alike["metrics"]["new_scenes"][metric] = {"value": 0.6, "chance": 0.01}
    found = wrong_claims(dict.fromkeys(ARMS, alike))
    assert len(found) >= 5 and "distillation reaches the whole gain in recall@1" in found
