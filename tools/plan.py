"""The plan of the study: results/plan.json, which `tools/study.py --plan` trains, and docs/plan.md, which is made from it.

python tools/plan.py     writes docs/plan.md
"""

from __future__ import annotations

from pathlib import Path

from lcl import storage

ROOT = Path(__file__).resolve().parent.parent
PLAN, PAGE = ROOT / "results" / "plan.json", ROOT / "docs" / "plan.md"
METRICS = {
    "recall@1": "recall@1 (mean of both ways)", "recall@1_gallery": "recall@1 among 5,000 (mean of both ways)",
    "ndcg@10": "nDCG@10 (mean of both ways)", "alignment": "alignment", "zero_shot_top1": "zero-shot top-1",
    "probe_concept": "probe of the object", "probe_category": "probe of the category",
    "masked_word_true_image": "masked word (true image)", "masked_word_no_image": "masked word (no image)",
    "foil_relation": "foil (relation)", "foil_count": "foil (count)", "foil_colour": "foil (colour)",
    "foil_background": "foil (background)", "foil_object": "foil (object)", "foils": "foils (mean of all kinds)",
}  # fmt: skip
HEAD = """# The plan of the study

<!-- made by tools/plan.py from results/plan.json -->

This page was written before the runs, except what *Added* and *Changed* name below. It names the questions, the arms that answer
them, and the comparisons that count. An *arm* is a recipe with its options and seeds. Every arm uses the
profile `{profile}` with `{options}`.

- **Primary.** {comparisons} comparisons are named below. Their p values are corrected together (Holm), and each is reported with
  its gain and 95 % interval, on the split `new_scenes`. Their arms have five seeds. All other comparisons are exploratory: they
  are reported without a claim. Their arms have three seeds. Those of 262,144 pairs and more, and `clip, 200 epochs`, have one.
- **Before.** Earlier runs of `clip`, `clip+distil`, `clip-ping` and `clip-ping+distil` with seeds 1 and 2, on version 1 of the
  scenes, suggested comparisons 2 to 4. They are not among the runs of this plan.
- **Choices.** A learning rate or another setting is chosen on validation scenes, never on test scenes. Arms that only serve a
  choice have a seed of their own, which no reported number uses. The rate of `clip, depth 8` and `clip, depth 12` is the
  profile's until runs with the chosen rate are there.
- **Equal time.** A run has whole epochs, and 8 is the profile's number. So `clip` with 10, 12 and 14 epochs takes 1.25, 1.5 and
  1.75 times the steps, for methods whose step takes up to so many times as long.
- **Cost.** {hours:.1f} core hours for {runs} runs, of at most {most:.0f}. An arm takes as long as the quickest run of its
  recipe on version 1 of the scenes, or of the nearest one, on one thread. The hours of timm's towers come from single steps.
  The saved runs took longer, because other work ran beside them.
- **Added.** Questions 12 and 13 and some arms were added later. They are exploratory, and their {more:.1f} core hours come on
  top.
{added}
- **Changed.** On 2026-11-30, when all runs of comparisons 1 to 4 had been seen, we said which question each comparison answers.
  Before, comparison 1 counted for question 1; its verdict would be *mixed* either way. A question now waits only for the runs of
  its primary comparisons. The comparisons themselves, with their arms, metrics and order, are as they were.
  On the same day, when 82 runs had been seen and none of over 65,536 pairs, the arms of over 262,144 pairs got the option
  `--precision bfloat16`: the products of their towers are in bfloat16, losses and teachers in float32. On one thread of an Intel
  Xeon with AMX, a step of `clip` then takes 252 ms instead of 482 ms (0.52). We measured only `clip`, and multiplied the hours of
  all these arms by 0.52.
- **One run.** `python tools/study.py --only ARM --seed 0` trains one run of an arm.

"""


def hours(plan: dict, added: bool = False) -> float:
    """Core hours of all runs of the arms that were planned, or of those that were added later."""
    later = {name for each in plan["added"] for name in each["arms"]}
    return sum(len(arm["seeds"]) * arm["hours"] for name, arm in plan["arms"].items() if (name in later) == added)


def page(plan: dict) -> str:
    """The page of a plan, in Markdown."""
    runs = {name: len(arm["seeds"]) for name, arm in plan["arms"].items()}
    later = [
        f"  - On {each['on']}, when {each['before']} other runs had been seen, because {each['why']}:\n    "
        + ", ".join(f"`{name}`" for name in each["arms"]) + "."
        for each in plan["added"]
    ]  # fmt: skip
    first = sum(runs.values()) - sum(runs[name] for each in plan["added"] for name in each["arms"])
    text = HEAD.format(
        profile=plan["profile"], options=" ".join(plan["options"]), comparisons=len(plan["primary"]),
        hours=hours(plan), runs=first, most=plan["most_hours"], more=hours(plan, added=True), added="\n".join(later),
    )  # fmt: skip
    text += "## Primary comparisons\n\n| | question | arm | compared with | metric |\n|---|---|---|---|---|\n"
    for number, each in enumerate(plan["primary"], 1):
        text += f"| {number} | {each['question'] or '–'} | `{each['arm']}` | `{each['over']}` | {METRICS[each['metric']]} |\n"
    text += "\n## Questions\n\n| | question | arms | metrics | shown in |\n|---|---|---|---|---|\n"
    for number, each in enumerate(plan["questions"], 1):
        arms, metrics = ", ".join(f"`{arm}`" for arm in each["arms"]), ", ".join(METRICS[name] for name in each["metrics"])
        text += f"| {number} | {each['question']} | {arms} | {metrics} | {each['shown']} |\n"
    text += "\n## Arms\n\n| arm | recipe | options | seeds | hours a run | hours |\n|---|---|---|---|---:|---:|\n"
    for name, arm in plan["arms"].items():
        options, seeds = " ".join(arm["options"]), ", ".join(map(str, arm["seeds"]))
        cost = f"{arm['hours']:.3f} | {len(arm['seeds']) * arm['hours']:.2f}"
        text += f"| `{name}` | `{arm['recipe']}` | {f'`{options}`' if options else ''} | {seeds} | {cost} |\n"
    return text + f"| all | | | {sum(runs.values())} runs | | {hours(plan) + hours(plan, added=True):.2f} |\n"


if __name__ == "__main__":
    storage.write_bytes(PAGE, page(storage.read_json(PLAN)).encode())
