"""Exercises of chapter 10: controls, the choice of partners, SigLIP's loss, and what seeds can show."""

import math
from collections.abc import Callable, Sequence
from statistics import mean, pstdev, stdev
from typing import Any

import torch
import torch.nn.functional as F

from lcl.course.checks import check, check_function
from lcl.losses.contrastive import sigmoid_loss

Partners = tuple[torch.Tensor, torch.Tensor]


def lcl_partners(
    kind: str, rows: torch.Tensor, a: torch.Tensor, b: torch.Tensor, order: torch.Tensor, shows: torch.Tensor
) -> Partners:
    """The rows whose features are a batch's targets, as `lcl.teachers.teacher` chooses them.

    Args:
        kind: "own", "nearest", "shuffled" or "objects".
        rows: of the batch, (B,) int64.
        a, b: nearest image and nearest caption of every row of the data set, (N,) int64.
        order: a permutation of all rows, (N,) int64.
        shows: which classes every scene shows, (N, C), 0 or 1.

    Returns:
        The partner of every image and of every caption, (B,) int64 each. Among equally similar sets of objects the first wins.
    """
    return _partners(kind, rows, a, b, order, shows)


def _partners(
    kind: str, rows: torch.Tensor, a: torch.Tensor, b: torch.Tensor, order: torch.Tensor, shows: torch.Tensor,
    own: str = "itself", one: bool = False, shuffle: str = "queries", alone: bool = True, cosine: bool = True, best: bool = True,
) -> Partners:  # fmt: skip
    """The choice, with one of the typical mistakes where an argument is not the default."""
    if kind == "own" and own == "itself":
        return rows, rows
    if kind in ("own", "nearest"):
        return a[rows], (a if one else b)[rows]
    if kind == "shuffled":
        if shuffle == "nothing":
            return a[rows], b[rows]
        if shuffle == "rows":
            return order[rows], order[rows]
        return (order[a[rows]], order[b[rows]]) if shuffle == "found" else (a[order[rows]], b[order[rows]])
    sets = F.normalize(shows.float(), dim=1) if cosine else shows.float()
    alike = sets[rows] @ sets.T  # (B, N)
    if alone:
        alike[torch.arange(len(rows)), rows] = -1.0 if best else 2.0
    partner = alike.argmax(1) if best else alike.argmin(1)
    return partner, partner


def partners(mine: Callable) -> str:
    """Check `my_partners(kind, rows, a, b, order, shows)`: see `lcl_partners`."""
    draw = torch.Generator().manual_seed(0)
    N, C = 24, 40
    rows, order = torch.randperm(N, generator=draw)[:6], torch.randperm(N, generator=draw)
    a, b = ((torch.arange(N) + torch.randint(1, N, (N,), generator=draw)) % N for _ in range(2))
    shows = _distinct_sets(N, C, rows, draw)
    cases = [(kind, rows, a, b, order, shows) for kind in ("own", "nearest", "shuffled", "objects")]

    def wrong(**mistake) -> Callable:
        return lambda *case: _partners(*case, **mistake)

    return check_function(mine, cases, lcl_partners, {
        "'own' is the row itself: that is distillation without neighbours.": wrong(own="neighbour"),
        "the caption's partner is b, the nearest caption; a is the nearest image.": wrong(one=True),
        "'shuffled' must lose the relation: look up the neighbour of another row, order[rows].": wrong(shuffle="nothing"),
        "'shuffled' should still be neighbours, of another row: a[order[rows]], not order[rows].": wrong(shuffle="rows"),
        "shuffle who asks, not what is found: a[order[rows]], not order[a[rows]].": wrong(shuffle="found"),
        "with 'objects', a scene is most similar to itself: leave it out before the argmax.": wrong(alone=False),
        "with 'objects', that counts shared objects; divide by the lengths, so that large sets do not win.": wrong(cosine=False),
        "with 'objects', that is the least similar scene.": wrong(best=False),
    })  # fmt: skip


