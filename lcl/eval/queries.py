"""More about retrieval among scenes: ranks of single queries, recall by number of objects, an oracle, a larger gallery."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from lcl import storage
from lcl.config import require
from lcl.data.duplicates import pixel_hash
from lcl.data.scenes import Pairs, Scene
from lcl.eval.grounding import Metric
from lcl.eval.retrieval import Candidates, agreeing, candidates, chance_of_recall, ranks, retrieval

RANKS = "ranks.safetensors"  # in a run's folder


class QueryRanks(NamedTuple):
    """How many candidates come before the first right one, for every query of retrieval.

    Attributes:
        queries: fingerprint of the queries, the candidates, and which of them belong together.
        image_to_text, text_to_image: (P,) and (C,) int64, 0 or more, of the distinct pictures and captions.
    """

    queries: str
    image_to_text: torch.Tensor
    text_to_image: torch.Tensor


def rank_queries(v: torch.Tensor, t: torch.Tensor, pairs: Pairs, found: Candidates) -> QueryRanks:
    """The rank of every query. v: (P, d) and t: (C, d), embeddings of the candidates that were found among the pairs."""
    similarity = v @ t.T
    shown = [pixel_hash(pairs.images[row]) for row in found.rows]
    queries = storage.fingerprint([shown, found.captions, found.right.nonzero().tolist()])
    return QueryRanks(queries, ranks(similarity, found.right), ranks(similarity.T, found.right.T))


def write_ranks(path: Path, ranked: QueryRanks) -> None:
    """Write ranks to a safetensors file of two int32 tensors; the fingerprint of the queries is its metadata."""
    tensors = {"image_to_text": ranked.image_to_text.int(), "text_to_image": ranked.text_to_image.int()}
    storage.write_tensors(path, tensors, {"queries": ranked.queries})


def read_ranks(path: Path) -> QueryRanks:
    """Read what `write_ranks` wrote. Raises LclError for a missing or damaged file."""
    tensors, queries = storage.read_tensors(path), storage.read_metadata(path).get("queries")
    whole = queries and tensors.keys() == {"image_to_text", "text_to_image"}
    require(bool(whole), f"{path} does not hold the ranks of queries; evaluate the run again.")
    return QueryRanks(queries, *(tensors[way].long() for way in ("image_to_text", "text_to_image")))


def recall_by_objects(ranked: torch.Tensor, scenes: Sequence[Scene], found: Candidates) -> dict[str, Metric]:
    """Recall@1 of pictures with 1, 2, 3 and 4 objects, each among all captions: "image_to_text_recall@1_objectsN".

    Args:
        ranked: (P,) int64, the ranks of the pictures.
        scenes: of the pairs.
        found: the candidates that were found among the pairs.

    Returns:
        For every number of objects its value, chance, and the numbers of queries and candidates.
    """
    objects, metrics = torch.tensor([len(scenes[row].objects) for row in found.rows]), {}
    for number in sorted(set(objects.tolist())):
        some = objects == number
        metrics[f"image_to_text_recall@1_objects{number}"] = {
            "value": (ranked[some] < 1).double().mean().item(), "chance": chance_of_recall(found.right[some], 1),
            "queries": int(some.sum()), "candidates": len(found.captions),
        }  # fmt: skip
    return metrics


def object_oracle(scenes: Sequence[Scene], found: Candidates) -> dict[str, Metric]:
    """The recall@1 to expect of an oracle that knows only objects: "image_to_text_recall@1_object_oracle".

    The oracle knows which classes a picture shows, and how many objects of each, and the same of every caption: a caption names
    all objects of its scene. It knows no size, colour, place or background. The captions that agree with the picture in every
    object come first, the right one among them, and the oracle guesses among these. A model that recognises objects alone
    reaches no more; what is above needs relations and attributes.

    Args:
        scenes: of the pairs.
        found: the candidates that were found among the pairs.

    Returns:
        Its value, the chance of recall@1, and the numbers of queries and candidates.
    """
    agree = agreeing([tuple(sorted(obj.concept for obj in scene.objects)) for scene in scenes], found)  # (P, C)
    value = (agree & found.right).sum(1) / agree.sum(1)
    sizes = {"queries": len(found.rows), "candidates": len(found.captions)}
    metric = {"value": value.double().mean().item(), "chance": chance_of_recall(found.right, 1)} | sizes
    return {"image_to_text_recall@1_object_oracle": metric}


def gallery_retrieval(
    pairs: Pairs, more: Pairs, v: torch.Tensor, t: torch.Tensor,
    embed_images: Callable[[torch.Tensor], torch.Tensor], embed_texts: Callable[[list[str]], torch.Tensor],
) -> dict[str, Metric]:  # fmt: skip
    """Retrieval among more scenes: the metrics of `retrieval` and `object_oracle`, their names with "_gallery".

    As is usual for the 5,000 test pictures of COCO, every picture and every caption of the gallery is a query.

    Args:
        pairs, more: the scenes of the gallery; those of `pairs` are embedded already.
        v, t: (P, d) and (C, d), the embeddings of the distinct pictures and captions of `pairs`, which are not computed again.
        embed_images: (N, 3, H, W) uint8 → (N, d).
        embed_texts: N strings → (N, d).
    """
    every = Pairs(torch.cat([pairs.images, more.images]), pairs.scenes + more.scenes)
    found = candidates(every)  # in the order in which they first appear, so those of `pairs` come first
    v = torch.cat([v, embed_images(every.images[found.rows[len(v) :]])])
    t = torch.cat([t, embed_texts(found.captions[len(t) :])])
    metrics = retrieval(v, t, found.right) | object_oracle(every.scenes, found)
    return {f"{name}_gallery": metric for name, metric in metrics.items()}
