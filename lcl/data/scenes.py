"""Scenes: any number of pairs of image and caption, each a function of (seed, split, index).

`SceneDataset.scene` describes a scene in numbers and words; `SceneDataset.render` draws a batch of scenes with integer
arithmetic only, so the pixels are the same in every batch, process and device. Some drawings, pairs and concepts never appear
in the split `train`: they are what evaluation asks for.
"""

from __future__ import annotations

import random
from bisect import bisect, bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import torch

from lcl.config import SceneConfig, choose, require
from lcl.data.base import Samples
from lcl.data.drawn import captions, drawing
from lcl.data.drawn.canvas import PACKED, Canvas, describe
from lcl.data.drawn.captions import Mention
from lcl.data.drawn.colours import COLOURS
from lcl.data.drawn.drawing import GAIN, SHADE, SIZES, Background, SceneObject, bounds, overlap, shrink
from lcl.data.drawn.foils import Facts, Foil, foils
from lcl.data.drawn.pictures import Pictures, load_pictures
from lcl.data.drawn.renaming import renamed
from lcl.storage import fingerprint

SPLITS = {
    "train": "training scenes",
    "new_scenes": "new scenes of known drawings",
    "unseen_drawings": "known objects in a drawing style that training never showed for them",
    "unseen_pairs": "known objects that training never showed together",
    "unseen_concepts": 'objects that training never showed, and named at most in part ("cat" in "cat face")',
}

HELD_OUT_DRAWINGS = 0.25  # share of the known concepts whose first, and another such share whose second drawing is held out
HELD_OUT_PAIRS = 0.1  # share of the pairs of known concepts
MAX_OVERLAP = 0.1  # of the smaller box's area
COUNTS = (0.20, 0.40, 0.25, 0.15)  # how often 1, 2, 3, 4 objects are wanted; one without room is left out
UP_TO = list(accumulate(COUNTS))  # at most so many
VALIDATION_FROM = 1_000_000_000  # the first validation scene, far from the test scenes
TAIL = 30  # the class of rank r is drawn with weight 1 / (r + TAIL), a long tail as on the web


@dataclass(frozen=True)
class Scene:
    """A pair's description, without its pixels. Objects are in drawing order: later ones are on top.

    `facts` is what the caption states, whatever its words; see `captions.compose`.
    """

    split: str
    index: int
    background: Background
    objects: tuple[SceneObject, ...]
    caption: str
    facts: frozenset = field(repr=False)  # its order varies from process to process

    @property
    def concepts(self) -> frozenset[int]:
        """The concepts that the scene shows."""
        return frozenset(obj.concept for obj in self.objects)


@dataclass(frozen=True)
class Pairs:
    """Scenes with their images, (N, 3, H, W) uint8."""

    images: torch.Tensor
    scenes: tuple[Scene, ...]

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def captions(self) -> list[str]:
        return [scene.caption for scene in self.scenes]


class SceneView:
    """A view of a split in order of the index: row i is scene `first + i`."""

    from_files = False

    def __init__(self, world: SceneDataset, count: int, split: str = "train", first: int = 0):
        self.world, self.count, self.split, self.first = world, count, split, first
        self.description = {"data": world.fingerprint, "split": split, "order": "by index", "rows": count}
        if first:
            self.description["first"] = first

    def __len__(self) -> int:
        return self.count

    def captions(self, rows: Sequence[int]) -> list[str]:
        """Captions without images."""
        return [scene.caption for scene in self.scenes(rows)]

    def scenes(self, rows: Sequence[int]) -> list[Scene]:
        """What the pictures show, without images."""
        return [self.world.scene(self.split, self.first + row) for row in rows]

    def take(self, rows: Sequence[int], device: str = "cpu") -> Samples:
        """Images, drawn on `device`, and captions. A scene is always readable."""
        pairs = self.world.pairs(self.split, [self.first + row for row in rows], device=device)
        return Samples(pairs.images, [(caption,) for caption in pairs.captions], list(rows))


