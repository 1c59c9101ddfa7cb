"""The benchmarks run, and print a line for everything that they compare."""

import dataclasses

import pytest

from lcl import bench
from lcl.config import get_profile
from lcl.matching import SOLVERS
from lcl.recipes import RECIPES


@pytest.fixture
def small(monkeypatch):
    laptop = get_profile("laptop")
    laptop = dataclasses.replace(laptop, training=dataclasses.replace(laptop.training, batch_size=16))
    monkeypatch.setattr(bench, "BATCH", 4)
    monkeypatch.setattr(bench, "get_profile", lambda name: {"laptop": laptop}[name])


def test_every_solver_has_its_line(small, capsys):
    bench.solvers(1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(", ")[1].split()[0] for line in lines] == list(SOLVERS)
    assert all("µs a pair" in line and "ms a step of 4 pairs, 36 problems" in line for line in lines)


def test_every_recipe_has_its_line_beside_clips(small, world, capsys):
    bench.recipe_steps(world, 1, steps=1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines] == list(RECIPES)
    assert "1.00 times a step of clip (1.00 to 1.00)" in lines[0]
