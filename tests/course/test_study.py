"""What counts as a study: whole, of one code, one data set and one torch; and how far one recipe is above another."""

import json
import logging
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from lcl.config import LclError
from lcl.course import study
from lcl.course.study import (
    Gain,
    Study,
    comparison,
    gain,
    gain_of,
    gains,
    level,
    read_study,
    recall_gain,
    saved_runs,
    seeds_in_words,
    short,
    standing,
    values,
    whole,
    write_study,
)

I2T = "image_to_text_recall@1"
KEPT = read_study()


def run_of(seed: int, recall: float, code: str | None = "c0de", torch: str = "2", **changes) -> dict:
    figures = {I2T: {"value": recall, "chance": 0.001}}
    made = {"code": code, "packages": {"torch": torch}}
    same = {"profile": {}, "recipe": {"name": "clip"}, "data": "d", "steps": 4, "provenance": made}
    return same | {"seed": seed, "metrics": {"new_scenes": figures}} | changes


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A study of two stems and three seeds each, of which nothing is there yet."""
    monkeypatch.setattr(study, "FOLDER", tmp_path)
    write_study(Study("c0de", "d", "2", {"clip-laptop": [0, 1, 2], "lightclip-laptop": [0, 1, 2]}))
    return tmp_path


def keep(folder: Path, stem: str, *runs: dict) -> None:
    for run in runs:
        (folder / f"{stem}-seed{run['seed']}.json").write_text(json.dumps(run), encoding="utf-8")


def keep_both(folder: Path) -> None:
    keep(folder, "clip-laptop", *(run_of(seed, recall) for seed, recall in enumerate((0.5, 0.7, 0.6))))
    keep(folder, "lightclip-laptop", *(run_of(seed, recall) for seed, recall in enumerate((0.6, 0.75, 0.69))))


def test_mean_and_spread_are_those_of_the_seeds(folder):
    keep_both(folder)
    assert values(["clip-laptop"], I2T) == [pytest.approx([50, 70, 60])]
    found = level(saved_runs("clip-laptop"), "new_scenes", I2T)
    assert (found.mean, found.spread) == pytest.approx((60, 10)) and str(found) == "60.0 ± 10.0"
    assert str(level(saved_runs("clip-laptop")[:1], "new_scenes", I2T)) == "50.0"  # of one seed there is no spread
    assert level(saved_runs("clip-laptop"), "new_scenes", "alignment") is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"code": "0ther"}, "seed 1 of other code 0ther, not c0de"),
        ({"code": None}, "seed 1 of other code None, not c0de"),
        ({"data": "e"}, "seed 1 of other data e, not d"),
        ({"torch": "3"}, "seed 1 of other torch 3, not 2"),
        ({"profile": {"name": "x"}}, "seed 1 differs from seed 0 in more than the seed"),
        ({"recipe": {"name": "x"}}, "seed 1 differs from seed 0 in more than the seed"),
        ({"steps": 5}, "seed 1 differs from seed 0 in more than the seed"),
        ({"provenance": {}}, "seed 1 damaged, in clip-laptop-seed1.json"),
        ({"metrics": None}, "seed 1 damaged, in clip-laptop-seed1.json"),
        ({"metrics": {}}, "seed 1 differs from seed 0 in more than the seed: metrics"),
        ({"metrics": {"new_scenes": {}}}, "seed 1 differs from seed 0 in more than the seed: metrics"),
        ({"teacher": {"images": "other"}}, "seed 1 differs from seed 0 in more than the seed: teacher"),
        ({"queries": "0ther"}, "seed 1 differs from seed 0 in more than the seed: queries"),
        ({"provenance": {"code": "c0de", "packages": {"torch": "2", "timm": "0"}}}, "in more than the seed: packages"),
    ],
)
def test_a_mixed_study_is_named_and_left_out(folder, caplog, change, reason):
    keep_both(folder)
    keep(folder, "clip-laptop", run_of(1, 0.7, **change))
    runs, wrong = standing("clip-laptop")
    assert runs == [] and wrong.startswith("clip-laptop: ") and reason in wrong
    with pytest.raises(LclError, match="only whole sets of runs are averaged: clip-laptop: .*`make results`"):
        saved_runs("clip-laptop")
    with caplog.at_level(logging.WARNING):
        assert [*whole(["clip-laptop", "lightclip-laptop"])] == ["lightclip-laptop"]
        assert comparison(["clip-laptop", "lightclip-laptop"], [I2T])[0] == ["new_scenes, seeds 0 to 2", "lightclip", "chance"]
    assert reason in caplog.text
    with pytest.raises(LclError, match="not whole"):
        gains(["lightclip-laptop"], "clip-laptop", [I2T])


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"code": "0ther"}, "lightclip-laptop: seed 0 of other code"),
        ({"data": "another world"}, "lightclip-laptop: seed 0 of other data"),
        ({"queries": "others"}, "-laptop, .*-laptop were evaluated on different queries"),
    ],
)
def test_recipes_of_two_codes_worlds_or_query_sets_are_not_compared(folder, change, refused):
    keep(folder, "clip-laptop", *(run_of(seed, 0.5, queries="some") for seed in range(3)))
    keep(folder, "lightclip-laptop", *(run_of(seed, 0.6 + seed / 9, **{"queries": "some"} | change) for seed in range(3)))
    with pytest.raises(LclError, match=refused):
        values(["clip-laptop", "lightclip-laptop"], I2T)
    with pytest.raises(LclError, match=refused):
        gain("lightclip-laptop", "clip-laptop", I2T)
    if "queries" in change:  # these runs are whole, and still no table puts them side by side
        for table in (lambda: comparison(["clip-laptop", "lightclip-laptop"], [I2T]),
                      lambda: gains(["lightclip-laptop"], "clip-laptop", [I2T])):  # fmt: skip
            with pytest.raises(LclError, match=refused):
                table()
    keep(folder, "lightclip-laptop", *(run_of(seed, 0.6 + seed / 9, queries="some") for seed in range(3)))
    assert gain("lightclip-laptop", "clip-laptop", I2T).seeds == 3


def test_a_study_that_was_stopped_half_way_is_named_and_left_out(folder):
    keep_both(folder)
    for seed in (0, 2):
        (folder / f"clip-laptop-seed{seed}.json").unlink()
    assert standing("clip-laptop") == ([], "clip-laptop: seed 0 and 2 missing")
    (folder / "clip-laptop-seed1.json").unlink()
    (folder / "lightclip-laptop-seed1.json").unlink()
    with pytest.raises(LclError, match="clip-laptop: seed 0 and 1 and 2 missing / lightclip-laptop: seed 1 missing"):
        whole(["clip-laptop", "lightclip-laptop"])


def test_what_there_is_not_is_said_in_a_sentence(folder):
    keep_both(folder)
    with pytest.raises(LclError, match="no split 'new_scene'; did you mean new_scenes"):
        gain("lightclip-laptop", "clip-laptop", I2T, "new_scene")
    for table in (comparison, lambda stems, figures: gains(stems, "clip-laptop", figures)):
        with pytest.raises(LclError, match="no metric 'image_to_text_recall@2'; did you mean"):
            table(["lightclip-laptop"], ["image_to_text_recall@2"])


def test_half_a_file_is_a_damaged_run(folder):
    keep_both(folder)
    (folder / "clip-laptop-seed2.json").write_text('{"seed": 2, "met')
    assert standing("clip-laptop") == ([], "clip-laptop: seed 2 damaged, in clip-laptop-seed2.json")


def test_a_gain_of_recall_is_that_of_the_mean_of_both_ways(folder):
    for stem, ways in (("clip-laptop", ((0.5, 0.3), (0.7, 0.5))), ("lightclip-laptop", ((0.6, 0.5), (0.7, 0.7)))):
        for seed, (there, back) in enumerate(ways):
            run = run_of(seed, there)
            run["metrics"]["new_scenes"]["text_to_image_recall@1"] = {"value": back, "chance": 0.001}
            keep(folder, stem, run)
    write_study(Study("c0de", "d", "2", {"clip-laptop": [0, 1], "lightclip-laptop": [0, 1]}))
    assert recall_gain("lightclip-laptop", "clip-laptop") == gain_of([55, 70], [40, 60])


def test_a_gain_of_one_seed_is_a_dash_in_a_table(folder):
    keep_both(folder)
    write_study(Study("c0de", "d", "2", {"clip-laptop": [0, 1, 2], "lightclip-laptop": [1]}))
    assert gains(["lightclip-laptop"], "clip-laptop", [I2T])[1] == ["lightclip", "1", "–"]
    with pytest.raises(LclError, match="lightclip-laptop and clip-laptop have fewer than two seeds in common"):
        gain("lightclip-laptop", "clip-laptop", I2T)


def test_a_run_under_anothers_name_is_seen(folder):
    keep_both(folder)
    (folder / "clip-laptop-seed1.json").write_text(json.dumps(run_of(2, 0.6)), encoding="utf-8")
    assert "seed 1 holds a run of seed 2" in standing("clip-laptop")[1]


def test_what_the_study_never_asked_for_is_not_read(folder):
    keep_both(folder)
    keep(folder, "clip-laptop", run_of(3, 0.1))
    assert [run["seed"] for run in saved_runs("clip-laptop")] == [0, 1, 2]
    with pytest.raises(LclError, match="no stem in the study 'clip-pong'"):
        saved_runs("clip-pong")


def test_the_same_torch_for_another_processor_is_the_same_torch(folder):
    keep_both(folder)
    keep(folder, "clip-laptop", run_of(1, 0.7, torch="2+cpu"))
    assert len(saved_runs("clip-laptop")) == 3


def test_a_figure_that_only_some_seeds_have_is_not_averaged(folder):
    keep_both(folder)
    runs = saved_runs("clip-laptop")
    runs[0]["metrics"]["new_scenes"]["alignment"] = {"value": 0.5, "chance": 0.1}
    assert level(runs, "new_scenes", "alignment") is None


def test_differences_without_spread_make_no_interval(folder):
    found = gain_of([2.0, 3.0], [1.0, 2.0])
    assert found.low == found.mean == found.high == 1.0 and found.sign == 0
    assert str(found) == "+1.0 (no interval: equal differences)"
    found = gain_of([100 * 0.57, 100 * 0.07], [100 * 0.5, 0.0])  # 7 and 7.000000000000007
    assert found.low == found.high and found.sign == 0


def test_on_which_side_of_zero_an_interval_ends_can_be_seen():
    assert str(Gain(1.6, 0.012, 3.2, 3)) == "+1.60 (+0.01 to +3.20)"
    assert str(Gain(-1.6, -3.2, -0.04, 3)) == "-1.60 (-3.20 to -0.04)"
    assert str(Gain(4.7, -0.001, 9.3, 3)) == "+4.700 (-0.001 to +9.300)"
    assert str(Gain(4.7, 0.004, 9.3, 3)) == "+4.700 (+0.004 to +9.300)"
    assert str(Gain(4.7, 0.0, 9.3, 3)) == "+4.7 (+0.0 to +9.3)"
    assert str(Gain(4.7, -0.1, 9.3, 3)) == "+4.7 (-0.1 to +9.3)"


def test_a_damaged_first_run_does_not_blame_the_others(folder):
    keep_both(folder)
    (folder / "clip-laptop-seed0.json").write_text("{}")
    assert standing("clip-laptop")[1] == "clip-laptop: seed 0 damaged, in clip-laptop-seed0.json"


def test_a_first_run_that_does_not_fit_does_not_blame_the_others(folder):
    keep_both(folder)
    keep(folder, "clip-laptop", run_of(0, 0.5, code="0ther"))
    assert standing("clip-laptop")[1] == "clip-laptop: seed 0 of other code 0ther, not c0de"


def test_without_a_manifest_there_is_no_study(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "FOLDER", tmp_path)
    with pytest.raises(LclError, match="holds no study.*`make results`"):
        saved_runs("clip-laptop")


def test_a_gain_is_that_of_equal_seeds(folder):
    keep_both(folder)
    write_study(Study("c0de", "d", "2", {"clip-laptop": [0, 1, 2], "lightclip-laptop": [0, 1, 2, 3]}))
    keep(folder, "lightclip-laptop", run_of(3, 0.01))  # clip has no such seed
    found = gain("lightclip-laptop", "clip-laptop", I2T)
    assert found.seeds == 3 and found.mean == pytest.approx((10 + 5 + 9) / 3)
    assert gains(["lightclip-laptop"], "clip-laptop", [I2T, "alignment"]) == [
        ["new_scenes, above clip", "seeds", "image→text R@1", "alignment"], ["lightclip", "3", str(found), "–"]
    ]  # fmt: skip
    assert str(found) == "+8.0 (+1.4 to +14.6)" and found.sign == 1
    assert gain("clip-laptop", "lightclip-laptop", I2T).sign == -1
    fewer = gain("lightclip-laptop", "clip-laptop", I2T, without=[0])
    assert fewer.seeds == 2 and fewer.mean == pytest.approx((5 + 9) / 2) and fewer.sign == 0
    with pytest.raises(LclError, match="alignment was not measured on new_scenes"):
        gain("lightclip-laptop", "clip-laptop", "alignment")


@given(st.lists(st.tuples(*[st.floats(-100, 100)] * 2), min_size=2, max_size=8))
def test_the_interval_is_students(pairs):
    """Beside the formula of any textbook: mean ± t · s / √n."""
    ours, theirs = zip(*pairs, strict=True)
    found, number = gain_of(ours, theirs), len(pairs)
    differences = [a - b for a, b in pairs]
    middle = sum(differences) / number
    spread = (sum((d - middle) ** 2 for d in differences) / (number - 1)) ** 0.5
    half = t.ppf(0.975, number - 1) * spread / number**0.5
    assert (found.mean, found.low, found.high) == pytest.approx((middle, middle - half, middle + half), abs=1e-6)


def test_seeds_and_stems_are_said_in_words():
    assert [seeds_in_words(seeds) for seeds in ({0, 1, 2}, {3}, {0, 2})] == ["seeds 0 to 2", "seed 3", "seeds 0, 2"]
    assert short("clip-ping-laptop") == "clip-ping" and short("clip-laptop-vit") == "clip, vit"


@pytest.mark.parametrize("stem", KEPT.seeds)
def test_the_kept_runs_are_of_their_recipe_and_of_their_seeds(stem):
    runs = saved_runs(stem)
    assert [run["seed"] for run in runs] == KEPT.seeds[stem] and len(runs) >= (1 if "-rate" in stem else 3)
    assert {run["recipe"]["name"] for run in runs} == {stem.split("-laptop")[0]}
    assert len({run["last_loss"] for run in runs}) == len(runs)


@pytest.mark.parametrize("stem", KEPT.seeds)
def test_every_run_was_given_the_same_data_and_steps_as_clip_and_differs_in_what_its_name_says(stem):
    first, run = (saved_runs(name)[0] for name in ("clip-laptop", stem))
    rest = stem.partition("-laptop")[2].removeprefix("-")
    kind = re.fullmatch(r"(vit|longer|4k|64k|rate|depth|)([\d.e-]*)", rest)
    what, number = kind[1], float(kind[2] or 0)
    changes = {
        "4k": {"pairs": 4096, "epochs": 32}, "64k": {"pairs": 65_536, "epochs": 2}, "longer": {"epochs": 13},
        "rate": {"learning_rate": number}, "depth": {"epochs": 4},
    }.get(what, {})  # fmt: skip
    assert run["profile"]["training"] == first["profile"]["training"] | changes | {"recipe": run["recipe"]["name"]}
    assert run["steps"] * 8 == first["steps"] * {"depth": 4, "longer": 13}.get(what, 8)
    for part in ("scenes", "evaluation"):
        assert run["profile"][part] == first["profile"][part]
    vision, language = (first["profile"]["model"][tower] for tower in ("vision", "language"))
    vit = {"tower": "vit", "width": 192, "depth": 4, "heads": 3} if what == "vit" else {}
    assert run["profile"]["model"]["vision"] == vision | vit
    assert run["profile"]["model"]["language"] == language | ({"depth": int(number)} if what == "depth" else {})


def test_nothing_lies_in_results_that_the_study_does_not_name():
    named = {f"{stem}-seed{seed}.json" for stem, seeds in KEPT.seeds.items() for seed in seeds}
    assert {path.name for path in study.FOLDER.glob("*-seed*.json")} == named


def test_recipes_are_put_beside_each_other_by_the_seeds_that_all_have(folder):
    keep_both(folder)
    write_study(Study("c0de", "d", "2", {"clip-laptop": [0, 1, 2], "lightclip-laptop": [1, 2, 3], "ping-laptop": [4]}))
    keep(folder, "lightclip-laptop", run_of(3, 0.01))
    assert values(["clip-laptop", "lightclip-laptop"], I2T) == [pytest.approx([70, 60]), pytest.approx([75, 69])]
    assert comparison(["clip-laptop", "lightclip-laptop"], [I2T])[0][0] == "new_scenes, seeds 1 to 2"
    keep(folder, "ping-laptop", run_of(4, 0.5))
    with pytest.raises(LclError, match="clip-laptop, ping-laptop have no seed in common"):
        values(["clip-laptop", "ping-laptop"], I2T)
