"""`lcl bench`: every race with a peer and every growth, one after another, told as they end, and kept as JSON."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from lcl import peers, storage
from lcl.config import get_profile, require
from lcl.growth import Growth, growths
from lcl.provenance import processor, provenance
from lcl.races import Race
from lcl.scenes import open_world

FORMAT = "lcl-bench-2"


@dataclasses.dataclass(frozen=True)
class Bench:
    """What was measured in one run. facts: numbers without a peer, a number a repeat. minutes: of the whole."""

    races: dict[str, Race]
    growths: dict[str, Growth]
    facts: peers.Facts
    repeats: int
    minutes: float
    provenance: dict


def run(repeats: int, tell: Callable[[str], object] = print) -> Bench:
    """Measure everything, `repeats` rounds of each; `tell` is given a line as soon as something is known."""
    started, facts, found = time.perf_counter(), {}, ([], [])
    tell(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    world = open_world(get_profile("laptop").scenes)
    parts: tuple[Iterable, ...] = (
        peers.training_step(world, repeats),
        peers.losses(repeats),
        peers.rendering(world, repeats),
        peers.streaming(repeats, facts),
        peers.matching(repeats),
        peers.recipe_steps(world, repeats),
        peers.bank_building(world, repeats),
        peers.neighbour_search(repeats, facts),
        growths(repeats),
    )
    for part in parts:
        for result in part:
            found[isinstance(result, Growth)].append(result)
            tell(str(result))
    for name, values in facts.items():
        tell(f"{name}: {', '.join(f'{value:.4g}' for value in values)}")
    races, grown = ({each.key: each for each in kind} for kind in found)
    return Bench(races, grown, facts, repeats, round((time.perf_counter() - started) / 60, 1), provenance())


def save_bench(path: Path, bench: Bench) -> None:
    """Write what was measured."""
    storage.write_json(path, {"format": FORMAT} | dataclasses.asdict(bench))


def load_bench(path: Path) -> Bench:
    """Read what `save_bench` wrote. Raises LclError if it did not."""
    found = storage.read_json(path)
    require(isinstance(found, dict) and found.pop("format", None) == FORMAT, f"{path} holds no benchmark of this library.")
    for part, kind in (("races", Race), ("growths", Growth)):
        found[part] = {key: kind(**{name: _tuples(value) for name, value in each.items()}) for key, each in found[part].items()}
    return Bench(**found)


def _tuples(value: object) -> object:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
