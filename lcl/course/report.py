"""report.html: one self-contained page on what a run learned."""

from __future__ import annotations

import math
from pathlib import Path

from lcl import storage
from lcl.config import need
from lcl.course import plots
from lcl.course.results import table
from lcl.data.base import PairDataset
from lcl.data.scenes import SPLITS
from lcl.eval.metrics import HELD_OUT, embed
from lcl.train.loop import Step
from lcl.train.runs import Run

jinja2 = need("jinja2", "course")
PAGE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
img { max-width: 100%; height: auto }
table { border-collapse: collapse; font-size: .85rem; display: block; overflow-x: auto }
td { white-space: nowrap }
td, th { padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child { text-align: left }
small, .chance { color: #595959 }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>{{ summary }}</p>
<h2>What it learned</h2>
<table>
{% for row in rows %}
{% set header = loop.first %}
<tr>
{% for cell in row %}
{% if header %}<th scope="col">{{ cell }}</th>{% elif loop.first %}<th scope="row">{{ cell }}</th>
{% else %}<td>{{ cell }}</td>{% endif %}
{% endfor %}
</tr>
{% endfor %}
</table>
<p><small>Percent; in brackets what chance would give.
{% for name, meaning in splits.items() %}<b>{{ name }}</b>: {{ meaning }}.
{% endfor %}</small></p>
{% for figure in figures %}
<h2>{{ figure.title }}</h2>
<p>{{ figure.text }}</p>
<img src="{{ figure.source }}" alt="{{ figure.alt }}">
{% endfor %}
<h2>Where and with what</h2>
<table>
{% for name, value in facts.items() %}
<tr><th scope="row">{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}
</table>
{% if credits %}
<p><small>Drawings: {{ credits | join("; ") }}.</small></p>
{% endif %}
</body>
</html>
"""
)


def write_report(run: Run, source: PairDataset) -> Path:
    """Write report.html into the run's folder; returns its path. It needs no network and no other file."""
    training, seconds = run.profile.training, run.provenance["seconds"]
    steps = [event for event in run.curve if isinstance(event, Step)]  # fewer than were planned, if somebody stopped it
    rows = source.test(run.profile.evaluation.retrieval)
    pairs = rows.take(range(len(rows)))
    v, t = embed(run.model, run.tokenizer, pairs)
    similarity = v @ t.T
    if list(run.recipe.weights) == ["info_nce"]:
        loss = _figure(
            "Loss", plots.loss_curve(run.curve, training.batch_size),
            f"The first loss was {steps[0].loss:.3f}; a guess among {training.batch_size} gives ln {training.batch_size} = "
            f"{math.log(training.batch_size):.3f}.", "Training and validation loss by step, and recall@1 by step.",
        )  # fmt: skip
    else:
        guesses = run.recipe.chance_losses(training.batch_size, run.profile.model.language.vocab_size)
        loss = _figure(
            "Loss", plots.parts_curve(run.curve, guesses),
            "Each part of the loss before weighting (dashed: what a guess would cost), and recall@1 on new pairs.",
            "Every part of the loss by step, and recall@1 by step.",
        )  # fmt: skip
    figures = [
        loss,
        _figure("Images and captions", plots.similarity_matrix(similarity[:24, :24], labels=pairs.captions[:24]),
                "Some new pairs. Every image should be nearest to its own caption: a bright diagonal.",
                "Matrix of cosine similarities of images and captions."),
        _figure("Retrieval", plots.retrieved_images(pairs.captions[:8], range(8), similarity.T[:8], pairs.images),
                f"For some captions the nearest of {len(pairs)} new images; the right one is framed.",
                "Some captions, each with the images that the model finds nearest."),
    ]  # fmt: skip
    machine = run.provenance["machine"]
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
    page = PAGE.render(
        title=f"Run {run.folder.name}", summary=summary, rows=table(run.metrics), figures=figures, facts=facts,
        splits={split: meaning for split, meaning in (SPLITS | HELD_OUT).items() if split in run.metrics}, credits=source.credits,
    )  # fmt: skip
    storage.write_bytes(run.folder / "report.html", page.encode())
    return run.folder / "report.html"


def _figure(title: str, figure, text: str, alt: str) -> dict[str, str]:
    return {"title": title, "source": plots.to_data_url(figure), "text": text, "alt": alt}
