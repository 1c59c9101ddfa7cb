"""Things to look at and play with, a thin layer over `plots` and `views`.

Exhibits send everything at once: on the page they need neither kernel nor network. Explorers ask the kernel to draw again.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image as Picture

from lcl.config import need, require
from lcl.course import charts, plots
from lcl.course.plots import Chart, as_pixels, to_data_url, to_png
from lcl.course.results import COLUMNS, in_percent
from lcl.course.views import CONDITIONS, Aligned, Blank, Contender
from lcl.data.scenes import Pairs, Scene, SceneDataset
from lcl.eval.metrics import relevance
from lcl.losses.contrastive import ramp, soft_targets
from lcl.teachers.search import Neighbours
from lcl.train.loop import Event, Step, Training, Validation
from lcl.train.recipes import SoftConfig

anywidget, ipywidgets, traitlets = (need(module, "course") for module in ("anywidget", "ipywidgets", "traitlets"))
display = need("IPython.display", "course").display

WIDE = {"description_width": "initial"}


class Explorer(ipywidgets.VBox):
    """Controls above a picture; the picture is drawn again, by the kernel, when a control moves.

    draw: a pure function from the controls' values, by name, to a Chart. An error in it is shown in a visible label.
    Where no kernel runs (GitHub, a saved page), the first picture is shown as it is.
    """

    def __init__(self, draw: Callable[..., Chart], **controls: ipywidgets.Widget):
        self._draw, self._controls, self._still = draw, controls, Chart(4, 1, "Nothing could be drawn.")
        self.picture, self.problem = ipywidgets.HTML(), ipywidgets.Label()
        super().__init__([*controls.values(), self.problem, self.picture])
        for control in controls.values():
            control.observe(self._redraw, "value")
        self._redraw()

    def _redraw(self, change: dict | None = None) -> None:
        try:
            chart = self._draw(**{name: control.value for name, control in self._controls.items()})
        except Exception as error:  # whatever it is, the reader should see it, not an unchanged picture
            self.problem.value = f"This setting does not work: {error}"
            return
        self.problem.value = ""
        self.picture.value = f'<img alt="{html.escape(chart.alt)}" src="{to_data_url(chart)}" style="max-width: 100%">'
        self._still = chart

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        return _with_still(super()._repr_mimebundle_(**kwargs), self._still)


def _with_still(bundle: dict | tuple[dict, dict], still: Chart) -> tuple[dict, dict]:
    """A widget's bundle with the picture that stands for it where no kernel runs."""
    bundle = bundle[0] if isinstance(bundle, tuple) else bundle
    picture = base64.b64encode(to_png(still)).decode()
    return bundle | {"image/png": picture, "text/plain": still.alt}, {"image/png": {"alt": still.alt}}


def slider(description: str, low: float, high: float, value: float, step: float | None = None) -> ipywidgets.Widget:
    """A labelled slider: whole numbers where all its limits are, else fractions."""
    whole = all(isinstance(number, int) for number in (low, high, value)) and step is None
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    return kind(value, min=low, max=high, step=step or (1 if whole else (high - low) / 100), description=description,
                continuous_update=False, style=WIDE, layout={"width": "32em"})  # fmt: skip


def stops(description: str, values: list, value: object) -> ipywidgets.SelectionSlider:
    """A labelled slider that stops at these values alone: for what has an order, but no even steps."""
    return ipywidgets.SelectionSlider(options=values, value=value, description=description, continuous_update=False,
                                      style=WIDE, layout={"width": "32em"})  # fmt: skip


def dropdown(description: str, options: list) -> ipywidgets.Dropdown:
    """A labelled choice. options: values, or (label, value) pairs. By keyboard: space, arrows, enter."""
    return ipywidgets.Dropdown(options=options, description=description, style=WIDE)


def _beside(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _script(name: str) -> str:
    """The page's side of an exhibit: one module, made of what all share and its own file."""
    return _beside("common.js") + _beside(f"{name}.js")


class Exhibit(anywidget.AnyWidget):
    """What all exhibits share: a label for those who do not see it, the data, and a still picture for where no kernel runs.

    Its script shows an error in a visible label, works by mouse and by keyboard, and tells what is looked at in words.
    """

    _css = _beside("common.css")
    label = traitlets.Unicode().tag(sync=True)
    data = traitlets.Dict().tag(sync=True)

    def __init__(self, label: str, data: dict, still: Chart):
        super().__init__(label=label, data=data)
        self.still = still

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        return _with_still(super()._repr_mimebundle_(**kwargs), self.still)


def to_picture(image: torch.Tensor) -> str:
    """An image as a data URL, without loss. image: (3, H, W) uint8."""
    return _data_url(Picture.fromarray(as_pixels(image)), "PNG")


def atlas(images: torch.Tensor, side: int | None = None) -> dict:
    """Many images in one JPEG, side by side: {"src": data URL, "columns": int}. images: (N, 3, H, W) uint8. side: of each."""
    if side and side != images.shape[-1]:
        images = F.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True).round().to(torch.uint8)
    columns, side = math.ceil(math.sqrt(len(images))), images.shape[-1]
    rows = math.ceil(len(images) / columns)
    sheet = torch.full((rows * columns, 3, side, side), 255, dtype=torch.uint8)
    sheet[: len(images)] = images
    sheet = sheet.view(rows, columns, 3, side, side).permute(2, 0, 3, 1, 4).reshape(3, rows * side, columns * side)
    return {"src": _data_url(Picture.fromarray(as_pixels(sheet)), "JPEG"), "columns": columns}


