"""`make bench`: every race with a peer and every growth, one after another, told as they end, and kept as JSON.

python -m benchmarks.run [--repeats 3] [--out build/bench.json]
python -m benchmarks.run --part losses --part matching --out build/bench.json     some races of that file once more

Let nothing else run meanwhile. The course's own figures are in results/bench.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
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
PARTS = ("steps", "losses", "rendering", "streaming", "matching", "recipes", "banks", "neighbours", "huge-pages", "history")


@dataclasses.dataclass(frozen=True)
class Bench:
    """What was measured in one run.

    Attributes:
        races, growths: by their keys.
        facts: numbers without a peer, a number a repeat.
        minutes: of the whole.
        later: for each part that was measured once more, in a run of its own, that run's provenance.
    """

    races: dict[str, Benchmark]
    growths: dict[str, Scaling]
    facts: baselines.Facts
    repeats: int
    minutes: float
    provenance: dict
    later: dict[str, dict] = dataclasses.field(default_factory=dict)


def parts(repeats: int, facts: baselines.Facts, tell: Callable[[str], object]) -> dict[str, Iterable[Benchmark]]:
    """All races in their order, by the name of their part. They run as one iterates; what has no peer goes into `facts`."""
    world = open_scenes(get_profile("laptop").scenes)
    return {
        "steps": baselines.training_step(world, repeats),
        "losses": baselines.losses(repeats),
        "rendering": baselines.rendering(world, repeats),
        "streaming": baselines.streaming(repeats, facts),
        "matching": baselines.matching(repeats),
        "recipes": baselines.recipe_steps(world, repeats),
        "banks": baselines.bank_building(world, repeats),
        "neighbours": baselines.neighbour_search(repeats, facts),
        "huge-pages": huge_pages(repeats, tell),
        "history": history(repeats, tell),
    }


def run(repeats: int, tell: Callable[[str], object] = print, only: Collection[str] = ()) -> Bench:
    """Measure everything, `repeats` rounds of each; `tell` is given a line as soon as something is known.

    only: the parts to measure, without growths; empty for everything.

    Raises LclError where torch sees an accelerator: ours would run on it, and some peers would not.
    """
    hidden = not torch.cuda.is_available()
    require(hidden, "the races are run on the CPU; hide the accelerator: set CUDA_VISIBLE_DEVICES to -1.")
    started, facts = time.perf_counter(), {}
    races: dict[str, Benchmark] = {}
    grown: dict[str, Scaling] = {}
    tell(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    missing = [package for package in baselines.PACKAGES if version(package) is None]
    if missing:
        tell(f"not installed, so without its races: {', '.join(missing)}; `make tools` installs what the races need")
    if not only:
        baselines.plain_product(repeats, facts)
    for name, works in parts(repeats, facts, tell).items():
        for benchmark in works if not only or name in only else ():
            races[benchmark.key] = benchmark
            tell(str(benchmark))
    for growth in growths(repeats) if not only else ():
        grown[growth.key] = growth
        tell(str(growth))
    for name, values in facts.items():
        tell(f"{name}: {', '.join(f'{value:.4g}' for value in values)}")
    return Bench(races, grown, facts, repeats, round((time.perf_counter() - started) / 60, 1), _made())


def run_again(bench: Bench, only: Sequence[str], tell: Callable[[str], object] = print) -> Bench:
    """A bench with these parts measured once more.

    Raises LclError if its code key (that of training, not of the races), processor, cores or versions are not those at hand.
    Whether it is the very same machine, and whether the races changed, is for you to know.
    """
    before, now = bench.provenance, _made()
    for key in ("code", "machine"):
        require(before[key] == now[key], f"the bench is of another {key}, {before[key]}, not {now[key]}; measure all of it.")
    changed = [name for name, kept in before["packages"].items() if kept and now["packages"].get(name) != kept]
    require(not changed, f"the bench has other versions of {', '.join(changed)} than are installed; measure all of it.")
    more = run(bench.repeats, tell, only)
    return dataclasses.replace(
        bench, races=bench.races | more.races, facts=bench.facts | more.facts, minutes=round(bench.minutes + more.minutes, 1),
        provenance=before | {"packages": now["packages"]}, later=bench.later | dict.fromkeys(only, now),
    )  # fmt: skip


def _made() -> dict:
    """The provenance of a bench made now, with the peers' versions."""
    made = provenance()
    made["packages"] |= {package: version(package) for package in baselines.PACKAGES}
    return made


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
    parser.add_argument("--repeats", type=int, default=3, help="rounds; peers take turns in each; with --part those of the file")
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"), help="replaced if it is there")
    parser.add_argument("--part", action="append", choices=PARTS, help="measure this part of the file once more (repeatable)")
    options = parser.parse_args(words)
    try:
        require(options.repeats >= 1, f"--repeats must be 1 or more, not {options.repeats}.")
        above = next(folder for folder in options.out.resolve().parents if folder.exists())
        writable = above.is_dir() and os.access(above, os.W_OK) and not options.out.is_dir()
        require(writable, f"cannot write {options.out}; name another file with --out.")  # before half an hour is spent
        found = run_again(load_bench(options.out), options.part) if options.part else run(options.repeats)
        save_bench(options.out, found)
    except LclError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{found.minutes:.0f} minutes; wrote {options.out}")


if __name__ == "__main__":
    main()
