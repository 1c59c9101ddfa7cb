"""Metrics in percent: levels over seeds, means of several metrics, and seeds in words."""

import pytest
from made_plan import made_run

from lcl.config import LclError
from lcl.course.metrics import COLUMNS, NAMES, PARTS, level, score, seeds_in_words

RECALL = "image_to_text_recall@1"


def test_a_score_is_the_mean_of_its_parts_in_percent_or_none():
    run = made_run("clip", 0, 0.7)
    run["metrics"]["new_scenes"][RECALL]["value"] = 0.9
    run["metrics"]["new_scenes"]["foil_count"]["value"] = 1.0
    assert score(run, "recall@1") == pytest.approx(80) and score(run, "foils") == pytest.approx(60)
    assert score(run, "zero_shot_top1") == 50 and score(run, "recall@1", what="chance") == pytest.approx(1)
    del run["metrics"]["new_scenes"]["foil_count"]
    assert score(run, "foils") is None and score(run, "alignment") is None
    with pytest.raises(LclError, match="no split 'new_scene'; did you mean new_scenes"):
        score(run, "recall@1", "new_scene")


def test_mean_and_spread_are_those_of_the_seeds():
    runs = [made_run("clip", seed, recall) for seed, recall in enumerate((0.5, 0.7, 0.6))]
    found = level(runs, RECALL)
    assert (found.mean, found.spread) == pytest.approx((60, 10)) and str(found) == "60.0 ± 10.0"
    assert str(level(runs[:1], RECALL)) == "50.0"  # of one seed there is no spread
    assert level(runs, "alignment") is None


def test_a_metric_that_only_some_seeds_have_is_not_averaged():
    runs = [made_run("clip", seed, 0.5) for seed in range(3)]
    runs[0]["metrics"]["new_scenes"]["alignment"] = {"value": 0.5, "chance": 0.1}
    assert level(runs, "alignment") is None


def test_seeds_are_said_in_words():
    assert [seeds_in_words(seeds) for seeds in ({0, 1, 2}, {3}, {0, 2})] == ["seeds 0 to 2", "seed 3", "seeds 0, 2"]


def test_every_metric_has_a_name_and_means_are_of_metrics_that_there_are():
    assert set(COLUMNS) | set(PARTS) == set(NAMES) and not set(COLUMNS) & set(PARTS)
    assert {part for parts in PARTS.values() for part in parts} <= set(COLUMNS)