def _distinct_sets(N: int, C: int, rows: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Sets of classes in which every one of `rows` has a single most similar other set, by cosine: (N, C) bool."""
    while True:
        sizes = torch.randint(3, 16, (N, 1), generator=draw)
        shows = torch.rand(N, C, generator=draw).argsort(1).argsort(1) < sizes
        sets = F.normalize(shows.float(), dim=1)
        best = (sets @ sets.T).fill_diagonal_(-1.0)[rows].topk(2, dim=1).values
        if bool((best[:, 0] > best[:, 1] + 1e-4).all()):
            return shows


def which(answer: Any) -> str:
    """Check which control answers each of four questions: four letters in their order."""
    given = answer.strip().lower().replace(" ", "").replace(",", "") if isinstance(answer, str) else answer
    return check(given, "bdac", {
        "distillation without neighbours is (b), and any extra target is tested by the shuffled ones, (d).": "dbac",
        "better neighbours are tested by those of true objects, (a); a weight that does not fall is (c).": "bdca",
        "those are in the order of the list; read what each control replaces.": "abcd",
        "question 1 asks for distillation alone: every pair is its own neighbour, (b).": "adbc",
    })  # fmt: skip


def lcl_sigmoid(v: torch.Tensor, t: torch.Tensor, logit_scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """lcl's SigLIP loss as a scalar: see `lcl.losses.contrastive.sigmoid_loss`."""
    return sigmoid_loss(v, t, logit_scale, bias)["sigmoid"]


def sigmoid(mine: Callable) -> str:
    """Check `my_sigmoid(v, t, logit_scale, bias)`: (B, d), (B, d), scalar, scalar → scalar."""
    draw = torch.Generator().manual_seed(0)
    cases = []
    for B, scale, bias in ((6, 10.0, -10.0), (9, 4.0, -1.5)):
        v, t = (F.normalize(torch.randn(B, 8, generator=draw), dim=1) for _ in range(2))
        cases.append((v, t, torch.tensor(scale), torch.tensor(bias)))

    def loss(
        v: torch.Tensor, t: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, sign: float = 1.0, over: str = "queries",
        negatives: bool = True,
    ) -> torch.Tensor:  # fmt: skip
        z = 2 * torch.eye(len(v)) - 1
        each = -F.logsigmoid(sign * z * (scale * v @ t.T + bias))  # (B, B)
        if not negatives:
            return each.diagonal().mean()
        return {"queries": each.sum() / len(v), "pairs": each.mean(), "none": each.sum()}[over]

    return check_function(mine, cases, lcl_sigmoid, {
        "add the bias to every logit: nearly all of them are no pairs.": lambda v, t, scale, bias: loss(v, t, scale, 0 * bias),
        "add the bias once, after the scale: it is not scaled.": lambda v, t, scale, bias: loss(v, t, scale, scale * bias),
        "divide by B, the number of images, not by B²: else the pairs hardly count.":
            lambda v, t, scale, bias: loss(v, t, scale, bias, over="pairs"),
        "that is the sum; divide by B.": lambda v, t, scale, bias: loss(v, t, scale, bias, over="none"),
        "the sign: a loss is minus the logarithm.": lambda v, t, scale, bias: -loss(v, t, scale, bias),
        "z is 1 for a pair and -1 for all others; that is the other way round.":
            lambda v, t, scale, bias: loss(v, t, scale, bias, sign=-1.0),
        "those are the pairs alone; without negatives all embeddings may be equal.":
            lambda v, t, scale, bias: loss(v, t, scale, bias, negatives=False),
        "that is InfoNCE, with a softmax; here each logit stands for itself.":
            lambda v, t, scale, bias: F.cross_entropy(scale * v @ t.T, torch.arange(len(v))),
    })  # fmt: skip


def half_width(answer: Any, ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Check the half-width of the 95 % interval of a gain, from one number a seed of each of two recipes (5 seeds)."""
    t = 2.776  # Student's, 4 degrees of freedom, 97.5 %
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    n, spread = len(differences), stdev(differences)
    apart = math.sqrt(stdev(ours) ** 2 + stdev(theirs) ** 2)
    return check(answer, t * spread / math.sqrt(n), {
        "divide by √5: the mean of five differences spreads less than one of them.": t * spread,
        "1.96 holds for many seeds; five need Student's 2.776.": 1.96 * spread / math.sqrt(n),
        "that is the standard error; multiply by 2.776.": spread / math.sqrt(n),
        "equal seeds belong together: take the spread of the differences, not of both recipes.": t * apart / math.sqrt(n),
        "divide the squares by 4, not by 5 (`statistics.stdev`): the mean was estimated, too.":
            t * pstdev(differences) / math.sqrt(n),
        "that is the mean gain; its uncertainty is asked for.": mean(differences),
        "that is the whole interval; its half on each side is asked for.": 2 * t * spread / math.sqrt(n),
    }, 1e-3)  # fmt: skip
