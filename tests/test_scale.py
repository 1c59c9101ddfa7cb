"""The page of costs is made from its rates, its hours are amounts divided by rates, and inverted lists cost what they compute."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import scale
from benchmarks.run import load_bench
from lcl import storage
from lcl.config import get_profile
from lcl.teachers.approximate import approximate_neighbours

FOUND, WHOLE = storage.read_json(scale.RATES), storage.read_json(scale.WHOLE)
RATES, COUNTED = FOUND["rates"], FOUND["operations"]
PAIRS = get_profile("gpu").training.pairs
ROOT = Path(__file__).resolve().parent.parent


def value(text: str) -> float:
    """A number as the page has it: 1,230 or 1.23 · 10^9."""
    digits, _, power = re.match(r"([\d.,e-]+)( · 10\^(\d+))?", text).groups()
    return float(digits.replace(",", "")) * 10 ** int(power or 0)


def rows_of(text: str, columns: int) -> list[list[str]]:
    """The rows of all tables with so many columns, without their heads."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    return [row for row in rows if len(row) == columns and row[0] not in ("stage", "rows")]


def test_the_page_is_that_of_the_rates():
    assert scale.PAGE.read_text(encoding="utf-8") == scale.page(FOUND, WHOLE), "run `python tools/scale.py`"


def test_the_run_from_beginning_to_end_was_whole_and_no_memory_grew_with_its_pairs():
    small, large = scale.sizes_of(WHOLE)
    assert large == PAIRS == 10 * small
    rows = {(row["pairs"], row["stage"]): row for row in WHOLE["rows"]}
    stages = [stage for pairs, stage in rows if pairs == large]
    assert stages == [stage for pairs, stage in rows if pairs == small] and len(stages) == 7
    for stage in (name for name in stages if name != "quality"):
        assert rows[large, stage]["main, own"] < 1.15 * rows[small, stage]["main, own"] + 50, stage
    quality = rows[large, "quality"]
    assert quality["steps"] == 400 and quality["loss"][1] < quality["loss"][0] and quality["plan, bytes a scene"] <= 120
    halves = [row["units"] for (pairs, _), row in rows.items() if pairs == large and row.get("unit") == "steps"]
    assert sum(halves) == 400 and min(halves) > 150  # stopped in the middle


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how much memory a process held at most")
def test_a_small_run_from_beginning_to_end_has_the_stages_of_the_large_one(tmp_path):
    command = [sys.executable, "tools/end_to_end.py", "--small", str(tmp_path / "found.json")]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "equal to metrics.json" in done.stdout
    rows = storage.read_json(tmp_path / "found.json")["rows"]
    large = [row for row in WHOLE["rows"] if row["pairs"] == PAIRS]
    assert [(row["stage"], set(row) - {"helper", "helper, own"}) for row in rows] == [
        (row["stage"], set(row) - {"helper", "helper, own"}) for row in large
    ]  # few pairs need no process that helps
    assert sum(row["units"] for row in rows if row.get("unit") == "steps") == rows[-1]["steps"] == 128
    assert all(0 < row["main, own"] <= row["main"] for row in rows[:-1])
    assert not list((ROOT / "build" / "end-to-end").glob("*-small")), "the data of a run are removed"


def test_what_the_page_says_of_the_bench_is_so():
    races = load_bench(scale.BENCH).races
    assert all(1 < races[f"history-{name}"].faster.low <= races[f"history-{name}"].faster.high < 2 for name in ("narrow", "wide"))
    assert "first in bfloat16" in races["neighbours-faiss"].note  # so the processor has AMX


def test_hours_are_amounts_divided_by_rates():
    """Worked out again from the page's own text, for all three tables of stages."""
    tables = [[]]
    for row in rows_of(scale.PAGE.read_text(encoding="utf-8"), 7):
        tables[-1].append(row)
        tables += [[]] if row[0] == "all" else []
    read, drawn, large = [table for table in tables if table]
    assert [len(read), len(drawn), len(large)] == [11, 3, 11]
    for *stages, total in (read, drawn, large):
        for _, grows, amount, rate, basis, hours, _ in stages:
            assert value(hours) == pytest.approx(value(amount) / value(rate) / 3600, rel=0.02), (amount, rate)
            assert basis in ("**measured**", "**simulated**") and grows in ("N", "N²")
        assert value(total[5]) == pytest.approx(sum(value(stage[5]) for stage in stages), rel=0.02)
    for small, big in zip(read[:-1], large[:-1], strict=True):  # the larger run has the same stages
        factor = scale.MANY / PAIRS
        assert small[0] == big[0] and value(big[5]) / value(small[5]) == pytest.approx(factor ** (1 + ("²" in big[1])), rel=0.02)
        if small[6]:
            assert value(big[6]) / value(small[6]) == pytest.approx(factor ** (1 + ("²" in big[1])) / 8, rel=0.02)


