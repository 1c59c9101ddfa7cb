"""The page of results: a verdict by the rule that stands on it, nothing claimed before the runs are there."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_plan import PLAN, SEEDS, keep, made_run
from scipy import stats

import arms
import pages
import prices
from answers import EXPLORATORY, MIXED, NOT, SUPPORTED, UNTESTED, Answers, verdict
from benchmarks.run import load_bench
from benchmarks.timing import Spread
from lcl import storage
from lcl.config import LclError
from lcl.course import plots
from lcl.course.planned import standing
from lcl.course.statistics import holm
from lcl.course.study import FOLDER

BENCH = load_bench(FOLDER / "bench.json")
NOISE = [0.004, -0.003, 0.002, -0.001, 0.0]
BASE = [0.70, 0.72, 0.71, 0.69, 0.70]


def whole_study(folder, ping=(0.1, 0.0), siglip=0.0, noise=NOISE):
    """All runs: `ping` is what clip-ping gains in recall@1 and in nDCG@10, `siglip` what siglip gains in recall@1."""
    for seed in SEEDS:
        more = noise[seed]
        keep(folder, "clip", made_run("clip", seed, BASE[seed], ndcg=0.5))
        keep(folder, "clip-ping", made_run("clip-ping", seed, BASE[seed] + ping[0] + more, ndcg=0.5 + ping[1] - more))
        keep(folder, "siglip", made_run("siglip", seed, BASE[seed] + siglip + more))
        keep(folder, "clip, 12 epochs", made_run("clip, 12 epochs", seed, BASE[seed] + 0.02 + more))
    for seed in range(3):
        keep(folder, "clip-ping+oracle", made_run("clip-ping+oracle", seed, 0.9))
    keep(folder, "clip, rate 1e-3", made_run("clip, rate 1e-3", 7, 0.987))


def read(folder, plan=PLAN):
    return Answers(standing(plan, folder), BENCH)


def test_minutes_are_those_of_the_quickest_run_and_say_more_than_one_thread():
    runs = {seed: made_run("clip", seed, 0.7) for seed in range(2)}  # 1,024 steps of 600 ms
    assert arms.minutes(runs) == "10.2"
    runs[1] |= {"step_ms": 300.0}
    runs[1]["provenance"]["machine"]["threads"] = 2
    assert arms.minutes(runs) == "5.1 (2 threads)"
    assert arms.minutes({0: runs[0] | {"step_ms": None}}) == arms.minutes({}) == "–"


def page(answers):
    template = pages.ENVIRONMENT.get_template("results.md.jinja")
    none = dict.fromkeys(["gain", "transposed", "other_scenes"], lambda *_, **__: "")
    found = {"figure": lambda name, words: f"![{words}]({name}.png)", "main": [], "splits": [], "meanings": {}, "about": ""}
    return template.render(answers=answers, again=[], left_out=answers.left_out, **none, **found)


def said(answers):
    """The answers by question, and what each rests on."""
    rows = [[cell.strip() for cell in line.split("|")[2:5]] for line in answers.answers().splitlines()[2:]]
    return [(answer.strip("*"), why) for _, answer, why in rows]


def test_the_saved_runs_give_the_page_bitwise():
    made = pages.pages(["results.md"])
    assert {path.name for path in made} >= {"results.md", "gains.png", "costs.png"}
    assert [path.name for path, data in made.items() if path.read_bytes() != data] == [], "run `python tools/pages.py`"


def test_a_study_that_is_not_whole_says_so_first_and_answers_nothing(tmp_path):
    for seed in (0, 1):
        keep(tmp_path, "clip", made_run("clip", seed, 0.7))
        keep(tmp_path, "clip-ping", made_run("clip-ping", seed, 0.8 + seed / 100))
    found = read(tmp_path)
    text = page(found)
    assert text.split("\n\n")[1] == "**4 of 24 runs** of the [plan](plan.md) are there, so this page is not final."
    some = "of 10 runs of primary comparisons"
    assert said(found) == [(UNTESTED, f"4 {some}"), (UNTESTED, f"2 {some}"), (UNTESTED, "2 of 11 runs")]
    assert all(each.p is None and each.verdict == UNTESTED for each in found.comparisons)
    assert [each.seeds for each in found.comparisons] == ["2 of 5", "2 of 5", "0 of 5"]
    assert "No run yet: `siglip`." in text and "| supported |" not in text


def test_a_whole_study_gives_every_question_its_verdict(tmp_path):
    whole_study(tmp_path)
    found = read(tmp_path)
    text = page(found)
    assert text.split("\n\n")[1] == "All 24 runs of the [plan](plan.md) are there."
    assert said(found) == [
        (MIXED, "1 of 2 primary comparisons supported"), (NOT, "0 of 1 primary comparisons supported"),
        (EXPLORATORY, "no primary comparison"),
    ]  # fmt: skip
    assert "untested" not in text.replace("a question is *untested*", "") and "Left out" not in text


def test_a_question_waits_for_its_primary_comparisons_alone(tmp_path):
    whole_study(tmp_path)
    (tmp_path / "clip-ping+oracle-laptop-seed1.json").unlink()
    first = PLAN["questions"][0] | {"arms": ["clip", "clip-ping", "clip-ping+oracle"]}
    exploratory = first | {"question": "And the oracle?", "metrics": ["zero_shot_top1"]}
    found = read(tmp_path, PLAN | {"questions": [first, *PLAN["questions"][1:], exploratory]})
    assert said(found)[0] == (MIXED, "1 of 2 primary comparisons supported") and said(found)[3] == (UNTESTED, "12 of 13 runs")
    assert found.sentence(first, {first["question"]: "It does."}) == "It does."
    assert found.sentence(exploratory, {exploratory["question"]: "It does."}) == ""


@pytest.mark.parametrize(
    ("ping", "siglip", "answers"),
    [
        ((0.1, 0.1), 0.1, [SUPPORTED, SUPPORTED]),
        ((0.0, -0.1), -0.1, [NOT, NOT]),
        ((-0.1, 0.1), 0.1, [MIXED, SUPPORTED]),
    ],
    ids=str,
)
def test_verdicts_follow_the_gains(tmp_path, ping, siglip, answers):
    whole_study(tmp_path, ping, siglip)
    found = read(tmp_path)
    assert [answer for answer, _ in said(found)[:2]] == answers
    lower = [gain for gain in (*ping, siglip) if gain < 0]
    assert found.primary().count(": significantly lower | < 0.001 | not supported") == len(lower)


def test_p_values_are_those_of_the_paired_t_test_corrected_by_holm(tmp_path):
    whole_study(tmp_path, (0.004, 0.003), 0.01)
    found = read(tmp_path)
    recall = {name: [found.runs[name][seed]["metrics"]["new_scenes"]["image_to_text_recall@1"]["value"] for seed in SEEDS]
              for name in ("clip", "clip-ping", "siglip")}  # fmt: skip
    raw = [stats.ttest_rel(recall[name], recall["clip"]).pvalue for name in ("clip-ping", "siglip")]
    ndcg = [0.5 + 0.003 - each for each in NOISE]
    raw.insert(1, stats.ttest_rel(ndcg, [0.5] * 5).pvalue)
    ordered, largest, expected = sorted(raw), 0.0, {}
    for place, p in enumerate(ordered):
        largest = max(largest, min(1.0, (3 - place) * p))
        expected[p] = largest
    assert [each.p for each in found.comparisons] == pytest.approx([expected[p] for p in raw])


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9), st.data())
def test_a_missing_comparison_as_p_of_one_never_lowers_the_others(p, data):
    full = dict(enumerate(p))
    gone = data.draw(st.sets(st.sampled_from(sorted(full))))
    partial, corrected = holm({name: 1.0 if name in gone else each for name, each in full.items()}), holm(full)
    assert all(partial[name] >= corrected[name] - 1e-12 for name in full if name not in gone)


def test_equal_differences_support_nothing(tmp_path):
    whole_study(tmp_path, (0.1, 0.0), noise=[0.0] * 5)
    found = read(tmp_path)
    assert [each.verdict for each in found.comparisons] == [NOT] * 3 and found.comparisons[0].p == 1.0
    assert "+10.0 (no interval: equal differences)" in found.primary() and said(found)[0][0] == NOT


def test_a_metric_that_was_not_measured_is_a_dash_and_no_answer(tmp_path):
    whole_study(tmp_path)
    run = made_run("clip-ping", 3, BASE[3])
    del run["metrics"]["new_scenes"]["image_to_text_ndcg@10"]
    keep(tmp_path, "clip-ping", run)
    found = read(tmp_path)
    assert said(found)[0] == (UNTESTED, "a primary comparison lacks its metric")
    assert re.search(r"^\| `clip-ping` \| .* \| – \|$", found.table(PLAN["questions"][0]), re.M)


def test_a_run_that_does_not_count_leaves_its_question_open_and_is_named(tmp_path):
    whole_study(tmp_path)
    run = made_run("siglip", 2, 0.7)
    run["provenance"]["code"] = "newer"
    keep(tmp_path, "siglip", run)
    (tmp_path / "clip-12-epochs-laptop-seed0.json").write_text("{")
    found = read(tmp_path)
    text = page(found)
    assert said(found)[1:] == [(UNTESTED, "9 of 10 runs of primary comparisons"), (UNTESTED, "10 of 11 runs")]
    assert "**22 of 24 runs**" in text
    assert "- `siglip-laptop-seed2.json`: it was made with other code newer, not c." in text
    assert "- `clip-12-epochs-laptop-seed0.json`: it is not readable as JSON" in text


def test_no_number_of_an_arm_that_serves_a_choice_is_reported(tmp_path):
    whole_study(tmp_path)
    text = page(read(tmp_path))
    assert "98.7" not in text and "no number of them is reported (1 of 1 runs): `clip, rate 1e-3`" in text


def test_equal_time_is_the_shortest_clip_whose_steps_take_as_long_up_to_the_noise_of_the_bench(tmp_path):
    whole_study(tmp_path)
    found = read(tmp_path)
    minutes = prices.clip_minutes(BENCH)
    for steps, peer in ((1.0, "clip"), (1.03, "clip"), (1.04, "clip, 12 epochs"), (1.54, "clip, 12 epochs"), (1.56, None)):
        added = Spread(*[minutes * (steps - 1)] * 3)
        assert found.equal_time(prices.Price(Spread(steps, steps, steps), added, prices.NOTHING)) == peer
    rows = [line for line in found.costs().splitlines() if line.startswith("| `clip-ping`")]
    assert len(rows) == 1 and "| `clip` | +10.0 " in rows[0]  # a step of clip-ping takes 3 % longer


def test_an_entry_has_no_row_of_costs_and_what_was_not_timed_is_named(tmp_path):
    whole_study(tmp_path)
    mine = {"mine": {"recipe": "clip-ping", "options": ["--epochs", "6"], "seeds": [5, 6]}}
    plan = PLAN | {"arms": PLAN["arms"] | mine, "entries": {"mine": "mine.json"}}
    keep(tmp_path, "mine", made_run("mine", 5, 0.9, plan))
    found = read(tmp_path, plan)
    assert len(found.runs["mine"]) == 1 and "`mine`" not in found.costs() and found.planned == 24
    assert found.not_timed() == "The bench did not time `siglip`."
    other = PLAN | {"primary": PLAN["primary"][:2]}
    assert read(tmp_path, other).not_timed() == ""


def test_a_table_compares_with_clip_of_the_same_options_or_the_first_arm():
    plan = storage.read_json(FOLDER / "plan.json")
    found = Answers(standing(plan, FOLDER / "planned"))
    bases = {
        question["shown"]: {arm: found._base(question, arm) for arm in question["arms"]}
        for question in plan["questions"]
    }
    towers, sizes, depths, both = (
        bases[name] for name in ("table of towers", "figure of sizes", "figure of depths", "main table")
    )
    assert towers["clip-ping, vit"] == "clip, vit" and towers["clip, vit"] == "clip" and towers["clip"] is None
    assert sizes["clip+distil, 4k pairs"] == "clip, 4k pairs" and sizes["clip-ping"] == "clip"
    assert depths["clip, depth 12"] == "clip, depth 2" and both == {"lightclip": None} | dict.fromkeys(
        ["clip-ping", "lightclip-ping", "lightclip+distil"], "lightclip"
    )


def test_a_primary_comparison_answers_the_question_that_the_plan_names():
    plan = storage.read_json(FOLDER / "plan.json")
    found = Answers(standing(plan, FOLDER / "planned"))
    owned = [[found.comparisons.index(each) + 1 for each in found.of_question(question)] for question in plan["questions"]]
    assert owned[:5] == [[2, 3, 4], [5], [6], [7], [8, 9]] and not any(owned[5:])
    assert re.search(r"^\| 1 \| – \| `clip-ping` \| `clip` \|", found.primary(), re.M), "it asks nothing of distillation"


@pytest.mark.parametrize("number", [0, 2, 4], ids="question {}".format)
def test_a_plan_whose_comparison_names_a_question_that_does_not_ask_for_it_is_refused(tmp_path, number):
    wrong = PLAN | {"primary": [PLAN["primary"][0] | {"question": number}]}
    with pytest.raises(LclError, match=f"question {number} .* lacks the arms and the metric of its primary comparison 1"):
        read(tmp_path, wrong)


def test_the_figure_shows_arms_that_differ_in_the_recipe_alone_once_two_seeds_are_there(tmp_path):
    assert read(tmp_path).panels() == {}
    whole_study(tmp_path)
    found = read(tmp_path)
    assert {title: list(row) for title, row in found.panels().items()} == dict.fromkeys(
        ["recall@1", "nDCG@10", "zero-shot top-1"], ["siglip", "clip-ping", "clip-ping+oracle"]
    )
    assert plots.to_png(found.chart()).startswith(b"\x89PNG") and "(gains.png)" in page(found)


def test_a_verdict_needs_whole_arms_even_if_its_comparisons_are_there():
    assert verdict([], whole=False) == UNTESTED and verdict([], whole=True) == EXPLORATORY


def test_processors_are_named_the_most_frequent_first():
    made = [{"provenance": {"machine": {"processor": name}}} for name in ("A", "B", "B")] + [{"provenance": {"machine": {}}}]
    assert arms.processors(made) == "B (2 runs), A (1 run), unknown (1 run)"
    assert arms.processors([]) == ""
