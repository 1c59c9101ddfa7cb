"""The data of the site's interactive figures, made from the course's saved checkpoints and kept in build/site-data.

The notebooks store a still picture where a figure stood. Here the figure is made again, as its chapter makes it, from the
checkpoint that the chapter saved. A figure without a saved checkpoint stays a still picture.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import torch

from lcl import storage
from lcl.config import CHECKOUT, LclError, Profile, from_dict, get_profile, require
from lcl.course import views, widgets
from lcl.course.saved import SHIPPED, folder_of, load_saved
from lcl.data.scenes import Pairs, SceneDataset, open_scenes
from lcl.eval.metrics import embed, evaluate
from lcl.teachers.search import open_neighbours
from lcl.train.loop import Event, Step, Training
from website.figures import KINDS, Figure

KEPT = CHECKOUT / "build" / "site-data"
MOST = 1_500_000  # bytes of one figure's data
POINTS = 2000  # pairs that a map shows


class Saved:
    """A saved checkpoint and its training run, without the data that only training needs."""

    def __init__(self, name: str):
        about = folder_of(name) / "about.json"
        require(about.exists(), f"there is no saved checkpoint {name!r}; `make notebooks` makes those of all chapters.")
        of = storage.read_json(about)["of"]
        profile = from_dict(Profile, of["profile"])
        self.world = open_world()
        teacher = None
        if of["teacher"]:  # it is not asked; its dimensions shape the heads
            chosen = {part: of["recipe"]["ping"][part] for part in ("choice", "own")}
            rows = self.world.train(profile.training.pairs).description
            teacher = SimpleNamespace(dims=tuple(of["teacher"]), description=chosen | {"rows": rows})
        self.training = Training(profile, self.world, seed=of["seed"], device="cpu", teacher=teacher)
        self.curve, self.notes = load_saved(name, self.training)
        self.model, self.tokenizer = self.training.model, self.training.tokenizer


@functools.cache
def open_world() -> SceneDataset:
    """The scenes of the chapters, whatever profile the environment names."""
    return open_scenes(get_profile("laptop").scenes)


@functools.cache
def saved(name: str) -> Saved:
    """A checkpoint by its name; the capstone's by how its name ends, since chapters may be numbered anew."""
    return Saved(next((path.name for path in sorted(SHIPPED.iterdir()) if path.name[2:] == name), name))


def curves(name: str, first: Callable[[list[Event], int], list[Event]] = lambda curve, total: curve) -> widgets.LiveCurves:
    """The curves of a saved run. first: which of its events are shown."""
    run = saved(name)
    shown = widgets.LiveCurves(run.training)
    shown.finish(first(run.curve, run.training.profile.training.steps))
    return shown


