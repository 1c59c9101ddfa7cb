"""`make bench`: every race with a peer and every growth, one after another, told as they end, and kept as JSON.

python -m benchmarks.run [--repeats 3] [--out build/bench.json]

Let nothing else run meanwhile. The course's own figures are in results/bench.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from benchmarks import baselines
from benchmarks.history import history
from benchmarks.huge_pages import huge_pages
from benchmarks.scaling import Scaling, growths
from benchmarks.timing import Benchmark
from lcl import storage
from lcl.config import LclError, get_profile, require
from lcl.data.scenes import open_scenes
from lcl.train.provenance import processor, provenance, version

FORMAT = "lcl-bench-2"


@dataclasses.dataclass(frozen=True)
class Bench:
    """What was measured in one run. facts: numbers without a peer, a number a repeat. minutes: of the whole."""

    races: dict[str, Benchmark]
    growths: dict[str, Scaling]
    facts: baselines.Facts
    repeats: int
    minutes: float
    provenance: dict


def run(repeats: int, tell: Callable[[str], object] = print) -> Bench:
    """Measure everything, `repeats` rounds of each; `tell` is given a line as soon as something is known.

    Raises LclError where torch sees an accelerator: ours would run on it, and some peers would not.
    """
    hidden = not torch.cuda.is_available()
    require(hidden, "the races are run on the CPU; hide the accelerator: set CUDA_VISIBLE_DEVICES to -1.")
    started, facts = time.perf_counter(), {}
    races: dict[str, Benchmark] = {}
    grown: dict[str, Scaling] = {}
    tell(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    world = open_scenes(get_profile("laptop").scenes)
    baselines.plain_product(repeats, facts)
    parts: tuple[Iterable[Benchmark], ...] = (
        baselines.training_step(world, repeats),
        baselines.losses(repeats),
        baselines.rendering(world, repeats),
        baselines.streaming(repeats, facts),
        baselines.matching(repeats),
        baselines.recipe_steps(world, repeats),
        baselines.bank_building(world, repeats),
        baselines.neighbour_search(repeats, facts),
        huge_pages(repeats, tell),
        history(repeats, tell),
    )
    for benchmark in itertools.chain(*parts):
        races[benchmark.key] = benchmark
        tell(str(benchmark))
    for growth in growths(repeats):
        grown[growth.key] = growth
        tell(str(growth))
    for name, values in facts.items():
        tell(f"{name}: {', '.join(f'{value:.4g}' for value in values)}")
    made = provenance()
    made["packages"] |= {package: version(package) for package in baselines.PACKAGES}
    return Bench(races, grown, facts, repeats, round((time.perf_counter() - started) / 60, 1), made)


def save_bench(path: Path, bench: Bench) -> None:
    """Write what was measured."""
    storage.write_json(path, {"format": FORMAT} | dataclasses.asdict(bench))


def load_bench(path: Path) -> Bench:
    """Read what `save_bench` wrote. Raises LclError for a file that it did not write, and for one that lacks something."""
    found = storage.read_json(path)
    require(isinstance(found, dict) and found.pop("format", None) == FORMAT, f"{path} holds no benchmark of this library.")
    try:
        for part, kind in (("races", Benchmark), ("growths", Scaling)):
            rows = found[part].items()
            found[part] = {key: kind(**{name: _tuples(value) for name, value in row.items()}) for key, row in rows}
        return Bench(**found)
    except (AttributeError, KeyError, TypeError) as error:
        raise LclError(f"{path} is damaged ({error}); measure again: `make bench`.") from None


def _tuples(value: object) -> object:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def main(words: Sequence[str] | None = None) -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="rounds; peers take turns in each")
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"), help="replaced if it is there")
    options = parser.parse_args(words)
    try:
        require(options.repeats >= 1, f"--repeats must be 1 or more, not {options.repeats}.")
        above = next(folder for folder in options.out.resolve().parents if folder.exists())
        writable = above.is_dir() and os.access(above, os.W_OK) and not options.out.is_dir()
        require(writable, f"cannot write {options.out}; name another file with --out.")  # before half an hour is spent
        found = run(options.repeats)
        save_bench(options.out, found)
    except LclError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{found.minutes:.0f} minutes; wrote {options.out}")


if __name__ == "__main__":
    main()
