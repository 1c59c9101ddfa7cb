"""The leaderboard: ranked by files that fit, all others named with the reason; its commands and its entry are understood."""

import dataclasses
import json
import math
import re
import shlex

import pytest
from made_plan import PLAN, SEEDS, keep, made_run

import pages
import study
from lcl import storage
from lcl.course.planned import standing, with_entries
from lcl.train import recipes
from leaderboard import Board

TEXT = (pages.DOCS / "leaderboard.md").read_text(encoding="utf-8")


def fill(folder, arm, recalls, plan=PLAN, **others):
    for seed, recall in enumerate(recalls):
        keep(folder, arm, made_run(arm, seed, recall, plan, **others))


def read(folder, entries=None):
    plan, refused = with_entries(PLAN, entries or folder / "entries")
    found = standing(plan, folder)
    return Board(dataclasses.replace(found, wrong=found.wrong | refused))


def page(board):
    return pages.ENVIRONMENT.get_template("leaderboard.md.jinja").render(board=board)


def rows(table):
    """A table's cells, without head and chance."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:] if "chance" not in line
    ]


def test_the_saved_runs_give_the_page_bitwise():
    made = pages.pages(["leaderboard.md"])
    assert [path.name for path, data in made.items() if path.read_bytes() != data] == [], "run `python tools/pages.py`"


def test_arms_with_five_seeds_are_ranked_and_others_are_provisional(tmp_path):
    fill(tmp_path, "clip", [0.70, 0.72, 0.71, 0.69, 0.70])
    fill(tmp_path, "clip-ping", [0.80, 0.81, 0.83, 0.79, 0.80], foil=0.8)
    fill(tmp_path, "siglip", [0.95, 0.96])
    board = read(tmp_path)
    assert rows(board.ranked()) == [
        ["1", "`clip-ping`", "80.6 ± 1.5", "80.0 ± 0.0", "5", "+10.2 (+8.8 to +11.6)", "10.2"],
        ["2", "`clip`", "70.4 ± 1.1", "50.0 ± 0.0", "5", "the baseline", "10.2"],
    ]
    (found,) = rows(board.provisional())
    assert found[:2] == ["provisional", "`siglip`"] and found[4] == "2" and "to" in found[5]
    assert "|  | chance | 1.0 | 1.0 |  |  |  |" in board.ranked() and board.left_out == []


def test_equal_recall_shares_a_place_and_a_single_seed_has_no_interval(tmp_path):
    for arm in ("clip", "siglip", "clip-ping"):
        fill(tmp_path, arm, [0.7] * 5, foil=0.6 if arm == "siglip" else 0.5)
    assert [row[:2] for row in rows(read(tmp_path).ranked())] == [
        ["1", "`siglip`"],
        ["1", "`clip`"],
        ["1", "`clip-ping`"],
    ]
    assert "+0.0 (no interval: equal differences)" in read(tmp_path).ranked()
    for seed in SEEDS[1:]:
        (tmp_path / f"siglip-laptop-seed{seed}.json").unlink()
    (found,) = rows(read(tmp_path).provisional())
    assert found[5] == "+0.0 (one seed: no interval)" and [row[0] for row in rows(read(tmp_path).ranked())] == [
        "1",
        "1",
    ]


def test_without_runs_the_page_says_so(tmp_path):
    text = page(read(tmp_path))
    assert "No arm has 5 seeds yet, so no row is ranked." in text and "There is no run yet." in text
    fill(tmp_path, "siglip", [0.7])
    assert rows(read(tmp_path).provisional())[0][5] == "–"  # clip has no run


def spoilt(folder, arm, seed, path, value):
    run = made_run(arm, seed, 0.7)
    place = run
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    keep(folder, arm, run, seed)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("provenance", "code"), "x", "`siglip-laptop-seed2.json`: it was made with other code x, not c."),
        (("data",), "x", "`siglip-laptop-seed2.json`: it was made with other data x, not d."),
        (("queries",), "x", "`siglip-laptop-seed2.json`: it was made with other queries x, not q."),
        (
            ("metrics", "new_scenes", "foil_count", "value"),
            math.nan,
            "foil_count on new_scenes is nan, which is no share.",
        ),
        (("metrics", "new_scenes"), {}, "does not say its image_to_text_recall@1"),
        (("metrics", "new_scenes", "foil_count"), None, "damaged"),
        (("profile", "training", "batch_size"), 256, "it ended after 1,024 of 512 steps."),
        (("provenance", "machine", "accelerator"), "H200", "`siglip` (seed 2): H200, and the limit is two cores."),
        (("provenance", "machine", "threads"), 8, "`siglip` (seed 2): 8 threads, and the limit is two cores."),
        (("start",), "runs/other", "`siglip` (seed 2): it starts from trained weights"),
        (("profile", "model", "vision", "pretrained"), True, "`siglip` (seed 2): it starts from trained weights"),
        (("recipe", "ping", "choice"), "objects", "`siglip` (seed 2): it uses the true objects of the scenes"),
        (("recipe",), None, "`siglip` (seed 2): its file does not say its settings."),
    ],
    ids=str,
)
def test_a_bad_run_is_named_and_left_out(tmp_path, path, value, said):
    fill(tmp_path, "clip", [0.7] * 5)
    fill(tmp_path, "siglip", [0.8] * 5)
    spoilt(tmp_path, "siglip", 2, path, value)
    board = read(tmp_path)
    text = " ".join(page(board).split("## Left out")[1].split())
    assert said in text and len(board.left_out) == 1
    assert [row[1] for row in rows(board.ranked())] == ["`clip`"] and rows(board.provisional())[0][4] == "4"


def test_runs_of_too_many_steps_or_batches_that_are_too_large_are_no_row(tmp_path):
    fill(tmp_path, "clip, 12 epochs", [0.9] * 5)
    for seed in (0, 1):
        run = made_run("siglip", seed, 0.9)
        run["profile"]["training"] |= {"batch_size": 256}
        run["steps"] = 512
        keep(tmp_path, "siglip", run)
    board = read(tmp_path)
    assert board.rows == [] and board.left_out == [
        "`siglip` (seeds 0 to 1): batches of 256 pairs, and the limit is 128",
        "`clip, 12 epochs` (seeds 0 to 4): 1,536 steps, and the limit is 1,024",
    ]


def test_a_run_without_foils_and_damaged_json_are_left_out(tmp_path):
    fill(tmp_path, "clip", [0.7, 0.7, 0.7])
    run = made_run("clip", 1, 0.7)
    del run["metrics"]["new_scenes"]["foil_colour"]
    keep(tmp_path, "clip", run)
    (tmp_path / "clip-laptop-seed2.json").write_text('{"seed": 2,')
    board = read(tmp_path)
    assert list(board.rows[0].runs) == [0]
    assert "it is not readable as JSON" in board.left_out[0]
    assert board.left_out[1] == "`clip` (seed 1): no foils on new_scenes"


def test_a_seed_that_serves_a_choice_and_true_objects_are_no_row(tmp_path):
    keep(tmp_path, "clip, rate 1e-3", made_run("clip, rate 1e-3", 7, 0.9))
    fill(tmp_path, "clip-ping+oracle", [0.9])
    board = read(tmp_path)
    assert board.rows == [] and "only serves a choice" in board.left_out[1] and "true objects" in board.left_out[0]


def test_an_entry_is_a_row_with_its_own_file_in_the_command_and_a_refused_one_is_named(tmp_path):
    settings = {"recipe": "siglip", "options": ["--learning-rate", "1e-3"], "seeds": SEEDS}
    entry = {"profile": "laptop", "options": PLAN["options"], "arms": {"mine": settings}}
    storage.write_json(tmp_path / "entries" / "ours.json", entry)
    storage.write_json(tmp_path / "entries" / "bad.json", entry | {"options": []})
    merged, _ = with_entries(PLAN, tmp_path / "entries")
    fill(tmp_path, "clip", [0.7, 0.71, 0.72, 0.7, 0.7])
    fill(tmp_path, "mine", [0.9] * 5, merged)
    board = read(tmp_path)
    assert rows(board.ranked())[0][1] == "`mine`"
    assert '--plan results/entries/ours.json --only "mine" --seed $seed; done' in board.reproduce()
    assert board.left_out == ["`bad.json`: its options must be ['--scenes-version', '2'], as in the plan, not []"]


def test_the_commit_says_if_files_differed_from_it(tmp_path):
    fill(tmp_path, "clip", [0.7, 0.7, 0.7])
    spoilt(tmp_path, "clip", 1, ("provenance", "commit"), "fedcba9876543210+changes")
    spoilt(tmp_path, "clip", 2, ("provenance", "commit"), None)
    assert "| `clip` | `01234567`, `fedcba98` with changes, `unknown` |" in read(tmp_path).reproduce()


def commands(text):
    return [command for command in re.findall(r"python (tools/study\.py [^`;\n]*--only [^`;\n]+)", text)]


def test_every_command_of_the_page_trains_the_arm_that_it_stands_for(monkeypatch):
    asked = []
    monkeypatch.setattr(study, "train_arm", lambda plan, arm, seed, threads, into: asked.append((arm, seed)))
    monkeypatch.setattr(study.storage, "read_json", lambda path: {"profile": "laptop", "path": path})
    found = commands(TEXT)
    for command in found:
        study.main(shlex.split(command.replace("$seed", "3"))[1:])
    results = pages.ROOT / "results"
    plan, _ = with_entries(json.loads((results / "plan.json").read_text(encoding="utf-8")), results / "entries")
    assert len(asked) == len(found) >= 2 and {arm for arm, _ in asked} <= {*plan["arms"], "mine"}


def test_the_entry_that_the_page_shows_is_accepted_once_its_recipe_is_registered(tmp_path, monkeypatch):
    shown = re.search(r"```json\n(.*?)```", TEXT, re.S)[1]
    (tmp_path / "mine.json").write_text(shown)
    plan = json.loads((pages.ROOT / "results" / "plan.json").read_text(encoding="utf-8"))
    assert "no recipe 'mine'" in with_entries(plan, tmp_path)[1]["mine.json"]
    monkeypatch.setitem(recipes.CONTROLS, "mine", recipes.get_recipe("siglip"))
    merged, refused = with_entries(plan, tmp_path)
    assert refused == {} and merged["arms"]["mine"]["seeds"] == SEEDS
