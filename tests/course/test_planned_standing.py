"""Which saved runs of a plan count: those that fit it and each other. All others are named with the reason."""

import math

import pytest
from made_plan import PLAN, keep, made_run

from lcl import storage
from lcl.course.planned import standing, with_entries

RECALL = "image_to_text_recall@1"


def seeds_of(found, arm="clip"):
    return list(found.runs[arm])


def test_runs_that_fit_the_plan_count_and_missing_ones_are_no_fault(tmp_path):
    for seed in (2, 0, 4):
        keep(tmp_path, "clip", made_run("clip", seed, 0.7))
    found = standing(PLAN, tmp_path)
    assert seeds_of(found) == [0, 2, 4] and found.runs["siglip"] == {} and found.left_out == []
    assert found.made == {"code": "c", "data": "d", "torch": "2.11.0", "queries": "q"}
    assert standing(PLAN, tmp_path / "nowhere").runs["clip"] == {} == standing(PLAN, tmp_path / "nowhere").made


def changed(run, path, value):
    *outer, last = path
    for key in outer:
        run = run[key]
    run[last] = value


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("provenance", "code"), "x", "other code x, not c"),
        (("data",), "x", "other data x, not d"),
        (("provenance", "packages", "torch"), "2.12.0", "other torch 2.12.0, not 2.11.0"),
        (("told",), ["--profile", "laptop"], "other options than `--profile laptop --recipe clip --seed 1"),
        (("steps",), 512, "ended after 512 of 1,024 steps"),
        (("seed",), 3, "holds a run of seed 3"),
        (("metrics", "new_scenes", "zero_shot_top1", "value"), math.nan, "zero_shot_top1 on new_scenes is nan"),
        (("metrics", "new_scenes", "zero_shot_top1", "value"), 57.3, "zero_shot_top1 on new_scenes is 57.3"),
        (("metrics", "new_scenes", RECALL, "value"), 0.9, "ranks of another run"),
        (("metrics", "new_scenes"), {}, "does not say its image_to_text_recall@1 and text_to_image_recall@1"),
        (("queries",), None, "does not say its queries"),
        (("metrics",), 3, "damaged"),
        (("provenance",), None, "damaged"),
        (("profile",), {}, "damaged"),
    ],
    ids=str,
)
def test_a_run_that_does_not_fit_is_named_and_left_out(tmp_path, path, value, said):
    for seed in range(3):
        run = made_run("clip", seed, 0.7)
        keep(tmp_path, "clip", run)
        if seed == 1:
            changed(run, path, value)
            storage.write_json(tmp_path / "clip-laptop-seed1.json", run)
    found = standing(PLAN, tmp_path)
    assert seeds_of(found) == [0, 2]
    assert (
        len(found.left_out) == 1
        and found.left_out[0].startswith("`clip-laptop-seed1.json`: ")
        and said in found.left_out[0]
    )


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"seed": 0}', "\x00"], ids=repr)
def test_damaged_json_is_named_and_left_out(tmp_path, text):
    keep(tmp_path, "clip", made_run("clip", 1, 0.7))
    (tmp_path / "clip-laptop-seed0.json").write_text(text)
    found = standing(PLAN, tmp_path)
    assert seeds_of(found) == [1] and found.left_out[0].startswith("`clip-laptop-seed0.json`: it is ")
    assert str(tmp_path) not in found.left_out[0]


def test_a_run_without_ranks_and_a_file_of_no_arm_are_named(tmp_path):
    keep(tmp_path, "clip", made_run("clip", 0, 0.7))
    (tmp_path / "clip-laptop-seed0.safetensors").unlink()
    storage.write_json(tmp_path / "mine-laptop-seed0.json", {})
    found = standing(PLAN, tmp_path)
    assert found.left_out == [
        "`clip-laptop-seed0.json`: its file of ranks does not exist",
        "`mine-laptop-seed0.json`: it belongs to no arm and seed of the plan",
    ]


def test_of_equally_many_runs_of_two_codes_those_made_first_count(tmp_path):
    for seed, code in ((0, "new"), (1, "old"), (2, "new"), (3, "old")):
        run = made_run("clip", seed, 0.7)
        run["provenance"] |= {"code": code, "made": f"2026-0{2 if code == 'new' else 1}-0{seed + 1}"}
        keep(tmp_path, "clip", run)
    found = standing(PLAN, tmp_path)
    assert found.made["code"] == "old" and seeds_of(found) == [1, 3]
    assert [reason.split(": ")[1] for reason in found.left_out] == ["it was made with other code new, not old"] * 2


def entry(folder, name, **change):
    arms = {name: {"recipe": "clip", "options": ["--learning-rate", "1e-3"], "seeds": [0, 1]}}
    given = {"profile": PLAN["profile"], "options": PLAN["options"], "arms": arms} | change
    storage.write_json(folder / f"{name}.json", given)


def test_an_entry_adds_its_arms_and_never_decides_which_code_counts(tmp_path):
    entry(tmp_path, "mine")
    merged, refused = with_entries(PLAN, tmp_path)
    assert list(merged["arms"]) == [*PLAN["arms"], "mine"] and merged["entries"] == {"mine": "mine.json"} and refused == {}
    runs = tmp_path / "runs"
    keep(runs, "clip", made_run("clip", 0, 0.7))
    for seed in (0, 1):
        run = made_run("mine", seed, 0.9, merged)
        run["provenance"]["code"] = "other"
        keep(runs, "mine", run)
    found = standing(merged, runs)
    assert seeds_of(found) == [0] and seeds_of(found, "mine") == [] and len(found.left_out) == 2
    assert with_entries(PLAN, tmp_path / "nowhere") == (PLAN | {"entries": {}}, {})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"options": []}, "its options must be ['--scenes-version', '2'], as in the plan, not []"),
        ({"profile": "smoke"}, "its profile must be 'laptop'"),
        ({"arms": {"clip": {}}}, "the arm 'clip' is taken"),
        ({"arms": {"clip-12-epochs": {}}}, "the arm 'clip-12-epochs' is taken"),
        ({"arms": {"../x": {}}}, "'../x' is no name for a file"),
        ({"arms": {"x": {"recipe": "clip-pnig", "options": [], "seeds": [0]}}}, "no recipe 'clip-pnig'"),
        ({"arms": {"x": {"recipe": "clip", "options": [], "seeds": ["0"]}}}, "'x' needs seeds and options"),
        ({"arms": {"x": {"recipe": "clip", "options": [], "seeds": []}}}, "'x' needs seeds and options"),
        ({"arms": []}, "damaged"),
        ({"arms": {"x": 3}}, "damaged"),
    ],
    ids=str,
)
def test_an_entry_that_is_no_fair_row_is_refused_with_a_sentence(tmp_path, change, said):
    entry(tmp_path, "mine", **change)
    merged, refused = with_entries(PLAN, tmp_path)
    assert merged["arms"] == PLAN["arms"]
    assert list(refused) == ["mine.json"] and said in refused["mine.json"]
