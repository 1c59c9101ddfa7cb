"""report.html: one self-contained page on what a run learned."""

from pathlib import Path

from lcl import storage
from lcl.config import need
from lcl.course import plots
from lcl.course.metrics import table
from lcl.data.base import PairDataset
from lcl.data.scenes import SPLITS
from lcl.eval.metrics import HELD_OUT, embed
from lcl.train.loop import Step
from lcl.train.runs import Run

jinja2 = need("jinja2", "course")
TEMPLATE = Path(__file__).with_name("report.html.jinja")


def write_report(run: Run, source: PairDataset) -> Path:
    """Write report.html into the run's folder and return its path. The page needs no network and no other file."""
    training, seconds, machine = run.profile.training, run.provenance["seconds"], run.provenance["machine"]
    steps = [event for event in run.curve if isinstance(event, Step)]  # fewer than planned if the training was stopped
    rows = source.test(run.profile.evaluation.retrieval)
    pairs = rows.take(range(len(rows)))
    v, t = embed(run.model, run.tokenizer, pairs)
    similarity = v @ t.T
    chance = run.recipe.chance_losses(training.batch_size, run.profile.model.language.vocab_size)
    first = ", ".join(
        f"{name} {value:.3f}" + (f" (chance: {chance[name]:.3f})" if name in chance else "")
        for name, value in steps[0].losses.items()
    )
    figures = [
        (
            "Loss",
            f"Each part of the loss before weighting, and recall@1 on validation pairs. At the first step: {first}.",
            plots.loss_curve(run.curve, chance),
        ),
        (
            "Images and captions",
            "Some test pairs. Every image should be nearest to its own caption: a bright diagonal.",
            plots.similarity_matrix(similarity[:24, :24], labels=pairs.captions[:24]),
        ),
        (
            "Retrieval",
            f"For some captions the nearest of {len(pairs)} test images; the right one is framed.",
            plots.retrieved_images(pairs.captions[:8], range(8), similarity.T[:8], pairs.images),
        ),
    ]
    facts = {
        "seed": run.seed,
        "steps": len(steps),
        "batch size": training.batch_size,
        "pairs": training.pairs,
        "parameters": f"{sum(p.numel() for p in run.model.parameters()):,}",
        "commit": run.provenance["commit"] or "unknown",
        "machine": f"{machine['processor']}, {machine['threads']} threads, {machine['accelerator'] or 'no accelerator'}",
        "torch": run.provenance["packages"]["torch"],
    } | {f"seconds: {part}": value for part, value in seconds.items()}
    summary = (
        f"Recipe {training.recipe}, profile {run.profile.name}: {len(steps)} steps of {training.batch_size} pairs "
        f"in {seconds['training'] / 60:.1f} minutes."
    )
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=f"Run {run.folder.name}", summary=summary, rows=table(run.metrics), facts=facts, credits=source.credits,
        figures=[(title, text, plots.to_data_url(figure), figure.alt) for title, text, figure in figures],
        splits={split: meaning for split, meaning in (SPLITS | HELD_OUT).items() if split in run.metrics},
    )  # fmt: skip
    storage.write_bytes(run.folder / "report.html", page.encode())
    return run.folder / "report.html"
