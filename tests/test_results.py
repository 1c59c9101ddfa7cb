"""README's figures are those of `results/`."""

import json
from pathlib import Path

from lcl.report import summary_markdown

ROOT = Path(__file__).resolve().parent.parent
RUNS = [
    json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "results").glob("clip-laptop-seed*.json"))
]


def test_the_table_in_readme_is_made_from_the_kept_runs():
    assert summary_markdown([run["metrics"] for run in RUNS]) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_kept_runs_differ_in_their_seed_alone():
    assert [run["seed"] for run in RUNS] == [0, 1, 2]
    for key in ("profile", "data", "steps"):
        assert all(run[key] == RUNS[0][key] for run in RUNS)
    assert len({run["last_loss"] for run in RUNS}) == 3


def test_the_baseline_reaches_what_the_course_promises():
    for run in RUNS:
        found = {name: figure["value"] for name, figure in run["metrics"]["new_scenes"].items()}
        assert found["image_to_text_recall@1"] >= 0.65 and found["text_to_image_recall@1"] >= 0.65
        assert found["zero_shot_top1"] >= 0.60
