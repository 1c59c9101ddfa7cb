"""Diagnose encoders that `lcl` did not train: their embeddings, their losses, and the pairs that they learn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from lcl.config import require
from lcl.data.base import Samples
from lcl.data.duplicates import caption_key, group_rows, near_duplicates, perceptual_hash, pixel_hash
from lcl.losses.contrastive import both_ways, own_column
from lcl.train import diagnosis
from lcl.train.diagnosis import Evidence, mean_cosine, pairing_z
from lcl.train.findings import Diagnosis, Finding

MANY_EQUAL = 0.05  # share of a batch that has an equal, from which false negatives matter (our choice)
FEW = 8  # pairs that are embedded again, one at a time


@torch.no_grad()
def diagnose_encoders(
    encode_images: Callable, encode_texts: Callable, images: torch.Tensor, captions: Sequence[str], *,
    batch_size: int | None = None, losses: Sequence[float] = (), logit_scale: float | None = None,
    validation: tuple[torch.Tensor, Sequence[str]] | None = None, frozen: bool = True,
) -> Diagnosis:  # fmt: skip
    """Check any pair of encoders, for example of open_clip, and the pairs that they train on, for the usual faults.

    Args:
        encode_images: a batch of `images`, (n, 3, H, W), to embeddings, (n, d). Put your network into evaluation mode first.
        encode_texts: a list of n captions to embeddings, (n, d).
        images: (N, 3, H, W) uint8 or float, as the encoder takes them; a few hundred training pairs, in the order of training.
        captions: N captions.
        batch_size: pairs that the loss contrasts, B (default: N).
        losses: InfoNCE by step, from the first step on, of the pairs as they are given here.
        logit_scale: the factor of the cosines in the last step; with `losses` it shows if the loss follows from the embeddings.
        validation: held-out images, of any size but in the range of `images`, and their captions, to look for leaks.
        frozen: compare the pairs with two frozen encoders, too (the extra `teachers`).

    Returns:
        One finding a check, as of `diagnose`.

    Raises:
        LclError: for other shapes, too few pairs, and embeddings that are not finite.
    """
    _check_pairs("", images, captions, 3)
    if validation is not None:
        _check_pairs("held-out ", *validation, 1)
    size = len(captions) if batch_size is None else batch_size
    require(size >= 1, f"the batch size is the number of pairs that the loss contrasts, 1 or more, not {size}.")
    captions, losses = list(captions), tuple(losses)
    v, t = _embed(encode_images, images, size, "image"), _embed(encode_texts, captions, size, "text")
    require(v.shape == t.shape, f"embeddings of images are {tuple(v.shape)}, of captions {tuple(t.shape)}; they must be alike.")
    lengths = torch.cat([v, t]).norm(dim=1)
    entropies = None
    if losses and logit_scale is not None:
        b = min(size, len(v))
        rows, columns = (F.cross_entropy(logit_scale * s, own_column(s)).item() for s in both_ways(v[:b], t[:b]))
        entropies = sum(losses[-10:]) / len(losses[-10:]), rows, columns
    pixels = _as_uint8(images, images)
    pairs = Samples(pixels, [(caption,) for caption in captions], [*range(len(captions))]) if frozen else None
    evidence = Evidence(
        size, (lengths.min().item(), lengths.max().item()), (mean_cosine(v), mean_cosine(t)), 1.0, (0, 0), entropies,
        losses, True, (), None, None, 1.0, None, pairs and pairing_z(pairs), (0, 0), 0,
    )  # fmt: skip
    found = [diagnosis.length_one(evidence), diagnosis.not_collapsed(evidence)]
    found += [_alone((encode_images, encode_texts), (images, captions), (v, t)), _own_captions(v, t)]
    found += [diagnosis.captions_belong(evidence), diagnosis.both_directions(evidence), diagnosis.no_leakage(evidence)]
    found += [diagnosis.enough_negatives(evidence)] if losses else []
    keys, pictures = [caption_key(caption) for caption in captions], _groups(pixels)[0]
    found += [_equal_in_batch("captions", keys, size), _equal_in_batch("pictures", pictures, size)]
    if validation is not None:
        known, held_out = _groups(pixels, _as_uint8(validation[0], images))
        found.append(_leaks("pictures", known, held_out, 0.0))
        found.append(_leaks("captions", keys, [caption_key(caption) for caption in validation[1]], MANY_EQUAL))
    return Diagnosis(finding for finding in found if finding is not None)


def _check_pairs(which: str, images: torch.Tensor, captions: Sequence[str], fewest: int) -> None:
    shape = tuple(getattr(images, "shape", ()))
    fits = isinstance(images, torch.Tensor) and len(shape) == 4 and shape[1] == 3
    require(fits, f"{which}images must be a tensor (N, 3, H, W), not {shape or type(images).__name__}; stack single images.")
    require(not isinstance(captions, str), f"{which}captions must be a list of strings, not {captions!r}.")
    counts = f"there are {len(images)} {which}images and {len(captions)} captions"
    require(len(images) == len(captions) >= fewest, f"{counts}; hand over one caption an image, and {fewest} pairs or more.")


def _embed(encode: Callable, items, size: int, kind: str) -> torch.Tensor:
    """All embeddings, (N, d) float32, in batches."""
    parts = [torch.as_tensor(encode(items[start : start + size])) for start in range(0, len(items), size)]
    x = torch.cat([part.float().cpu() for part in parts])
    require(x.ndim == 2 and len(x) == len(items), f"the {kind} encoder made {tuple(x.shape)} of {len(items)}; (N, d) is needed.")
    bad = int((~x.isfinite()).any(1).sum())
    require(not bad, f"{bad} of {len(x)} {kind} embeddings hold NaN or infinity; look for a loss that did, and half precision.")
    return x


def _as_uint8(images: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Any range to 0…255: floats are stretched as `reference` needs. (N, 3, H, W)."""
    if images.dtype == torch.uint8:
        return images.cpu()
    low, high = reference.float().aminmax()
    return ((images.float() - low) / (high - low).clamp(min=1e-6) * 255).round().clamp(0, 255).byte().cpu()


