"""A method is a recipe: named objectives, each with a weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lcl.config import choose
from lcl.contrastive import info_nce
from lcl.model import Embeddings

Objective = Callable[[Embeddings], dict[str, torch.Tensor]]

OBJECTIVES: dict[str, Objective] = {
    "info_nce": lambda seen: info_nce(seen.v, seen.t, seen.logit_scale),
}
"""What there is to minimise: from a batch's embeddings to named scalars."""


@dataclass(frozen=True)
class Recipe:
    """A method: total loss = Σ weight · objective. `source` says where it was published."""

    name: str
    weights: dict[str, float]
    source: str

    def loss(self, seen: Embeddings) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The weighted total, and its parts before weighting. Scalars."""
        parts: dict[str, torch.Tensor] = {}
        for name in self.weights:
            parts |= OBJECTIVES[name](seen)
        return sum(weight * parts[name] for name, weight in self.weights.items()), parts


RECIPES = {
    recipe.name: recipe for recipe in (Recipe("clip", {"info_nce": 1.0}, "Radford et al. 2021, arXiv 2103.00020"),)
}


def get_recipe(name: str) -> Recipe:
    """The recipe called `name`. Raises LclError, with the near names, if there is none."""
    return RECIPES[choose("recipe", name, RECIPES)]