def _data_url(picture: Picture.Image, form: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, form, **({"quality": 85} if form == "JPEG" else {}))
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


class AlignmentInspector(Exhibit):
    """Scenes and their words: a word lights up the patches that it is matched to, with their shares.

    pairs: S scenes. found: {checkpoint: {solver: for every scene what `views.aligned` tells}}.
    """

    _esm = _script("alignment")

    def __init__(self, pairs: Pairs, found: Mapping[str, Mapping[str, Sequence[Aligned]]]):
        require(bool(found) and len(pairs) > 0, "hand over a checkpoint and a scene, or more.")
        solvers = list(next(iter(found.values())))
        rows = [row for by_solver in found.values() for row in by_solver.values()]
        same = all(list(by_solver) == solvers for by_solver in found.values()) and {len(row) for row in rows} == {len(pairs)}
        require(same, "every checkpoint needs every solver, and each of these all scenes.")
        first = rows[0]
        scenes = [
            {"src": to_picture(image), "caption": scene.caption, "words": list(one.words), "boxes": [list(b) for b in one.boxes]}
            for image, scene, one in zip(pairs.images, pairs.scenes, first, strict=True)
        ]
        plans = [[[_sparse(one.plan) for one in found[name][solver]] for solver in solvers] for name in found]
        binned = [
            [[[round(1 - share, 3) for share in one.plan.sum(1).tolist()] for one in found[name][solver]] for solver in solvers]
            for name in found
        ]
        data = {
            "scenes": scenes, "checkpoints": list(found), "solvers": solvers, "plans": plans, "binned": binned,
            "side": pairs.images.shape[-1], "rows": math.isqrt(first[0].plan.shape[1]),
        }  # fmt: skip
        best = [int(row.argmax()) if row.sum() > 0.5 else -1 for row in first[0].plan]
        title = f"{next(iter(found))}, {solvers[0]}"
        still = plots.word_lines(pairs.images[0], first[0].words, best, first[0].plan.shape[1], first[0].boxes, title)
        super().__init__("Alignment inspector: a scene, and its caption's words; a word lights up its patches.", data, still)


def _sparse(plan: torch.Tensor) -> list[list[list[float]]]:
    return [[[n, round(share, 3)] for n, share in enumerate(row) if share > 0.02] for row in plan.tolist()]


class LabelScrubber(Exhibit):
    """Softened labels of a batch at every step that was kept, beside the things that its scenes share.

    pairs: N scenes, few enough to see each. cosines: {step: (N, N)}, images down, captions across. total: steps of the
    training, by which α grows as `soft` says.
    """

    _esm = _script("labels")

    def __init__(self, pairs: Pairs, cosines: Mapping[int, torch.Tensor], total: int, soft: SoftConfig):
        steps, shared = list(cosines), relevance(pairs.scenes)
        alphas = [ramp(soft.schedule, soft.alpha_max, min(1.0, step / total)) for step in steps]
        data = {
            "steps": steps, "cosines": [[[round(s, 4) for s in row] for row in cosines[step].tolist()] for step in steps],
            "alphas": alphas, "temperature": soft.temperature, "shared": shared.tolist(),
            "captions": pairs.captions, "atlas": atlas(pairs.images),
        }  # fmt: skip
        labels = soft_targets(cosines[steps[-1]], alphas[-1], soft.temperature)
        still = plots.soft_labels(labels, shared, f"labels at step {steps[-1]}, α {alphas[-1]:.2f}")
        super().__init__("Label scrubber: a batch's softened labels by step, beside what its scenes share.", data, still)