def test_the_gpu_minutes_of_the_search_worked_out_by_hand():
    (stage,) = [stage for stage in scale.stages(3_276_800, COUNTED) if stage.name == "neighbours among images"]
    assert scale.gpu_minutes(stage) * 60 == pytest.approx(2 * 1280 * 3_276_800**2 / (0.3 * 989e12))
    assert scale.gpu_minutes(stage, 8) == scale.gpu_minutes(stage) / 8
    assert scale.core_hours(stage, {stage.rate: {"rate": 3_276_800**2 / 7200}}) == pytest.approx(2)


def test_the_cores_are_those_of_batches_while_the_gpu_takes_steps():
    """Banks and neighbours are found before the first step, so the GPU's time for them feeds no batch."""
    rates = {name: {"rate": 1e30} for name in RATES} | {"read": {"rate": PAIRS * 4 / 3600}, "bank of images": {"rate": 1.0}}
    steps = [stage for stage in scale.stages(PAIRS, COUNTED) if stage.rate in ("step", "forward")]
    assert scale.cores_for(scale.stages(PAIRS, COUNTED), rates) == pytest.approx(60 / sum(map(scale.gpu_minutes, steps)))
    one, eight = (scale.cores_for(scale.stages(PAIRS, COUNTED), RATES, gpus) for gpus in (1, 8))
    assert eight == pytest.approx(8 * one)


def test_every_stage_has_a_rate_and_every_rate_a_stage():
    used = {stage.rate for drawn in (False, True) for stage in scale.stages(PAIRS, COUNTED, drawn)}
    assert used == RATES.keys() and all(each["rate"] > 0 for each in RATES.values())
    assert {each["basis"] for each in RATES.values()} == {"measured", "simulated"}


def test_inverted_lists_compute_what_is_said_of_them(monkeypatch):
    """The lists, rounds and rows that the formula counts are those of `approximate_neighbours`."""
    import faiss

    made, kept = [], faiss.IndexIVFScalarQuantizer
    monkeypatch.setattr(faiss, "IndexIVFScalarQuantizer", lambda *a: made.append(kept(*a)) or made[0])
    approximate_neighbours(torch.nn.functional.normalize(torch.randn(900, 4, generator=torch.Generator().manual_seed(0)), dim=1))
    lists, index = 120, made[0]
    assert (index.nlist, index.nprobe, index.cp.niter) == (lists, scale.PROBES, scale.ROUNDS)
    by_hand = scale.ROUNDS * scale.SAMPLE * lists**2 + 900 * lists + 900 * (lists + scale.PROBES * 900 / lists)
    assert scale.by_lists(900) == by_hand
    assert scale.by_lists(4 * scale.MANY) / scale.by_lists(scale.MANY) == pytest.approx(8, rel=0.1)  # grows as N to the 1.5


def test_numbers_have_three_digits_and_sizes_their_unit():
    numbers = {3_276_800: "3,280,000", 99.96: "100", 12.34: "12.3", 0.01234: "0.0123", 1.0737e13: "1.07 · 10^13", 543.2: "543"}
    assert {each: scale.number(each) for each in numbers} == numbers
    assert (scale.in_bytes(8.39e9), scale.in_bytes(157_286_400)) == ("8.39 GB", "157 MB")


def test_time_of_other_programs_does_not_count():
    assert scale.seconds(lambda: time.sleep(0.1), 1) < 0.05
    worked = scale.seconds(lambda: sum(range(3_000_000)), 1)
    assert worked > 0.01


def test_recall_grows_with_the_lists_that_are_searched():
    for rows in {each["rows"] for each in FOUND["recalls"]}:
        of_rows = [each for each in FOUND["recalls"] if each["rows"] == rows]
        assert [each["probes"] for each in of_rows] == sorted(each["probes"] for each in of_rows)
        assert [each["recall"] for each in of_rows] == sorted(each["recall"] for each in of_rows)
