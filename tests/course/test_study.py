"""The study: arms are compared by the seeds that both have; what is missing or does not fit is named and left out."""

import json
import logging

import numpy as np
import pytest
import torch
from made_plan import PLAN, SEEDS, keep, made_run

from lcl import storage
from lcl.config import LclError, get_profile, to_dict
from lcl.course import study
from lcl.course.metrics import RECALL, as_text
from lcl.course.statistics import crossed_gain, gain_of
from lcl.course.study import (
    comparison,
    gain,
    gains,
    missing,
    query_gain,
    read_study,
    saved_ranks,
    saved_runs,
    shared,
    there,
    values,
)
from lcl.eval.queries import QueryRanks, write_ranks
from lcl.train.recipes import get_recipe
from tables import as_markdown

I2T = RECALL[0]
CLIP, PING = (0.5, 0.7, 0.6), (0.6, 0.75, 0.69)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A study whose arms `clip` and `clip-ping` have three runs each."""
    monkeypatch.setattr(study, "FOLDER", tmp_path)
    storage.write_json(tmp_path / "plan.json", PLAN)
    for arm, recalls in (("clip", CLIP), ("clip-ping", PING)):
        for seed, recall in enumerate(recalls):
            keep(tmp_path / "planned", arm, made_run(arm, seed, recall))
    return tmp_path


def test_values_are_of_the_seeds_that_all_arms_have(folder):
    assert values(["clip"], I2T) == [pytest.approx([50, 70, 60])]
    keep(folder / "planned", "clip-ping", made_run("clip-ping", 4, 0.01))  # clip has no such seed
    assert values(["clip", "clip-ping"], I2T) == [pytest.approx([50, 70, 60]), pytest.approx([60, 75, 69])]
    assert values(["clip"], I2T, without=[0]) == [pytest.approx([70, 60])]
    keep(folder / "planned", "siglip", made_run("siglip", 3, 0.5))
    with pytest.raises(LclError, match="clip, siglip have no seed in common"):
        values(["clip", "siglip"], I2T)


def test_a_gain_is_that_of_equal_seeds(folder):
    found = gain("clip-ping", "clip", I2T)
    assert found == gain_of([60, 75, 69], [50, 70, 60]) and str(found) == "+8.0 (+1.4 to +14.6)" and found.sign == 1
    assert gain("clip", "clip-ping", I2T).sign == -1
    fewer = gain("clip-ping", "clip", I2T, without=[0])
    assert fewer.seeds == 2 and fewer.mean == pytest.approx((5 + 9) / 2) and fewer.sign == 0
    with pytest.raises(LclError, match="alignment was not measured on new_scenes by clip-ping and clip"):
        gain("clip-ping", "clip", "alignment")


def test_a_metric_that_is_the_mean_of_others_is_compared_like_any(folder):
    run = made_run("clip-ping", 0, 0.6)
    run["metrics"]["new_scenes"]["text_to_image_recall@1"]["value"] = 0.4
    keep(folder / "planned", "clip-ping", run)
    assert values(["clip-ping"], "recall@1")[0] == pytest.approx([50, 75, 69])
    assert comparison(["clip"], ["recall@1", "foils"])[1:] == [
        ["recall@1", "60.0 ± 10.0", "1.0"], ["foils", "50.0 ± 0.0", "1.0"],
    ]  # fmt: skip


def test_a_comparison_uses_the_seeds_that_all_share_or_all_seeds_of_each(folder):
    keep(folder / "planned", "clip", made_run("clip", 3, 0.9))
    assert comparison(["clip", "clip-ping"], ["recall@1"])[0] == ["new_scenes, seeds 0 to 2", "clip", "clip-ping", "chance"]
    assert comparison(["clip", "clip-ping"], ["recall@1"], own_seeds=True) == [
        ["new_scenes", "clip", "clip-ping", "chance"],
        ["seeds", "4", "3", "–"],
        ["recall@1", "67.5 ± 17.1", "68.0 ± 7.5", "1.0"],
    ]


def test_a_table_of_gains_has_no_interval_for_a_single_seed_and_a_dash_for_what_was_not_measured(folder):
    keep(folder / "planned", "siglip", made_run("siglip", 1, 0.7))
    assert gains(["clip-ping", "siglip"], "clip", [I2T, "alignment"]) == [
        ["new_scenes, above clip", "seeds", "image→text R@1", "alignment"],
        ["clip-ping", "3", "+8.0 (+1.4 to +14.6)", "–"], ["siglip", "1", "+0.0", "–"],
    ]  # fmt: skip
    with pytest.raises(LclError, match="siglip and clip have fewer than two seeds in common"):
        gain("siglip", "clip", I2T)


def test_arms_without_a_run_are_named_and_left_out(folder, caplog):
    asked = ["clip, 12 epochs", "clip", "siglip"]
    sentence = missing(asked)
    assert sentence.startswith("No run of clip, 12 epochs and siglip is saved in results/planned/ yet; ")
    assert '`python tools/study.py --plan results/plan.json --only "clip, 12 epochs" --seed 0`' in sentence
    assert missing(["clip"]) == ""
    assert '--seed 7`' in missing(["clip, rate 1e-3"])  # its only seed
    with caplog.at_level(logging.WARNING):
        assert comparison(asked, [I2T])[0] == ["new_scenes, seeds 0 to 2", "clip", "chance"]
    assert sentence in caplog.text
    refused = lambda: saved_runs("siglip"), lambda: gains(["clip"], "siglip", [I2T]), lambda: comparison(["siglip"], [I2T])
    for lacking in refused:
        with pytest.raises(LclError, match="siglip"):
            lacking()


def test_a_run_that_does_not_fit_is_named_and_left_out(folder, caplog):
    run = made_run("clip-ping", 1, 0.75)
    run["provenance"]["code"] = "0ther"
    keep(folder / "planned", "clip-ping", run)
    with caplog.at_level(logging.WARNING):
        assert comparison(["clip", "clip-ping"], [I2T])[0] == ["new_scenes, seeds 0, 2", "clip", "clip-ping", "chance"]
    assert "left out, clip-ping-laptop-seed1.json: it was made with other code 0ther, not c" in caplog.text
    caplog.clear()
    assert len(saved_runs("clip")) == 3 and "left out" not in caplog.text  # of arms that nobody asked for nothing is said


def test_what_there_is_not_is_said_in_a_sentence(folder):
    with pytest.raises(LclError, match="no split 'new_scene'; did you mean new_scenes"):
        gain("clip-ping", "clip", I2T, "new_scene")
    with pytest.raises(LclError, match="no arm of the study 'clip-pong'; did you mean"):
        saved_runs("clip-pong")
    for table in (comparison, lambda arms, metrics: gains(arms, "clip", metrics), lambda arms, metrics: values(arms, metrics[0])):
        with pytest.raises(LclError, match="no metric 'image_to_text_recall@2'; did you mean"):
            table(["clip-ping"], ["image_to_text_recall@2"])
    with pytest.raises(LclError, match="none of these runs measured alignment on new_scenes"):
        comparison(["clip"], ["alignment"])


def test_a_file_that_changed_is_read_anew(folder):
    first = read_study()
    assert read_study() is first  # reading all takes seconds
    keep(folder / "planned", "clip", made_run("clip", 1, 0.9))
    assert values(["clip"], I2T)[0][1] == pytest.approx(90)
    (folder / "planned" / "clip-laptop-seed2.json").unlink()
    assert [run["seed"] for run in saved_runs("clip")] == [0, 1]
    storage.write_json(folder / "plan.json", PLAN | {"arms": {name: PLAN["arms"][name] for name in ("clip", "siglip")}})
    assert list(read_study().runs) == ["clip", "siglip"]


def test_without_a_plan_there_is_no_study(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "FOLDER", tmp_path)
    with pytest.raises(LclError, match="holds no study: there is no plan.json; `make results`"):
        saved_runs("clip")
    storage.write_json(tmp_path / "plan.json", PLAN)
    with pytest.raises(LclError, match="No run of clip is saved"):
        saved_runs("clip")


def test_a_metric_that_one_arm_lacks_is_a_dash_in_a_comparison(folder):
    run = made_run("siglip", 0, 0.5)
    run["metrics"]["new_scenes"]["alignment"] = {"value": 0.8, "chance": 0.1}
    keep(folder / "planned", "siglip", run)
    rows = comparison(["clip", "siglip"], ["zero_shot_top1", "alignment"])
    assert rows == [
        ["new_scenes, seed 0", "clip", "siglip", "chance"], ["zero-shot top-1", "50.0", "50.0", "1.0"],
        ["alignment", "–", "80.0", "10.0"],
    ]  # fmt: skip
    assert len({len(line) for line in as_text(rows).splitlines()}) == 1
    assert as_markdown(rows).splitlines()[1] == "|---|---:|---:|---:|"


@pytest.mark.parametrize(("cells", "words"), [
    (["2 of 3 primary comparisons supported", "7 of 15 runs"], True), (["`61be4dc2`", "`a1be0000`"], True), (["", "–"], False),
    (["3 of 5", "5 of 5"], False), (["71.4 ± 2.3", "–"], False), (["-5.0 (-7.2 to -2.8): significantly lower"], False),
    (["752 pairs/s", "1,027 problems/s"], False), (["< 0.001", "1.000"], False), (["+1.4 (+0.8 to +1.9)"], False),
    (["67.1; -3.0", "85.8 ± 1.0; +15.5 (+12.9 to +18.0)"], False), (["1.7", "one", "two"], True),
    (["16.18 (15.93 to 16.39)"], False),
])  # fmt: skip
def test_columns_of_words_stand_to_the_left_and_those_of_numbers_to_the_right(cells, words):
    assert as_markdown([["a", "b"], *(["x", cell] for cell in cells)]).splitlines()[1] == ("|---|---|" if words else "|---|---:|")


# --- ranks of queries


@pytest.fixture
def ranked(folder):
    """The ranks of 40 queries of two arms: {(arm, seed): ranks from image to text}."""
    random, made = np.random.default_rng(3), {}
    for arm, most in (("clip", 3), ("clip-ping", 2)):
        for seed in range(3):
            ranks = made[arm, seed] = random.integers(0, most, 40)
            run = made_run(arm, seed, float((ranks < 1).mean()))
            keep(folder / "planned", arm, run)
            write_ranks(
                folder / "planned" / f"{arm}-laptop-seed{seed}.safetensors",
                QueryRanks("q", torch.from_numpy(ranks), torch.from_numpy(np.roll(ranks, 1))),
            )
    return made


def test_saved_ranks_become_a_crossed_gain(ranked):
    for k in (1, 2):
        ours, theirs = (np.stack([100.0 * (ranked[arm, seed] < k) for seed in range(3)]) for arm in ("clip-ping", "clip"))
        assert query_gain("clip-ping", "clip", k=k) == crossed_gain(ours, theirs)
        assert query_gain("clip-ping", "clip", "text_to_image", k).mean == pytest.approx((ours - theirs).mean())
    assert query_gain("clip-ping", "clip").mean > 0  # of two ranks the first is more frequent than of three
    assert saved_ranks("clip", saved_runs("clip")[1]).image_to_text.tolist() == ranked["clip", 1].tolist()
    with pytest.raises(LclError, match="no direction 'image_to_image'"):
        query_gain("clip-ping", "clip", "image_to_image")


def test_ranks_that_are_missing_leave_the_run_out(ranked, folder):
    (folder / "planned" / "clip-laptop-seed0.safetensors").unlink()
    assert [run["seed"] for run in saved_runs("clip")] == [1, 2]
    assert "clip-laptop-seed0.json" in read_study().wrong


# --- the saved runs themselves

STUDY = storage.read_json(study.FOLDER / "plan.json")


@pytest.mark.parametrize("arm", STUDY["arms"])
def test_every_saved_run_was_given_what_its_arm_says_and_nothing_else(arm):
    """Beside the recipe, it differs from `clip` in the options of its arm alone."""
    runs = read_study().runs
    if not runs[arm]:
        pytest.skip("no run of this arm is there yet")
    named = ("--pairs", "--epochs", "--learning-rate", "--precision")
    first, names = runs["clip"][0], {name: name.removeprefix("--").replace("-", "_") for name in named}
    asked = STUDY["arms"][arm]
    options = dict(zip(asked["options"][::2], asked["options"][1::2], strict=True))
    before = first["profile"]["training"]
    training = {names[name]: type(before[names[name]])(value) for name, value in options.items() if name in names}
    for run in runs[arm].values():
        assert run["recipe"] == json.loads(json.dumps(to_dict(get_recipe(asked["recipe"]))))
        expected = before | training | {"recipe": asked["recipe"]}
        assert run["profile"]["training"] == expected
        for part in ("scenes", "evaluation"):
            assert run["profile"][part] == first["profile"][part]
        towers = {"--text-depth": ("language", "depth"), "--tower": ("vision", "tower"), "--tower-width": ("vision", "width"),
                  "--tower-depth": ("vision", "depth"), "--tower-heads": ("vision", "heads")}  # fmt: skip
        model = json.loads(json.dumps(first["profile"]["model"]))
        for name, value in options.items():
            if name in towers:
                tower, field = towers[name]
                model[tower][field] = value if field == "tower" else int(value)
        if "--pairs" in options:  # the tokenizer learns from the captions at hand, which are the same for all arms of a size
            peers = [each for other in STUDY["arms"] for each in runs[other].values()]
            same = [each for each in peers if each["profile"]["training"]["pairs"] == training["pairs"]]
            (words,) = {each["profile"]["model"]["language"]["vocab_size"] for each in same}
            assert abs(words / model["language"]["vocab_size"] - 1) < 0.05
            model["language"]["vocab_size"] = words
        assert run["profile"]["model"] == model
    assert len({run["last_loss"] for run in runs[arm].values()}) == len(runs[arm])


def test_nothing_lies_among_the_runs_that_the_plan_does_not_name():
    assert read_study().left_out == []


def test_the_study_and_the_laptop_profile_are_alike():
    run = saved_runs("clip")[0]
    laptop = get_profile("laptop")
    assert run["steps"] == laptop.training.steps and run["profile"]["training"]["pairs"] == laptop.training.pairs
    assert shared(there(["clip"]))["clip"][0]["seed"] in SEEDS