class SceneDataset:
    """All scenes of one SceneConfig and one picture dictionary.

    Attributes:
        known: classes of the training, the most frequent first, as numbers in `pictures.concepts`.
        unseen: held-out classes.
        fingerprint: equal fingerprints, equal scenes.

    Raises:
        LclError: if the dictionary has too few classes.
    """

    def __init__(self, config: SceneConfig, pictures: Pictures):
        self.config, self.pictures = config, pictures
        wanted, available = config.known + config.unseen, len(pictures.concepts)
        require(
            wanted <= available, f"{wanted} concepts are asked for, but the pictures hold {available}; ask for fewer."
        )
        identity = asdict(config)
        if config.version == 1:
            del identity["version"]  # as it was before there was a second
        self.fingerprint = fingerprint([identity, pictures.fingerprint])

        rng = random.Random(f"world/{config.seed}")
        if config.version == 1:
            shuffled = sorted(range(available), key=lambda _: rng.random())
            self.known, self.unseen = tuple(shuffled[: config.known]), tuple(shuffled[config.known : wanted])
        else:  # the most familiar; of every few in a row, one is unseen
            starts = [block * wanted // max(config.unseen, 1) for block in range(config.unseen + 1)]
            self.unseen = tuple(a + int(rng.random() * (b - a)) for a, b in zip(starts, starts[1:], strict=False))
            self.known = tuple(sorted(set(range(wanted)) - set(self.unseen)))
        self._hold_out(rng)

        self.sizes = drawing.sizes(config.size)
        self._between = [(small + large) / 2 for small, large in pairwise(self.sizes)]
        used = self.known + self.unseen
        self._rows = {concept: row for row, concept in enumerate(used)}  # where a concept's drawings stand below
        drawings = pictures.drawings[:, list(used)]
        shrunk = [shrink(drawings, size) for size in self.sizes]
        self._bounds = [bounds(each[:, :, 3]) for each in shrunk]
        self._canvas = Canvas(shrunk, config.size)
        hidden = drawing.hidden_on(drawings) if config.version > 1 else {}
        self._hidden = {(style, used[row]): colours for (style, row), colours in hidden.items()}

    def _hold_out(self, rng: random.Random) -> None:
        """Choose what training never sees: `held_drawings` {(style, concept)} and `held_pairs` {{concept, concept}}."""
        styles, quarter = len(self.pictures.styles), int(HELD_OUT_DRAWINGS * len(self.known))
        order = sorted(self.known, key=lambda _: rng.random())
        self.held_drawings = {
            (style, concept)
            for style in range(styles if styles > 1 else 0)
            for concept in order[style * quarter : (style + 1) * quarter]
        }
        self.held_pairs = {
            frozenset((first, second))
            for position, first in enumerate(self.known)
            for second in self.known[:position]
            if rng.random() < HELD_OUT_PAIRS
        }
        self._held_pairs = sorted(map(sorted, self.held_pairs))
        tail = list(accumulate(1 / (rank + TAIL) for rank in range(len(self.known))))
        drawn_anew = tuple(each for each in self.known if any((style, each) in self.held_drawings for style in range(styles)))
        self._choices = {split: (self.known, tail) for split in ("train", "new_scenes")}
        self._choices["unseen_pairs"] = (self.known if self.held_pairs else (), tail)
        for split, concepts in (("unseen_drawings", drawn_anew), ("unseen_concepts", self.unseen)):
            self._choices[split] = (concepts, list(range(1, len(concepts) + 1)))

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self.config.size

    @property
    def credits(self) -> tuple[str, ...]:
        """Whose drawings these are, with their licences."""
        return tuple(f"{style.credit} ({style.licence})" for style in self.pictures.styles)

    def train(self, count: int) -> SceneView:
        """The first `count` scenes of the split `train`."""
        return SceneView(self, count)

    def validation(self, count: int) -> SceneView:
        """New scenes for validation, other than the test scenes."""
        return SceneView(self, count, "new_scenes", VALIDATION_FROM)

    def test(self, count: int) -> SceneView:
        """The first `count` new scenes."""
        return SceneView(self, count, "new_scenes")

    def concepts(self, split: str) -> tuple[int, ...]:
        """The classes that may appear in a split."""
        return self._choices[choose("split", split, SPLITS)][0]

    def styles(self, split: str, concept: int) -> list[int]:
        """The drawing styles in which a split shows a class."""
        styles = range(len(self.pictures.styles))
        if split == "unseen_concepts":
            return list(styles)
        return [style for style in styles if ((style, concept) in self.held_drawings) == (split == "unseen_drawings")]

    def name(self, concept: int) -> str:
        """The name of a class."""
        return self.pictures.concepts[concept].name

    def scene(self, split: str, index: int, single: bool = False) -> Scene:
        """Scene number `index` (0, 1, 2, …) of a split.

        Args:
            split: a key of SPLITS.
            index: 0 or more.
            single: a scene of one object, each class of the split in turn, for zero-shot classification.
        """
        concepts, cumulative = self._choices[choose("split", split, SPLITS)]
        require(len(concepts) > 0, f"this world has nothing for the split {split}: it has too few styles or concepts.")
        rng = random.Random(f"{self.config.seed}/{split}/{index}/{single}")
        chosen = [concepts[index % len(concepts)]] if single else self._draw_concepts(rng, split, concepts, cumulative)
        placed = self._place(rng, split, chosen)
        while split == "unseen_pairs" and not single and not set(chosen[:2]) <= {obj["concept"] for obj in placed}:
            placed = self._place(rng, split, chosen)  # the pair is what this split is for: both must find room
        background = self._background(rng, placed)
        mentions = self._mentions(placed)
        told = rng, list(mentions.values()), background.kind, background.colour, self.config.size
        caption, spans, facts = captions.compose(*told)
        span_of = dict(zip(mentions, spans, strict=True))
        objects = tuple(SceneObject(**obj, span=span_of[obj["concept"]]) for obj in placed)
        return Scene(split, index, background, objects, caption, facts)

    def _mentions(self, objects: Sequence[dict]) -> dict[int, Mention]:
        """The objects of every class together, by class, in the order in which classes first appear."""
        groups: dict[int, list[dict]] = {}
        for obj in objects:
            groups.setdefault(obj["concept"], []).append(obj)
        return {
            number: Mention(
                concept := self.pictures.concepts[number],
                tuple(obj["box"] for obj in group),
                tuple(concept.colours[obj["style"]] for obj in group),
            )
            for number, group in groups.items()
        }

    def foils(self, scene: Scene) -> dict[str, Foil]:
        """Sentences of which one is true and one differs in a fact, by kind; see `foils.foils`. The next scene has that fact."""
        ours, theirs = (
            Facts(list(self._mentions([vars(obj) for obj in each.objects]).values()), each.background.colour)
            for each in (scene, self.scene(scene.split, scene.index + 1))
        )
        return foils(random.Random(f"{self.config.seed}/foils/{scene.split}/{scene.index}"), ours, theirs)

    def _draw_concepts(self, rng: random.Random, split: str, concepts: Sequence[int], cumulative: list) -> list[int]:
        """One to four classes that may appear together; a class twice or three times means as many objects."""
        total = bisect(UP_TO, rng.random()) + 1
        pair = split == "unseen_pairs"
        chosen = list(self._held_pairs[int(rng.random() * len(self._held_pairs))]) if pair else []
        for _ in range(20):
            if len(chosen) >= total:
                break
            drawn = min(bisect(cumulative, rng.random() * cumulative[-1]), len(concepts) - 1)
            concept = concepts[drawn]
            held = any(frozenset((concept, other)) in self.held_pairs for other in chosen)
            if concept in chosen or (held and not pair):
                continue
            several = rng.random() < 0.2 and self.pictures.concepts[concept].counted
            chosen += [concept] * (min(total - len(chosen), 2 + int(rng.random() * 1.3)) if several else 1)
        return chosen

    def _place(self, rng: random.Random, split: str, concepts: Sequence[int]) -> list[dict]:
        """Give every object a drawing, a size and a place with little overlap; leave out one without room."""
        side, placed = self.config.size, []
        low, high = SIZES[len(concepts) - 1]
        for concept in concepts:
            styles = self.styles(split, concept)
            style = styles[int(rng.random() * len(styles))]
            wanted = (low + rng.random() * (high - low)) * side
            level = bisect_left(self._between, wanted)  # the nearest size
            flipped = rng.random() < 0.5 and self.name(concept) not in self.pictures.unmirrored
            gain = round(256 * (GAIN[0] + rng.random() * (GAIN[1] - GAIN[0])))
            for attempt in range(30):
                if attempt % 10 == 9 and level > 0:
                    level -= 1  # a smaller one finds room more easily
                size = self.sizes[level]
                left, top = (int(rng.random() * (side - size + 1)) for _ in range(2))
                x0, y0, x1, y1 = self._bounds[level][style][self._rows[concept]]
                if flipped:
                    x0, x1 = size - x1, size - x0
                box = (left + x0, top + y0, left + x1, top + y1)
                if all(overlap(box, other["box"]) <= MAX_OVERLAP for other in placed):
                    placed.append({"concept": concept, "style": style, "level": level, "left": left, "top": top,
                                   "flipped": flipped, "gain": gain, "box": box})  # fmt: skip
                    break
        return placed

    def _background(self, rng: random.Random, placed: Sequence[dict]) -> Background:
        """A background in a colour that no object has, so that objects stand out."""
        taken = {self.pictures.concepts[obj["concept"]].colours[obj["style"]] for obj in placed}
        hidden = set().union(*(self._hidden.get((obj["style"], obj["concept"]), ()) for obj in placed))
        free = [name for name in COLOURS if name not in taken and name != "black"]
        names = [name for name in free if name not in hidden] or free  # drawings of your own may stand out nowhere
        colour = names[int(rng.random() * len(names))]
        kinds = list(captions.BACKGROUNDS)
        first = tuple(min(255, max(0, value + round((rng.random() - 0.5) * 16))) for value in COLOURS[colour])
        shade = SHADE[0] + 0.06 * rng.random()
        second = tuple(int(value * shade) for value in first)
        period = max(4, int(self.config.size * (0.08 + 0.12 * rng.random())))
        return Background(kinds[int(rng.random() * len(kinds))], colour, first, second, period, int(rng.random() * 2**20))

    def render(self, scenes: Sequence[Scene], device: torch.device | str = "cpu") -> torch.Tensor:
        """Draw a batch of scenes: (B, 3, H, W) uint8 on `device`. Integers only: the same pixels everywhere."""
        return self.draw(self.pack(scenes), device)

    def pack(self, scenes: Sequence[Scene]) -> np.ndarray:
        """Scenes as numbers, all that their pixels depend on: (B,) of `canvas.PACKED`."""
        width, rows = len(self._rows), self._rows
        return np.array(
            [describe(s.background, s.objects, [o.style * width + rows[o.concept] for o in s.objects]) for s in scenes], PACKED
        )

    def draw(self, packed: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
        """What `pack` gave, as images: (B, 3, H, W) uint8 on `device`."""
        return self._canvas.draw(packed, str(device))

    def pairs(
        self, split: str, indices: Iterable[int], single: bool = False, device: torch.device | str = "cpu"
    ) -> Pairs:
        """Scenes with their images, drawn on `device`."""
        scenes = tuple(self.scene(split, index, single) for index in indices)
        parts = [self.render(scenes[start : start + 256], device) for start in range(0, max(len(scenes), 1), 256)]
        return Pairs(torch.cat(parts), scenes)


def open_scenes(config: SceneConfig, pictures_folder: Path | None = None) -> SceneDataset:
    """The scenes of a config, with the installed drawings or those of a folder."""
    pictures = load_pictures(config.size, pictures_folder)
    return SceneDataset(config, renamed(pictures) if config.version > 1 and pictures_folder is None else pictures)
