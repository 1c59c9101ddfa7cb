"""A made-up plan and its made-up runs, for tests of the pages that report the plan."""

from __future__ import annotations

import copy

import torch

from lcl import storage
from lcl.course.metrics import FOILS, RECALL
from lcl.course.planned import stem_of, told
from lcl.eval.queries import QueryRanks, write_ranks

SEEDS = [0, 1, 2, 3, 4]
QUERIES = 1000
PLAN = {
    "profile": "laptop",
    "options": ["--scenes-version", "2"],
    "arms": {
        "clip": {"recipe": "clip", "options": [], "seeds": SEEDS, "hours": 0.13},
        "siglip": {"recipe": "siglip", "options": [], "seeds": SEEDS, "hours": 0.13},
        "clip-ping": {"recipe": "clip-ping", "options": [], "seeds": SEEDS, "hours": 0.14},
        "clip-ping+oracle": {"recipe": "clip-ping+oracle", "options": [], "seeds": [0, 1, 2], "hours": 0.14},
        "clip, 12 epochs": {"recipe": "clip", "options": ["--epochs", "12"], "seeds": SEEDS, "hours": 0.19},
        "clip, rate 1e-3": {"recipe": "clip", "options": ["--learning-rate", "1e-3"], "seeds": [7], "hours": 0.13},
    },
    "questions": [
        {"question": "Do neighbours help?", "arms": ["clip", "clip-ping"], "metrics": ["recall@1", "ndcg@10"], "shown": ""},
        {"question": "Does a sigmoid help?", "arms": ["clip", "siglip"], "metrics": ["recall@1", "zero_shot_top1"], "shown": ""},
        {
            "question": "Does a rate help?",
            "arms": ["clip", "clip, rate 1e-3", "clip, 12 epochs"],
            "metrics": ["recall@1"], "shown": "",
        },
    ],
    "primary": [
        {"arm": "clip-ping", "over": "clip", "metric": "recall@1", "question": 1},
        {"arm": "clip-ping", "over": "clip", "metric": "ndcg@10", "question": 1},
        {"arm": "siglip", "over": "clip", "metric": "recall@1", "question": 2},
    ],
}


def made_run(arm: str, seed: int, recall: float, plan: dict = PLAN, **others: float) -> dict:
    """A run of an arm with this recall@1 in both directions; `others` are shares by metric, 0.5 if not named."""
    words = plan["arms"][arm]["options"]
    epochs = int(words[words.index("--epochs") + 1]) if "--epochs" in words else 8
    names = ["image_to_text_ndcg@10", "text_to_image_ndcg@10", "zero_shot_top1", *(f"foil_{kind}" for kind in FOILS)]
    shares = dict.fromkeys(names, 0.5) | dict.fromkeys(RECALL, recall)
    for name, share in others.items():
        shares |= dict.fromkeys([each for each in shares if name in each], share)
    training = {"epochs": epochs, "pairs": 16384, "batch_size": 128}
    vision, language = {"pretrained": False}, {"pretrained": False}
    return copy.deepcopy({
        "seed": seed, "steps": epochs * 128, "step_ms": 600.0, "data": "d", "queries": "q", "start": None,
        "told": told(plan, arm, seed),
        "profile": {"name": "laptop", "training": training, "model": {"vision": vision, "language": language}},
        "recipe": {"name": plan["arms"][arm]["recipe"], "ping": {"choice": "objects" if "oracle" in arm else "nearest"}},
        "metrics": {"new_scenes": {name: {"value": share, "chance": 0.01} for name, share in shares.items()}},
        "provenance": {
            "made": f"2026-01-0{seed + 1}", "commit": "0123456789abcdef", "code": "c", "packages": {"torch": "2.11.0+cpu"},
            "machine": {"threads": 1, "accelerator": None},
        },
    })  # fmt: skip


def keep(folder, arm: str, run: dict, seed: int | None = None) -> None:
    """Save a run and ranks that give its recall@1; in the file of another seed, if one is named."""
    stem = f"{stem_of(arm)}-laptop-seed{run['seed'] if seed is None else seed}"
    metrics = run["metrics"]["new_scenes"]
    found = [metrics.get(way, {}).get("value", 0.0) for way in RECALL]
    ranks = [(torch.arange(QUERIES) >= round(share * QUERIES)).long() for share in found]
    storage.write_json(folder / f"{stem}.json", run)
    write_ranks(folder / f"{stem}.safetensors", QueryRanks(run["queries"], *ranks))
