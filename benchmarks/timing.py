"""Two ways of doing the same work, timed by turns: machines are noisy, so only what ran side by side can be compared."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Benchmark:
    """What was timed. ours, peer: seconds, one number a repeat, repeat by repeat side by side.

    key: names the race for those who look it up. amount: how many `unit` the work holds. note: what else one should know.
    operations: additions and multiplications in products of ours and of the peer, where they were counted.
    """

    key: str
    what: str
    beside: str
    unit: str
    amount: float
    ours: tuple[float, ...]
    peer: tuple[float, ...]
    note: str = ""
    operations: tuple[float, float] | None = None

    @property
    def faster(self) -> Spread:
        """How many times faster ours is."""
        return Spread.of([peer / ours for ours, peer in zip(self.ours, self.peer, strict=True)])

    @property
    def longer(self) -> Spread:
        """How many times as long ours takes."""
        return Spread.of([ours / peer for ours, peer in zip(self.ours, self.peer, strict=True)])

    def __str__(self) -> str:
        ours, peer = (self.amount / statistics.median(laps) for laps in (self.ours, self.peer))
        note = f"; {self.note}" if self.note else ""
        return (
            f"{self.what}, beside {self.beside}: {self.faster} times as fast, {len(self.ours)} repeats; "
            f"{ours:,.0f} and {peer:,.0f} {self.unit}{note}"
        )


@dataclass(frozen=True)
class Spread:
    """A median, and the smallest and the largest."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of some numbers, one at least."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        middle, low, high = (f"{value:.2f}" if value >= 0.1 else f"{value:.2g}" for value in (self.middle, self.low, self.high))
        return f"{middle} ({low} to {high})"


def seconds(work: Callable[[], object], times: int = 1) -> float:
    """Seconds for one `work()`: the median of several."""
    laps = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        laps.append(time.perf_counter() - start)
    return statistics.median(laps)


def turns(works: Sequence[Callable[[], object]], times: int, draw: random.Random) -> list[float]:
    """Seconds for each of some works, the median of several: `times` rounds, in each of which all have one turn.

    A machine that is slow for a while is then slow for all of them. Who goes first is drawn, or one would always find another's
    caches.
    """
    laps: list[list[float]] = [[] for _ in works]
    for _ in range(times):
        for number in draw.sample(range(len(works)), len(works)):
            laps[number].append(seconds(works[number]))
    return [statistics.median(each) for each in laps]


def benchmark(
    key: str,
    what: str,
    beside: str,
    unit: str,
    amount: float,
    ours: Callable[[], object],
    peer: Callable[[], object],
    repeats: int,
    times: int = 5,
    note: str = "",
    count: bool = False,
) -> Benchmark:
    """Let ours and the peer take turns, in `repeats` repeats, after a round of each that does not count.

    times: so many turns each has in one repeat, of which the median counts. count: count the operations of both in that first
    round, as torch knows them. The others as in `Benchmark`.
    """
    operations = None
    if count:
        operations = operations_of(ours), operations_of(peer)
    else:
        ours(), peer()
    draw = random.Random(0)
    laps = [turns((ours, peer), times, draw) for _ in range(repeats)]
    return Benchmark(key, what, beside, unit, amount, *map(tuple, zip(*laps, strict=True)), note, operations)


def operations_of(work: Callable[[], object]) -> float:
    """Additions and multiplications in the products and convolutions of a work, which is done once."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # it does not know a CPU's own attention
        work()
    return float(counter.get_total_flops())