def until_the_lights_go_out(curve: list[Event], total: int) -> list[Event]:
    """What the capstone has seen when it stops its run: five steps after the middle."""
    return [event for event in curve if event.step <= total // 2 + (5 if isinstance(event, Step) else 0)]


def scrubber() -> widgets.LabelScrubber:
    """Chapter 4: the labels of 24 scenes by step."""
    run = saved("04-clip+soft")
    cosines = {int(step): torch.tensor(rows) for step, rows in run.notes["cosines"].items()}
    few = run.world.pairs("new_scenes", range(24))
    return widgets.LabelScrubber(few, cosines, run.training.profile.training.steps, run.training.recipe.soft)


def inspector(models: dict[str, Callable[[], Saved | Training]]) -> widgets.AlignmentInspector:
    """Chapters 5 and 7: a dozen scenes and their words, by checkpoint and by solver."""
    pairs, found = open_world().pairs("new_scenes", range(12)), {}
    for name, make in models.items():
        one = make()
        solvers = ("exact", "sinkhorn", "max")
        found[name] = {solver: views.aligned(one.model, one.tokenizer, pairs, solver) for solver in solvers}
    return widgets.AlignmentInspector(pairs, found)


def untrained(name: str) -> Training:
    """A saved run before its first step."""
    run = saved(name).training
    return Training(run.profile, run.source, seed=run.seed, device="cpu")


def guesser() -> widgets.WordGuesser:
    """Chapter 6: hidden words of 16 scenes."""
    run = saved("06-clip+mlm")
    few = run.world.pairs("new_scenes", range(16))
    found = views.blanks(run.model, run.training.extra["masked_language"], run.tokenizer, few)
    return widgets.WordGuesser(few, found)


def browser() -> widgets.NeighbourBrowser:
    """Chapter 8: a dozen scenes and their neighbours, as they ship with the course."""
    world, rows = open_world(), open_world().train(get_profile("laptop").training.pairs)
    scenes = [world.scene("train", index) for index in range(len(rows))]
    return widgets.NeighbourBrowser(world, scenes, range(12), *open_neighbours(rows), most=600)


def embedding_map(name: str, number: int, colours: tuple[str, str]) -> widgets.EmbeddingMap:
    """Chapter 9 and the capstone: images and captions as points. All lie on the map; POINTS of the pairs are shown.

    colours: the schemes in their order.
    """
    run = saved(name)
    mapped = run.world.pairs("new_scenes", range(number))
    v, t = embed(run.model, run.tokenizer, mapped)
    categories = [run.world.pictures.concepts[scene.objects[0].concept].category for scene in mapped.scenes]
    names = sorted(set(categories))
    by_category = torch.tensor([names.index(category) for category in categories]).repeat(2)
    schemes = {"category": (names, by_category), "error": (views.FOUND, views.retrieval_errors(v, t))}
    points = views.coordinates(torch.cat([v, t]), ("UMAP", "PCA"), views.map_key(run.model, mapped.captions))
    few = torch.arange(min(number, POINTS))
    shown = torch.cat([few, few + number])  # images, then captions
    chosen = {which: (schemes[which][0], schemes[which][1][shown]) for which in colours}
    at = {way: found[shown] for way, found in points.items()}
    return widgets.EmbeddingMap(mapped.images[few], mapped.captions[: len(few)], at, chosen)


def contender(name: str, pairs: Pairs) -> views.Contender:
    """A saved run on the board, with the metrics that its chapter measured; measured anew if the code has changed since."""
    run = saved(name)
    evaluation = run.training.profile.evaluation
    metrics = run.notes.get("metrics") or evaluate(run.model, run.tokenizer, run.world, evaluation, run.training.extra)
    return views.contender(run.model, run.tokenizer, pairs, run.curve, metrics)


def board() -> widgets.RunBoard:
    """The capstone: the reader's run, here the saved one, beside three others."""
    names = {"yours": "-lightclip-ping", "clip": "03-clip", "lightclip": "07-lightclip", "clip-ping": "09-clip-ping"}
    pairs = open_world().pairs("new_scenes", range(256))
    return widgets.RunBoard(pairs, {label: contender(name, pairs) for label, name in names.items()})


MAKERS: dict[str, list[Callable[[], widgets.Exhibit]]] = {  # by chapter without its number, in the order of its cells
    "contrastive": [lambda: curves("03-clip")],
    "soft_labels": [lambda: curves("04-clip+soft"), scrubber],
    "bipartite_matching": [
        lambda: curves("05-clip"),
        lambda: curves("05-clip+match"),
        lambda: inspector({"clip+match": lambda: saved("05-clip+match"), "clip": lambda: saved("05-clip")}),
    ],
    "fused_mlm": [lambda: curves("06-clip+mlm"), guesser],
    "lightclip": [
        lambda: curves("07-lightclip"),
        lambda: inspector({"lightclip": lambda: saved("07-lightclip"), "before training": lambda: untrained("07-lightclip")}),
    ],
    "neighbour_mining": [browser],
    "clip_ping": [lambda: curves("09-clip-ping"), lambda: embedding_map("09-clip-ping", 2500, ("category", "error"))],
    "what_neighbours_buy": [lambda: curves("10-clip+distil")],
    "capstone": [
        lambda: curves("-lightclip-ping", until_the_lights_go_out),
        lambda: curves("-lightclip-ping"),
        board,
        lambda: embedding_map("-lightclip-ping", 1500, ("error", "category")),
    ],
}


@functools.cache
def key(*more: Path) -> str:
    """What the data depends on: the library, this module, the checkpoints and more files; another key is other data."""
    kept = (folder_of(path.name) / "about.json" for path in SHIPPED.iterdir())
    digest = hashlib.sha256()
    for path in sorted([*(CHECKOUT / "lcl").rglob("*.py"), *filter(Path.exists, kept), Path(__file__), *more]):
        digest.update("/".join(path.parts[-3:]).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def figure_of(name: str, made: widgets.Exhibit) -> Figure:
    """What the site needs of a chapter's figure: all that its script reads."""
    return Figure(name, KINDS[type(made).__name__], made.label, dict(made.data))


def figures(chapters: list[str], say: Callable[[str], None] = print) -> Iterator[Figure]:
    """Every figure that can be made of these chapters: from build/site-data, or made anew."""
    for chapter in chapters:
        for number, make in enumerate(MAKERS.get(chapter.partition("_")[2], [])):
            place = KEPT / key() / f"{chapter}-{number}.json"
            if not place.exists():
                say(f"making interactive figure {number + 1} of {chapter}")
                try:
                    made = figure_of(f"{chapter}-{number}", make())
                except LclError as error:
                    say(f"{chapter}: figure {number + 1} stays a still picture: {error}")
                    continue
                storage.write_bytes(place, json.dumps(dataclasses.asdict(made), ensure_ascii=False).encode())
            size = place.stat().st_size
            if size > MOST:
                say(f"{chapter}: figure {number + 1} has {size:,} bytes, more than {MOST:,}, and stays a still picture")
                continue
            yield Figure(**json.loads(place.read_text(encoding="utf-8")))
