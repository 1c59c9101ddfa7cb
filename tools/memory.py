"""How much memory a long training on shards takes, by step: of the trainer, and of the processes that read for it.

`python tools/memory.py SHARDS` trains the smoke profile's model on all pairs of a folder, and writes
`results/memory.json` and the figure `docs/memory.png`. It must stay flat: what grows by a little a step ends a long run.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import psutil
from matplotlib.figure import Figure
from tqdm import tqdm

from lcl import storage
from lcl.config import get_profile
from lcl.course import plots
from lcl.data.collection import ShardDataset
from lcl.data.shards import open_shards
from lcl.train.checkpoints import save_checkpoint
from lcl.train.loop import Step, Training
from lcl.train.provenance import provenance

ROOT = Path(__file__).resolve().parent.parent
EVERY, WORKERS = 50, 2


def measure(shards: Path, epochs: int) -> dict:
    """Train, and note the memory every EVERY steps; a checkpoint is written every 500, as in earnest."""
    profile = get_profile("smoke")
    pairs = ShardDataset(open_shards(shards), profile.model.vision.image_size)
    settings = dataclasses.replace(profile.training, pairs=len(pairs), epochs=epochs, batch_size=128, evaluate_every=500)
    training = Training(dataclasses.replace(profile, training=settings), pairs, device="cpu", workers=WORKERS)
    me, rows = psutil.Process(), []
    with tempfile.TemporaryDirectory() as folder:
        for event in tqdm(training, total=settings.steps):
            if isinstance(event, Step) and event.step % EVERY == 0:
                readers = [reader.memory_full_info() for reader in me.children() if reader.is_running()]
                trainer, own = me.memory_info().rss / 2**20, sum(info.uss for info in readers) / 2**20
                rows.append([event.step, round(trainer, 1), round(own, 1)])
                if event.step % 500 == 0:
                    save_checkpoint(Path(folder), training)
    return {
        "pairs": len(pairs), "epochs": epochs, "steps": settings.steps, "workers": WORKERS, "seed": 0,
        "columns": ["step", "trainer, MiB resident", "readers, MiB of their own"], "rows": rows, "provenance": provenance(),
    }  # fmt: skip


def draw(kept: dict) -> Figure:
    """The figure of what `measure` found."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    steps, trainer, readers = zip(*kept["rows"], strict=True)
    axes.plot(steps, trainer, color=plots.BLUE, label="trainer, resident")
    axes.plot(steps, readers, color=plots.ORANGE, ls="--", label=f"{kept['workers']} readers, what is theirs alone")
    per_epoch = kept["steps"] // kept["epochs"]
    for epoch in range(1, kept["epochs"]):
        axes.axvline(epoch * per_epoch, color="#bbb", lw=1, label="an epoch ends" if epoch == 1 else None)
    title = f"{kept['pairs']:,} pairs of 64 × 64 pixels, {kept['epochs']} epochs"
    axes.set(xlabel="step", ylabel="MiB", ylim=(0, None), title=title)
    axes.legend(frameon=False, ncols=3, loc="lower center")
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args()
    found = measure(options.shards, options.epochs)
    storage.write_json(ROOT / "results" / "memory.json", found)
    storage.write_bytes(ROOT / "docs" / "memory.png", plots.to_png(draw(found)))
    for step, trainer, readers in found["rows"][:: max(len(found["rows"]) // 10, 1)]:
        print(f"step {step:5d}: trainer {trainer:.0f} MiB, readers {readers:.0f} MiB")
