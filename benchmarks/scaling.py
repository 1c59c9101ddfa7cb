"""How the cost of every component grows: with the batch, the patches, the words, the layers, the number of pairs.

A cost that theory calls of order xᵏ is a line of slope k on log-log paper, once it is large enough that fixed costs are
nothing beside it. So the slope is fitted to the larger half of what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.timing import seconds
from lcl.config import LanguageConfig, VisionConfig
from lcl.losses.contrastive import info_nce
from lcl.losses.matching import exact, matched_contrast, sinkhorn
from lcl.models.language import make_language
from lcl.models.tokenizer import Tokens
from lcl.models.vision import make_vision
from lcl.teachers.search import nearest_neighbours


@dataclass(frozen=True)
class Scaling:
    """What was timed. x: the sizes, increasing. laps: for every size the seconds, a number a repeat.

    key: names it for those who look it up. theory: the exponent that theory gives for large x, and why.
    """

    key: str
    what: str
    variable: str
    x: tuple[int, ...]
    laps: tuple[tuple[float, ...], ...]
    theory: float
    why: str

    @property
    def slope(self) -> float:
        """The exponent that was measured: of a straight line through the larger half of the sizes, log-log."""
        half = len(self.x) // 2
        return slope(self.x[half:], [float(np.median(laps)) for laps in self.laps[half:]])

    @property
    def slopes(self) -> list[float]:
        """The same of each repeat alone."""
        half = len(self.x) // 2
        return [slope(self.x[half:], laps) for laps in zip(*self.laps[half:], strict=True)]

    def __str__(self) -> str:
        low, high = min(self.slopes), max(self.slopes)
        return (
            f"{self.what}, {self.variable} from {self.x[0]:,} to {self.x[-1]:,}: grows as x^{self.slope:.2f} "
            f"({low:.2f} to {high:.2f}); theory says x^{self.theory:g}, {self.why}"
        )


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent k of y = c · xᵏ, by least squares on logarithms. Two points or more."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def grow(
    key: str, what: str, variable: str, x: Sequence[int], make: Callable[[int], Callable[[], object]],
    theory: float, why: str, repeats: int, times: int = 3,
) -> Scaling:  # fmt: skip
    """Time `make(size)()` for every size, `repeats` rounds over all of them, after one call each that does not count."""
    works = [make(size) for size in x]
    for work in works:
        work()
    rounds = [[seconds(work, times) for work in works] for _ in range(repeats)]
    return Scaling(key, what, variable, tuple(x), tuple(zip(*rounds, strict=True)), theory, why)


def _unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


def growths(repeats: int) -> Iterator[Scaling]:
    """Every component, with what it grows with."""
    torch.manual_seed(0)
    yield grow(
        "info_nce", "InfoNCE of embeddings of 128 dimensions", "pairs of a batch", [128, 256, 512, 1024, 2048, 4096, 8192],
        _info_nce, 2, "every pair is compared with every other", repeats,
    )  # fmt: skip
    yield grow(
        "matched_contrast", "the token objective, 8 words, 64 patches, 4 negatives", "pairs of a batch", [32, 64, 128, 256, 512],
        _matched_contrast, 1, "a pair has as many negatives however large the batch; they are sought among all", repeats, 1,
    )  # fmt: skip
    for solver, many, words_theory, why in (
        (exact, 64, 2, "each word may displace all others"),
        (sinkhorn, 16, 1, "each round divides every word among the patches"),
    ):
        name, what = solver.__name__, f"{many} matchings, solver {solver.__name__}"
        yield grow(
            f"{name}-patches", f"{what}, 12 words", "patches", [16, 32, 64, 128, 256, 512, 1024],
            lambda size, solver=solver, many=many: _matching(solver, many, 12, size),
            1, "every word looks at every patch", repeats, 1,
        )  # fmt: skip
        yield grow(
            f"{name}-words", f"{what}, 256 patches", "words", [4, 8, 16, 32, 64, 128],
            lambda size, solver=solver, many=many: _matching(solver, many, size, 256), words_theory, why, repeats, 1,
        )  # fmt: skip
    yield grow(
        "vit", "a ViT of width 128, depth 2, on 8 images, patches of 8 pixels", "patches", [16, 64, 256, 1024, 4096],
        _vit, 2, "every patch looks at every other; what is linear in them counts until then", repeats,
    )  # fmt: skip
    yield grow(
        "text", "the text tower of the laptop profile on 64 captions", "words", [8, 16, 32, 64, 128, 256, 512],
        _text, 2, "every word looks at every other; what is linear in them counts until then", repeats,
    )  # fmt: skip
    yield grow(
        "layers", "a text tower of width 128 on 64 captions of 16 words", "layers", [1, 2, 4, 8, 12],
        _layers, 1, "a layer costs what a layer costs", repeats,
    )  # fmt: skip
    yield grow(
        "neighbours", "8 exact neighbours of every row, 384 dimensions", "rows N", [2048, 4096, 8192, 16384, 32768],
        _neighbours, 2, "every row is compared with every other", repeats, 1,
    )  # fmt: skip


def _info_nce(size: int) -> Callable[[], object]:
    v, t = (_unit(size, 128).requires_grad_() for _ in range(2))
    return lambda: info_nce(v, t, torch.tensor(14.3))["info_nce"].backward()


def _matched_contrast(size: int) -> Callable[[], object]:
    patches, words, v, t = _unit(size, 64, 64), _unit(size, 8, 64), _unit(size, 64), _unit(size, 64)
    real = torch.ones(size, 8, dtype=torch.bool)
    patches.requires_grad_(), words.requires_grad_()
    return lambda: matched_contrast(patches, words, real, v @ t.T, 10.0, 4, 1.0, "exact")["matched_contrast"].backward()


def _matching(solver: Callable, many: int, words: int, patches: int) -> Callable[[], object]:
    cost = 1 - _unit(many, words, 16) @ _unit(many, patches, 16).mT
    return lambda: solver(cost, torch.ones(many, words, dtype=torch.bool), 1.0)


def _vit(patches: int) -> Callable[[], object]:
    side = 8 * round(patches**0.5)
    tower = make_vision(VisionConfig("vit", side, width=128, depth=2, heads=2, patch_size=8)).eval()
    images = torch.randint(256, (8, 3, side, side), dtype=torch.uint8)
    return torch.no_grad()(lambda: tower(images))


def _text(words: int) -> Callable[[], object]:
    tower = make_language(LanguageConfig(context_length=words)).eval()
    ids, row = torch.randint(4, 2000, (64, words)), torch.arange(words).expand(64, words)
    tokens = Tokens(ids, torch.ones(64, words, dtype=torch.bool), row, [])
    return torch.no_grad()(lambda: tower(tokens))


def _layers(depth: int) -> Callable[[], object]:
    tower = make_language(LanguageConfig(depth=depth)).eval()
    tokens = Tokens(torch.randint(4, 2000, (64, 16)), torch.ones(64, 16, dtype=torch.bool), torch.arange(16).expand(64, 16), [])
    return torch.no_grad()(lambda: tower(tokens))


def _neighbours(rows: int) -> Callable[[], object]:
    bank = _unit(rows, 384)
    return lambda: nearest_neighbours(bank, 8)
