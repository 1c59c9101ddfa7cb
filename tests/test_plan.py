"""The plan of the study: its arms exist and are understood, it costs what its page says, and no comparison lacks an arm."""

import json
import re

import pytest
import typer

import plan as planning
import study
from lcl import storage
from lcl.cli.main import app
from lcl.config import LclError
from lcl.course.planned import told
from lcl.train.recipes import get_recipe

PLAN = storage.read_json(planning.PLAN)
ARMS = PLAN["arms"]
LATER = {name for each in PLAN["added"] for name in each["arms"]}
LARGE = 262_144  # pairs from which on an arm has a single seed


def test_the_page_is_that_of_the_plan_and_says_its_hours():
    text = planning.PAGE.read_text(encoding="utf-8")
    assert text == planning.page(PLAN), "run `python tools/plan.py`"
    rows = re.findall(r"^\| `.*\| ([\d.]+) \| ([\d.]+) \|$", text, re.M)
    said = float(re.search(r"([\d.]+) core hours", text)[1])
    later = float(re.search(r"their ([\d.]+) core hours come on\s+top", text)[1])
    assert len(rows) == len(ARMS) and sum(float(total) for _, total in rows) == pytest.approx(said + later, abs=0.2)
    first = {name: arm for name, arm in ARMS.items() if name not in LATER}
    assert said == pytest.approx(sum(arm["hours"] * len(arm["seeds"]) for arm in first.values()), abs=0.05)
    assert said <= PLAN["most_hours"] <= 25
    assert not {name for each in PLAN["primary"] for name in (each["arm"], each["over"])} - first.keys()


def test_every_arm_names_a_recipe_and_options_that_there_are():
    known = {name for parameter in typer.main.get_command(app).commands["train"].params for name in parameter.opts}
    for name, arm in ARMS.items():
        assert get_recipe(arm["recipe"]).name == arm["recipe"]
        words = told(PLAN, name, 0)
        assert {word for word in words if word.startswith("--")} <= known, name
    assert len({(arm["recipe"], *arm["options"]) for arm in ARMS.values()}) >= len(ARMS) - 2  # an arm whose rate is to be chosen


def test_every_comparison_has_its_arms_and_primary_ones_share_five_seeds():
    assert len(PLAN["primary"]) == 9 == len({tuple(each.values()) for each in PLAN["primary"]})
    primary = {each[side] for each in PLAN["primary"] for side in ("arm", "over")}
    assert primary <= ARMS.keys() and all(ARMS[name]["seeds"] == [0, 1, 2, 3, 4] for name in primary)
    asked = {name for each in PLAN["questions"] for name in each["arms"]}
    assert asked == ARMS.keys()
    assert {each["metric"] for each in PLAN["primary"]} | {m for each in PLAN["questions"] for m in each["metrics"]} <= set(
        planning.METRICS
    )


def test_arms_that_serve_a_choice_have_a_seed_of_their_own():
    told = {name: dict(zip(arm["options"][::2], arm["options"][1::2], strict=True)) for name, arm in ARMS.items()}
    large = {name for name in ARMS if int(told[name].get("--pairs", 0)) >= LARGE or ARMS[name]["hours"] > 1}
    assert all(ARMS[name]["seeds"] == [0] for name in large)
    others = {name: arm["seeds"] for name, arm in ARMS.items() if arm["seeds"] not in ([0, 1, 2], [0, 1, 2, 3, 4])}
    choices = others.keys() - large
    assert choices and all("rate" in name and others[name] == [5] for name in choices)


def test_an_arm_that_is_missing_is_refused_with_the_near_one():
    with pytest.raises(LclError, match=r"no arm 'clip-pnig'; did you mean .*clip-ping"):
        told(PLAN, "clip-pnig", 0)


@pytest.mark.slow
def test_a_run_of_an_arm_is_trained_once_and_kept(tmp_path, monkeypatch):
    few = {"recipe": "clip", "options": ["--pairs", "64", "--epochs", "1"]}
    small = {"profile": "smoke", "arms": {"clip, few": few | {"seeds": [1]}}, "options": ["--scenes-version", "2"]}
    (tmp_path / "plan.json").write_text(json.dumps(small))
    monkeypatch.setattr(study, "FOLDER", tmp_path)
    monkeypatch.setattr(study, "RUNS", tmp_path / "runs")
    words = ["--plan", str(tmp_path / "plan.json"), "--only", "clip, few", "--seed", "1"]
    study.main(words)
    kept = tmp_path / "planned" / "clip-few-smoke-seed1.json"
    found, when = storage.read_json(kept), kept.stat().st_mtime_ns
    assert (found["seed"], found["profile"]["scenes"]["version"], found["recipe"]["name"]) == (1, 2, "clip")
    assert found["validation"]["step"] == found["steps"] and 0 <= found["validation"]["image_to_text"] <= 1
    assert found["looks"][-1] == list(found["validation"].values())
    study.main(words)
    assert kept.stat().st_mtime_ns == when
    with pytest.raises(LclError, match="no seed 2 of 'clip, few'; choose among 1"):
        study.main([*words[:-1], "2"])
    storage.write_json(kept, found | {"data": "another world"})
    with pytest.raises(LclError, match="other code, data or torch, so it is not replaced; delete it first"):
        study.main(words)
    storage.write_json(kept, found | {"seed": 7})  # damaged: trained again, in its place
    study.main(words)
    assert storage.read_json(kept)["seed"] == 1