def _groups(*sets: torch.Tensor) -> list[list[int]]:
    """The number of every picture, the same for equal pictures and near-duplicates. Each set: (N, 3, H, W) uint8."""
    small = [F.interpolate(pixels.float(), (64, 64), mode="area").round().byte() for pixels in sets]  # as hashes need it
    exact, looks = (torch.tensor([of(each) for pixels in small for each in pixels]) for of in (pixel_hash, perceptual_hash))
    return [part.tolist() for part in group_rows([exact, looks], near_duplicates(looks)).split([*map(len, sets)])]


def _alone(encoders: tuple, items: tuple, embeddings: tuple) -> Finding:
    """An embedding that does not depend on its batch. Each argument: of images, and of captions."""
    rows = sorted(range(len(items[1])), key=lambda row: len(items[1][row]))[:FEW]  # short captions have the most padding
    image, text = (
        min(F.cosine_similarity(_embed(encode, one[row : row + 1], 1, kind), x[row : row + 1]).item() for row in rows)
        for encode, one, x, kind in zip(encoders, items, embeddings, ("image", "text"), strict=True)
    )
    fix = "an embedding depends on its batch: call eval(), for dropout and batch norm, and mask the padding"
    said = f"cosine alone and in a batch: of an image {image:.4f}, of a caption {text:.4f}"
    return Finding("independence", said, fix if min(image, text) < 0.999 else "")


def _own_captions(v: torch.Tensor, t: torch.Tensor) -> Finding:
    """Pairs that are more similar than an image and another's caption."""
    s = F.normalize(v, dim=1) @ F.normalize(t, dim=1).T
    own, other = s.diagonal(), (s.sum(1) - s.diagonal()) / (len(s) - 1)
    gain = own - other
    errors = (gain.mean() / (gain.std() / len(s) ** 0.5).clamp(min=1e-9)).item()
    said = f"cosine of a pair {own.mean():.3f}, of others {other.mean():.3f} ({errors:.0f} standard errors apart)"
    fix = "the encoders do not know these pairs: they are untrained, or images and captions are not in the same order"
    return Finding("own captions", said, fix if errors < 3 else "")


def _equal_in_batch(what: str, keys: Sequence, size: int) -> Finding:
    """Few pairs of a batch that have an equal: each is a false negative of the other."""
    counts = [Counter(keys[start : start + size]) for start in range(0, len(keys), size)]
    share = sum(n for batch in counts for n in batch.values() if n > 1) / len(keys)
    said = f"{share:.1%} of the {what} have an equal in their batch of {min(size, len(keys))}"
    fix = "these are false negatives: keep equal ones out of a batch, or soften their labels"
    return Finding(f"equal {what}", said, fix if share > MANY_EQUAL else "")


def _leaks(what: str, ours: Sequence, held_out: Sequence, allowed: float) -> Finding:
    """Held-out data that are not in training, too; `allowed`: the share that may be."""
    share = sum(map(set(ours).__contains__, held_out)) / len(held_out)
    said = f"{share:.1%} of {len(held_out):,} held-out {what} are among the {len(ours):,} of training"
    fix = f"recall on them measures memory: take them out, with all {what} that look or read the same"
    return Finding(f"held-out {what}", said, fix if share > allowed else "")
