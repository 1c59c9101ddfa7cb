"""The study by the number of pairs and of steps: which arms learn from how many, at equal steps and in one epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import arms
from lcl.config import get_profile, require
from lcl.course.planned import Standing
from lcl.course.statistics import Gain, gain_of

EQUAL, EPOCH = "equal steps", "one epoch"
ONCE = "more pairs, each seen once"
KEYS = {"--pairs", "--epochs", "--precision"}


def _lengths(plan: Mapping) -> Iterator[tuple[str, dict, int, int]]:
    """Name, arm, pairs and epochs of the arms that differ from the profile in these alone, or in the precision, too."""
    usual = get_profile(plan["profile"]).training
    for name, arm in plan["arms"].items():
        if name in plan.get("entries", ()):
            continue
        options = dict(zip(arm["options"][::2], arm["options"][1::2], strict=True))
        if options.keys() <= KEYS and options.keys() != {"--precision"}:
            yield name, arm, int(options.get("--pairs", usual.pairs)), int(options.get("--epochs", usual.epochs))


def _place(row: dict[int, str], point: int, name: str) -> None:
    require(point not in row, f"{row.get(point)} and {name} would be one point of a figure: take one of them out of the plan.")
    row[point] = name


def arms_by_size(plan: Mapping) -> dict[str, dict[str, dict[int, str]]]:
    """{recipe: {budget: {pairs: arm}}}, by pairs: the arms that differ from the profile in pairs and epochs alone.

    The largest sizes may have another precision, too. An arm that differs in the precision alone is their control, and no size.
    A budget is EQUAL, with as many steps as the profile has, or EPOCH, which sees each pair once. An arm may be of both. Recipes
    with a single size are left out.

    Raises:
        LclError: two arms of a recipe have the same budget and number of pairs, so a figure would show one of them alone.
    """
    usual = get_profile(plan["profile"]).training
    found: dict[str, dict[str, dict[int, str]]] = {}
    for name, arm, pairs, epochs in _lengths(plan):
        budgets = {EQUAL: pairs * epochs == usual.pairs * usual.epochs, EPOCH: epochs == 1}
        for budget in filter(budgets.get, budgets):
            _place(found.setdefault(arm["recipe"], {}).setdefault(budget, {}), pairs, name)
    sizes = {recipe: {pairs for row in budgets.values() for pairs in row} for recipe, budgets in found.items()}
    return {
        recipe: {budget: dict(sorted(row.items())) for budget, row in budgets.items()}
        for recipe, budgets in found.items() if len(sizes[recipe]) > 1
    }  # fmt: skip


def levels_by_size(found: Standing, metric: str) -> dict[str, dict[str, dict[int, list[float]]]]:
    """{recipe: {budget: {pairs: the values of its seeds in percent}}}, where there are runs.

    Raises LclError as long as no recipe has runs of two sizes.
    """
    out: dict[str, dict[str, dict[int, list[float]]]] = {}
    for recipe, budgets in arms_by_size(found.plan).items():
        for budget, row in budgets.items():
            values = {pairs: list(arms.values(found.runs[arm], metric).values()) for pairs, arm in row.items()}
            if any(values.values()):
                out.setdefault(recipe, {})[budget] = {pairs: each for pairs, each in values.items() if each}
    sizes = max((len({pairs for row in budgets.values() for pairs in row}) for budgets in out.values()), default=0)
    require(sizes > 1, "No run of another number of pairs is there yet.")
    return out


def bfloat16_sizes(found: Standing) -> set[tuple[str, str, int]]:
    """The recipe, budget and number of pairs of each point of `levels_by_size` whose runs compute in bfloat16."""
    return {
        (recipe, budget, pairs)
        for recipe, budgets in arms_by_size(found.plan).items() for budget, row in budgets.items()
        for pairs, arm in row.items() if _brief(found, arm)
    }  # fmt: skip


def _brief(found: Standing, arm: str) -> bool:
    return any(run["profile"]["training"].get("precision") == "bfloat16" for run in found.runs[arm].values())


def arms_by_steps(plan: Mapping) -> dict[str, dict[int, str]]:
    """{line: {steps: arm}}, by steps: arms of `clip` that see the profile's pairs again and again, and those that see more, ONCE.

    They differ from the profile in pairs and epochs, and may have another precision, too. The shortest arm, which sees the
    profile's pairs once, is in both lines. Raises LclError as `arms_by_size`.
    """
    usual = get_profile(plan["profile"]).training
    again, once = f"{usual.pairs:,} pairs, seen again and again", ONCE
    found: dict[str, dict[int, str]] = {again: {}, once: {}}
    for name, arm, pairs, epochs in _lengths(plan):
        steps = pairs * epochs // usual.batch_size
        if arm["recipe"] == "clip" and pairs == usual.pairs:
            _place(found[again], steps, name)
        if arm["recipe"] == "clip" and epochs == 1 and pairs >= usual.pairs:
            _place(found[once], steps, name)
    return {line: dict(sorted(row.items())) for line, row in found.items()}


def levels_by_steps(found: Standing, metric: str, split: str) -> dict[str, dict[int, list[float]]]:
    """{line of `arms_by_steps`: {steps: the values of its seeds in percent}}, where there are runs."""
    rows = {
        line: {steps: list(arms.values(found.runs[arm], metric, split).values()) for steps, arm in row.items()}
        for line, row in arms_by_steps(found.plan).items()
    }
    return {line: {steps: seeds for steps, seeds in row.items() if seeds} for line, row in rows.items()}


def bfloat16_steps(found: Standing) -> set[tuple[str, int]]:
    """The line and number of steps of each point of `levels_by_steps` whose runs compute in bfloat16."""
    return {(line, steps) for line, row in arms_by_steps(found.plan).items() for steps, arm in row.items() if _brief(found, arm)}


def gains_by_size(found: Standing, metric: str) -> dict[str, dict[str, dict[int, Gain]]]:
    """{recipe: {budget: {pairs: points above clip with as many pairs and steps}}}; a single seed in common has no interval."""
    by_size, out = arms_by_size(found.plan), {}
    for recipe in by_size.keys() - {"clip"}:
        for budget, row in by_size[recipe].items():
            for pairs, arm in row.items():
                base = by_size["clip"].get(budget, {}).get(pairs)
                ours, theirs = (arms.values(found.runs[name], metric) if name else {} for name in (arm, base))
                if seeds := sorted(ours.keys() & theirs.keys()):
                    pair = [[values[seed] for seed in seeds] for values in (ours, theirs)]
                    points = pair[0][0] - pair[1][0]
                    gain = gain_of(*pair) if len(seeds) > 1 else Gain(points, points, points, 1)
                    out.setdefault(recipe, {}).setdefault(budget, {})[pairs] = gain
    return {recipe: out[recipe] for recipe in by_size if recipe in out}


def curves(found: Standing) -> dict[str, tuple[list[int], list[float]]]:
    """{recipe: (pairs seen, recall@1 on validation pairs in percent)} of each recipe's longest run of one epoch.

    recall@1 is the mean of both directions. Raises LclError as long as there is no such run.
    """
    out = {}
    for recipe, budgets in arms_by_size(found.plan).items():
        runs = [run for arm in budgets.get(EPOCH, {}).values() for run in found.runs[arm].values() if "looks" in run]
        if runs:
            run = max(runs, key=lambda run: run["steps"])
            seen = [step * run["profile"]["training"]["batch_size"] for step, *_ in run["looks"]]
            out[recipe] = seen, [50 * (image_to_text + text_to_image) for *_, image_to_text, text_to_image in run["looks"]]
    require(bool(out), "No run of one epoch is there yet.")
    return out
