"""One step on a batch that no single forward pass holds: shared among processes, or too large for memory.

Embeddings are small, and what compares every pair with every other needs nothing else. So all pieces of the batch are
embedded first; the loss over all embeddings gives the gradient at each of them; then every piece is taken through the towers
with that gradient (cached features; Gao et al. 2021, arXiv 2101.06983). Each process compares its own rows with all others',
and the sum of these gradients is the whole batch's: nothing is approximated. Objectives that look at patches and words stay
within their piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lcl.models.clip import Clip, Embeddings
from lcl.models.tokenizer import Tokens
from lcl.teachers.teacher import Near, Teacher
from lcl.train.distributed import Team
from lcl.train.recipes import WHOLE, Moment, Recipe


@dataclass(frozen=True)
class Piece:
    """A part of a batch: images (m, 3, H, W) uint8, tokens and indices (m,) of its pairs; and what is random in it."""

    images: torch.Tensor
    tokens: Tokens
    indices: torch.Tensor
    generator: torch.Generator


def backward(
    recipe: Recipe,
    model: Clip,
    extra: nn.ModuleDict,
    pieces: Sequence[Piece],
    progress: float,
    teacher: Teacher | None,
    team: Team,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Put the gradient of a batch's loss at every parameter, the same in every process; where there is one, it is lost.

    pieces: those of this process, of equal size; its rows of the batch come before those of the next rank. Statistics of
    batch norms are each piece's own; what is kept of them is the mean over all pieces.
    Returns the loss, and its parts before weighting: scalars, the same in every process.
    """
    local = [name for name in recipe.weights if name not in WHOLE]
    model.zero_grad(), extra.zero_grad()
    statistics = _Statistics(model)
    with torch.set_grad_enabled(len(pieces) == 1):  # a single piece is not seen twice
        seen = [model(piece.images, piece.tokens) for piece in pieces]

    v, t = (team.gather(torch.cat(rows)).requires_grad_() for rows in zip(*((s.v, s.t) for s in seen), strict=True))
    whole, parts = _compare(recipe, model, extra, v, t, pieces, progress, teacher, team)
    pulls = [team.add(x.grad).split(len(v) // team.size)[team.rank].split(len(pieces[0].indices)) for x in (v, t)]

    for number, (piece, pull_v, pull_t) in enumerate(zip(pieces, *pulls, strict=True)):
        own = seen[number]
        if len(pieces) > 1:
            statistics.restore()
            own = model(piece.images, piece.tokens)
        now = Moment(model, extra, own, piece.tokens, progress, piece.generator)
        share, of_piece = recipe.loss(now, local)
        ((own.v * pull_v).sum() + (own.t * pull_t).sum() + share / len(pieces)).backward()
        statistics.note()
        for name, part in of_piece.items():
            parts[name] = parts.get(name, 0.0) + part.detach() / len(pieces)
        whole = whole + torch.as_tensor(share).detach() / len(pieces)
    statistics.keep(team)
    team.average(p.grad for p in (*model.parameters(), *extra.parameters()) if p.grad is not None)
    told = torch.stack([whole, *(parts[name] for name in recipe.weights)])
    team.average([told])
    return told[0], dict(zip(recipe.weights, told[1:], strict=True))


def _compare(
    recipe: Recipe,
    model: Clip,
    extra: nn.ModuleDict,
    v: torch.Tensor,
    t: torch.Tensor,
    pieces: Sequence[Piece],
    progress: float,
    teacher: Teacher | None,
    team: Team,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The objectives over the embeddings v, t (B, d) of the whole batch, of which this process asks for its rows; and their
    gradients, at v, at t, and at what has its place after the towers: temperature and projections."""
    near, rows = None, len(v) // team.size
    if teacher:
        indices, images = (torch.cat(parts) for parts in zip(*((p.indices, p.images) for p in pieces), strict=True))
        near = extra["projections"](Near(*teacher(indices, images, team.gather)))
    mine = slice(team.rank * rows, (team.rank + 1) * rows) if team.size > 1 else None
    everybody = Embeddings(v, t, model.logit_scale, None, None)
    now = Moment(model, extra, everybody, None, progress, None, near, mine)
    loss, parts = recipe.loss(now, [name for name in recipe.weights if name in WHOLE])
    (loss + 0.0 * (v.sum() + t.sum())).backward()  # also where nothing asks for them
    return torch.as_tensor(loss).detach(), {name: part.detach() for name, part in parts.items()}


class _Statistics:
    """What batch norms keep: every piece starts from the same, and the mean of what the pieces make of it stays."""

    def __init__(self, model: nn.Module):
        self.buffers = list(model.buffers())
        self.before = [buffer.clone() for buffer in self.buffers]
        self.after: list[list[torch.Tensor]] = []

    def restore(self) -> None:
        for buffer, before in zip(self.buffers, self.before, strict=True):
            buffer.copy_(before)

    def note(self) -> None:
        self.after.append([buffer.clone() for buffer in self.buffers])

    def keep(self, team: Team) -> None:
        for buffer, *after in zip(self.buffers, *self.after, strict=True):
            if buffer.is_floating_point():  # counters are the same after each piece
                buffer.copy_(torch.stack(after).mean(0))
        team.average(buffer for buffer in self.buffers if buffer.is_floating_point())