class WordGuesser(Exhibit):
    """Captions with a word hidden, and what is guessed with the true image, without one, and with a wrong one.

    pairs: scenes; found: what `views.blanks` tells of them.
    """

    _esm = _script("guesser")

    def __init__(self, pairs: Pairs, found: Sequence[Sequence[Blank]]):
        require(len(found) == len(pairs), f"there are guesses for {len(found)} scenes, but {len(pairs)} scenes.")
        scenes = []
        for row, (scene, words) in enumerate(zip(pairs.scenes, found, strict=True)):
            names = {scene.caption[slice(*obj.span)] for obj in scene.objects}
            asked = [word for word, blank in enumerate(words) if blank.text in names]
            told = [{"text": b.text, "token": b.token, "wrong": b.wrong, "guesses": [list(g) for g in b.guesses]} for b in words]
            scenes.append({"caption": scene.caption, "image": row, "words": told, "start": asked[0] if asked else 0})
        data = {"scenes": scenes, "conditions": list(CONDITIONS), "atlas": atlas(pairs.images)}
        at = scenes[0]["start"]
        blank = found[0][at]
        guesses = [([word for word, _ in best], torch.tensor([share for _, share in best])) for best in blank.guesses]
        text = " ".join("[MASK]" if number == at else one.text for number, one in enumerate(found[0]))
        still = plots.word_guesses([pairs.images[0], None, pairs.images[blank.wrong]], CONDITIONS, guesses, text)
        super().__init__("Masked-word guesser: hide a word of a caption and see what is guessed, by which image.", data, still)


class NeighbourBrowser(Exhibit):
    """Scenes and their nearest, by image and by caption; which half of each is a target of CLIP-PING (NN, XNN).

    scenes: all that were searched; queries: those that can be looked at, by number. k: neighbours of each.
    """

    _esm = _script("neighbours")

    def __init__(
        self,
        world: SceneDataset,
        scenes: Sequence[Scene],
        queries: Sequence[int],
        by_image: Neighbours,
        by_caption: Neighbours,
        k: int = 5,
    ):
        both = {"image": by_image, "caption": by_caption}
        short = any(int(near.indices[list(queries), :k].min()) < 0 for near in both.values())
        require(not short, f"some scene has fewer than {k} neighbours; search exactly, or ask for fewer.")
        found = {name: near.indices[list(queries), :k].tolist() for name, near in both.items()}
        used = sorted({*queries, *(row for rows in found.values() for near in rows for row in near)})
        number = {row: place for place, row in enumerate(used)}
        images = world.render([scenes[row] for row in used])

        def rows(name: str, near: Neighbours) -> list[list[list[float]]]:
            return [
                [
                    [number[row], round(cosine, 4), len(scenes[row].concepts & scenes[query].concepts)]
                    for row, cosine in zip(chosen, near.similarities[query].tolist(), strict=False)
                ]
                for query, chosen in zip(queries, found[name], strict=True)
            ]

        data = {
            "queries": [number[query] for query in queries], "captions": [scenes[row].caption for row in used],
            "atlas": atlas(images), "by_image": rows("image", by_image), "by_caption": rows("caption", by_caption),
        }  # fmt: skip
        first = {
            how: [(images[row], scenes[used[row]].caption, cosine, shared) for row, cosine, shared in data[key][0]]
            for how, key in (("by image", "by_image"), ("by caption", "by_caption"))
        }
        start = number[queries[0]]
        still = plots.neighbour_sheet(images[start], scenes[queries[0]].caption, first)
        super().__init__("Neighbour browser: a scene and its nearest, by image and by caption.", data, still)


class EmbeddingMap(Exhibit):
    """Images and captions as points, images first: hover or go from point to point, gather them, colour them.

    images: (N, 3, H, W) uint8, the pictures; captions: N. coordinates: {way: (2N, 2), 0 to 1}, of the images, then of the
    captions. colours: {what: (names of at most six groups, (2N,) int64 group of every point)}. `chosen` holds the numbers
    of the points that the reader gathered.
    """

    _esm = _script("map")
    chosen = traitlets.List().tag(sync=True)

    def __init__(
        self,
        images: torch.Tensor,
        captions: Sequence[str],
        coordinates: Mapping[str, torch.Tensor],
        colours: Mapping[str, tuple[Sequence[str], torch.Tensor]],
    ):
        number = len(images)
        sizes = {len(points) for points in coordinates.values()} | {len(of) for _, of in colours.values()}
        fits = sizes == {2 * number} and len(captions) == number
        require(fits, f"{number} pairs need {2 * number} points, and as many colours.")
        modality = torch.arange(2).repeat_interleave(number)  # (2N,)
        colours = dict(colours) | {"modality": (["image", "caption"], modality)}
        require(all(len(names) <= len(plots.CYCLE) for names, _ in colours.values()), "more groups than colours to tell apart.")
        data = {
            "captions": [*captions, *captions], "picture": [*range(number)] * 2, "modality": modality.tolist(),
            "atlas": atlas(images, 32 if number > 1000 else None),
            "coordinates": [
                {"name": way, "points": [[round(x, 4), round(y, 4)] for x, y in points.tolist()]}
                for way, points in coordinates.items()
            ],
            "colours": [
                {"name": what, "names": list(names), "of": of.tolist(), "tell": what != "modality"}
                for what, (names, of) in colours.items()
            ],
        }  # fmt: skip
        still = plots.embedding_map(coordinates, *next(iter(colours.values())), next(iter(colours)), number)
        super().__init__(f"Embedding map of {number} images and their captions.", data, still)


