"""The study by the number of pairs: equal steps and one epoch are kept apart, and equal lengths are compared."""

import pytest
from made_plan import PLAN, keep, made_run

import sizes
from lcl import storage
from lcl.config import LclError
from lcl.course.planned import standing
from lcl.course.study import FOLDER
from sizes import EPOCH, EQUAL, ONCE


def arm(recipe, pairs, epochs, seeds=(0, 1, 2)):
    return {"recipe": recipe, "options": ["--pairs", str(pairs), "--epochs", str(epochs)], "seeds": list(seeds), "hours": 0.1}


SMALL = PLAN | {"arms": PLAN["arms"] | {
    "clip, 64k": arm("clip", 65536, 2), "clip, 128k": arm("clip", 131072, 1), "clip, 64k once": arm("clip", 65536, 1),
    "clip-ping, 128k": arm("clip-ping", 131072, 1), "clip-ping, 64k": arm("clip-ping", 65536, 2),
}}  # fmt: skip


def test_arms_are_found_by_their_options_and_those_of_other_lengths_left_out():
    found = sizes.arms_by_size(SMALL)
    assert found["clip"] == {
        EQUAL: {16384: "clip", 65536: "clip, 64k", 131072: "clip, 128k"}, EPOCH: {65536: "clip, 64k once", 131072: "clip, 128k"},
    }  # fmt: skip
    assert found["clip-ping"][EQUAL] == {16384: "clip-ping", 65536: "clip-ping, 64k", 131072: "clip-ping, 128k"}
    assert found.keys() == {"clip", "clip-ping"}  # siglip has one size


def test_the_largest_sizes_may_have_another_precision_and_its_control_is_no_size():
    brief = {
        "clip, bfloat16": {"recipe": "clip", "options": ["--precision", "bfloat16"], "seeds": [0], "hours": 0.1},
        "clip, 1M": arm("clip", 1_048_576, 1) | {"options": ["--pairs", "1048576", "--epochs", "1", "--precision", "bfloat16"]},
    }
    found = sizes.arms_by_size(SMALL | {"arms": SMALL["arms"] | brief})["clip"]
    assert (found[EQUAL][16384], found[EPOCH][1_048_576]) == ("clip", "clip, 1M")


def test_an_entry_with_an_option_without_a_value_is_left_out_like_other_entries():
    flag = {"mine": {"recipe": "clip", "options": ["--activation-checkpointing"], "seeds": [0], "hours": 0.1}}
    plan = SMALL | {"arms": SMALL["arms"] | flag, "entries": {"mine": "mine.json"}}
    assert sizes.arms_by_size(plan) == sizes.arms_by_size(SMALL)


def test_two_arms_for_one_point_are_refused_and_named():
    brief = arm("clip", 65536, 2) | {"options": ["--pairs", "65536", "--epochs", "2", "--precision", "bfloat16"]}
    with pytest.raises(LclError, match="clip, 64k and clip, 64k brief would be one point"):
        sizes.arms_by_size(SMALL | {"arms": SMALL["arms"] | {"clip, 64k brief": brief}})


def test_steps_are_those_of_clip_with_the_same_pairs_again_or_with_more_pairs_once():
    longer = {"clip, once": arm("clip", 16384, 1), "clip, long": arm("clip", 16384, 16), "other": arm("clip-ping", 16384, 16)}
    found = sizes.arms_by_steps(SMALL | {"arms": SMALL["arms"] | longer})
    assert found == {
        "16,384 pairs, seen again and again": {128: "clip, once", 1024: "clip", 1536: "clip, 12 epochs", 2048: "clip, long"},
        ONCE: {128: "clip, once", 512: "clip, 64k once", 1024: "clip, 128k"},
    }


def test_points_by_steps_have_all_seeds_and_know_their_precision(tmp_path):
    for seed in (0, 1):
        run = made_run("clip", seed, 0.5 + seed / 10, SMALL)
        run["profile"]["training"]["precision"] = "bfloat16"
        keep(tmp_path, "clip", run)
    found = standing(SMALL, tmp_path)
    again = "16,384 pairs, seen again and again"
    assert sizes.levels_by_steps(found, "recall@1", "new_scenes") == {again: {1024: pytest.approx([50, 60])}, ONCE: {}}
    assert sizes.levels_by_steps(found, "alignment", "new_scenes") == {again: {}, ONCE: {}}  # not measured
    assert sizes.bfloat16_steps(found) == {(again, 1024)}


def test_the_plan_has_long_runs_with_few_pairs_beside_those_with_many():
    again, once = sizes.arms_by_steps(storage.read_json(FOLDER / "plan.json")).values()
    assert again.keys() & once.keys() == {128, 1024, 2048, 25600}


def test_the_plan_has_every_size_of_the_question_for_three_recipes():
    found = sizes.arms_by_size(storage.read_json(FOLDER / "plan.json"))
    for recipe in ("clip", "clip+distil", "clip-ping+distil"):
        assert list(found[recipe][EQUAL]) == [4096, 16384, 65536, 131072]
        assert list(found[recipe][EPOCH]) == [4096, 16384, 65536, 131072, 262144, 1048576, 3276800]


def test_gains_compare_equal_pairs_and_steps_over_the_seeds_of_both(tmp_path):
    def made(name, seed, recall):
        run = made_run(name, seed, recall, SMALL)
        told = dict(zip(SMALL["arms"][name]["options"][::2], SMALL["arms"][name]["options"][1::2], strict=True))
        run["profile"]["training"]["pairs"] = int(told.get("--pairs", 16384))
        run["steps"] = run["profile"]["training"]["epochs"] * run["profile"]["training"]["pairs"] // 128
        keep(tmp_path, name, run)

    for seed, more in enumerate((0.1, 0.2, 0.15)):
        made("clip", seed, 0.5)
        made("clip-ping", seed, 0.5 + more)
    made("clip, 128k", 0, 0.6)
    made("clip-ping, 128k", 0, 0.7)
    made("clip-ping, 64k", 1, 0.7)  # clip has no such run
    found = standing(SMALL, tmp_path)
    assert not found.wrong
    gains = sizes.gains_by_size(found, "recall@1")
    assert gains.keys() == {"clip-ping"} and gains["clip-ping"].keys() == {EQUAL, EPOCH}
    assert gains["clip-ping"][EQUAL].keys() == {16384, 131072} and gains["clip-ping"][EPOCH].keys() == {131072}
    whole, single = gains["clip-ping"][EQUAL].values()
    assert whole.mean == pytest.approx(15) and whole.low < 15 < whole.high
    assert single.mean == single.low == single.high == pytest.approx(10)
    with pytest.raises(LclError, match="No run of one epoch is there yet"):
        sizes.curves(found)  # none of these has kept its validation steps
    longest = found.runs["clip, 128k"][0]
    longest["looks"] = [[64, 2.0, 0.1, 0.3], [1024, 1.0, 0.5, 0.7]]
    longest["profile"]["training"]["batch_size"] = 128
    assert sizes.curves(found) == {"clip": ([8192, 131072], [pytest.approx(20), pytest.approx(60)])}
    longest["profile"]["training"]["precision"] = "bfloat16"
    assert sizes.bfloat16_sizes(found) == {("clip", EQUAL, 131072), ("clip", EPOCH, 131072)}
    levels = sizes.levels_by_size(found, "recall@1")
    assert levels["clip-ping"][EQUAL][65536] == [pytest.approx(70)] and EPOCH in levels["clip"]