class RunBoard(Exhibit):
    """Runs beside each other, two at a time: their curves, their figures on every split, the pairs on which they disagree.

    pairs: N of them, all of which every run was asked about. runs: two or more, by name; see `views.contender`.
    """

    _esm = _script("board")

    def __init__(self, pairs: Pairs, runs: Mapping[str, Contender]):
        require(len(runs) >= 2, "a board needs two runs or more to put beside each other.")
        asked = {len(found) for run in runs.values() for found in run.answers.values()}
        require(asked == {len(pairs)}, f"every run must have been asked about all {len(pairs)} pairs.")
        data = {
            "captions": pairs.captions, "atlas": atlas(pairs.images), "figures": list(COLUMNS.values()),
            "splits": list(dict.fromkeys(split for run in runs.values() for split in run.metrics)),
            "runs": [
                {
                    "name": name, "steps": charts.planned_steps(run.curve),
                    "looks": [list(dataclasses.astuple(e)) for e in run.curve if isinstance(e, Validation)],
                    "table": {split: in_percent(figures) for split, figures in run.metrics.items()},
                    "answers": {way: list(found) for way, found in run.answers.items()},
                }
                for name, run in runs.items()
            ],
        }  # fmt: skip
        two, split = dict(list(runs.items())[:2]), data["splits"][0]
        figures = {name: in_percent(run.metrics[split]) for name, run in two.items()}
        still = charts.two_runs({name: run.curve for name, run in two.items()}, figures, split)
        label = "Run board: two runs beside each other, curves, figures, and pictures on which they disagree."
        super().__init__(label, data, still)


def _pace(step: Step) -> str:
    minutes = step.seconds_left / 60
    left = f"{minutes:.0f} minutes" if minutes > 1.5 else f"{step.seconds_left:.0f} seconds"
    return f"step {step.step:,} of {step.total:,} · {step.pairs_per_second:,.0f} pairs/s · about {left} left"


class LiveCurves(Exhibit):
    """A training's curves, which grow while it runs: `show` once, `add` every event, `close` at the end.

    What was added stands still, and can still be read, when the kernel is busy or gone.
    """

    _esm = _script("curves")
    EVERY = 0.5  # seconds between two pictures

    def __init__(self, training: Training):
        config = training.profile.training
        self._curve: list[Event] = []
        self._batch_size, self._drawn, self._handle = config.batch_size, 0.0, None
        self._guesses = training.recipe.chance_losses(config.batch_size, training.profile.model.language.vocab_size)
        empty = {
            "total": config.steps, "guess": math.log(config.batch_size), "guess_name": f"ln {config.batch_size}: a guess",
            "steps": [], "losses": {}, "looks": [], "pace": "",
            "message": "Preparing: the first scenes are drawn, which takes a while.",
        }  # fmt: skip
        super().__init__("Training curves: losses and recall@1 by step.", empty, self._draw_still())

    def show(self) -> None:
        """Put it below the cell."""
        self._handle = display(self, display_id=True)

    def add(self, event: Event) -> None:
        """Tell it what happened."""
        self._curve.append(event)
        if isinstance(event, Validation) or time.perf_counter() - self._drawn > self.EVERY:
            self._draw("Training.")

    def close(self, curve: Sequence[Event] | None = None) -> None:
        """The last word; the still picture for where no kernel runs is of now. curve: of a training that ran elsewhere."""
        self._curve = list(self._curve if curve is None else curve)
        self._draw("Done." if self._curve and self._curve[-1].step == self.data["total"] else "Stopped.")
        self.still = self._draw_still()
        if self._handle:
            self._handle.update(self)

    def _draw_still(self) -> Chart:
        parts = next((len(event.losses) for event in self._curve if isinstance(event, Step)), 1)
        return plots.parts_curve(self._curve, self._guesses) if parts > 1 else plots.loss_curve(self._curve, self._batch_size)

    def _draw(self, message: str) -> None:
        steps = [event for event in self._curve if isinstance(event, Step)]
        thin = steps[:: math.ceil(len(steps) / 600) or 1]
        thin += steps[-1:] if thin and thin[-1] is not steps[-1] else []
        names = list(thin[0].losses) if thin else []
        self.data = self.data | {
            "message": message,
            "pace": _pace(steps[-1]) if steps and message == "Training." else "",
            "steps": [step.step for step in thin],
            "losses": {name: [round(step.losses[name], 4) for step in thin] for name in names},
            "looks": [[e.step, e.loss, e.image_to_text, e.text_to_image] for e in self._curve if isinstance(e, Validation)],
        }
        self._drawn = time.perf_counter()
