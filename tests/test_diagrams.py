"""Diagrams: the saved files are those that the code draws, and people can read them in light and dark themes."""

import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest

import diagrams
from diagrams import lightclip
from diagrams.canvas import COLOURS, Diagram

FOLDER = Path(__file__).resolve().parent.parent / "notebooks" / "diagrams"
SHEETS = diagrams.diagrams()


def luminance(colour: str) -> float:
    """Relative luminance, 0 to 1 (WCAG 2.1)."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_saved_diagrams_are_those_that_the_code_draws():
    assert sorted(path.stem for path in FOLDER.glob("*.svg")) == sorted(SHEETS), "`make diagrams` draws them"
    for name in ("map-03", "05-matching"):
        text = (FOLDER / f"{name}.svg").read_text(encoding="utf-8")
        assert text == diagrams.diagrams()[name].svg() == SHEETS[name].svg(), f"{name}: `make diagrams` draws it anew"


@pytest.mark.parametrize("name", SHEETS)
def test_words_stay_on_the_sheet_in_their_boxes_and_apart(name):
    assert SHEETS[name].overlaps() == []


@pytest.mark.parametrize("number", range(15))
def test_every_chapter_shows_its_map_and_its_diagram_with_their_words(number):
    path = next(FOLDER.parent.glob(f"{number:02d}_*.ipynb"))
    cells = nbformat.read(path, as_version=4).cells
    shown = re.findall(r"^!\[([^\]]+)\]\(diagrams/([\w-]+)\.svg\)$", "\n".join(cell.source for cell in cells), flags=re.M)
    own = [name for name in SHEETS if name.startswith(f"{number:02d}-")]
    assert [name for _, name in shown] == [f"map-{number:02d}", *own]
    assert all(words == SHEETS[name].alt for words, name in shown) and "map-" not in "".join(c.source for c in cells[1:])


def test_words_that_cover_others_or_leave_their_box_are_found():
    sheet = Diagram(100, "A test.")
    sheet.box(100, 50, "far too long for such a box", width=60)
    sheet.text(300, 50, "over"), sheet.text(302, 52, "under"), sheet.text(640, 20, "outside")
    assert [re.search(r"wider|covers|leaves", words)[0] for words in sheet.overlaps()] == ["wider", "covers", "leaves"]
    with pytest.raises(AssertionError, match="too small"):
        sheet.text(10, 10, "tiny", size=8)


@pytest.mark.parametrize("name", SHEETS)
def test_a_saved_diagram_is_a_bounded_svg_without_scripts_and_names_what_it_shows(name):
    path = FOLDER / f"{name}.svg"
    root = ElementTree.parse(path).getroot()
    tags = {element.tag.split("}")[1] for element in root.iter()}
    assert tags <= {"svg", "title", "style", "defs", "g", "path", "use", "clipPath", "rect"}
    assert root.find("{*}title").text == SHEETS[name].alt and path.stat().st_size < 80_000
    links = [value for element in root.iter() for key, value in element.attrib.items() if key.endswith("href")]
    assert all(link.startswith("#") for link in links)


@pytest.mark.parametrize("name", SHEETS)
def test_every_colour_has_one_for_dark_themes(name):
    text = (FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    style = re.search(r"<style>@media.*?</style>", text)[0]
    used = set(re.findall(r'(?:fill|stroke): (#[0-9a-f]{6})', text.replace(style, "")))
    assert used and used <= {light for light, _ in COLOURS.values()}
    for colour in used:
        assert f"fill: {colour}" in style and f"stroke: {colour}" in style


def test_words_have_contrast_on_their_background_in_light_and_dark():
    lights = [light for light, _ in COLOURS.values()]
    assert len(set(lights)) == len(lights)  # else the dark style could not tell them apart
    for theme in (0, 1):
        for role in ("ink", "muted", "image", "text", "shared", "loss", "frozen", "extra"):
            assert contrast(COLOURS[role][theme], COLOURS["sheet"][theme]) >= 4, role
        for role, colours in COLOURS.items():
            if role.endswith("fill") or role == "empty":
                assert contrast(COLOURS["ink"][theme], colours[theme]) >= 7, role


def test_the_map_highlights_the_chapter_and_names_it():
    titles = [diagrams.basics.course_map(number).alt for number in range(15)]
    assert all(a != b for a, b in pairwise(titles)) and "chapter 5, matching, of the part LightCLIP" in titles[5]


def test_the_matching_drawn_for_chapter_5_is_the_cheapest():
    from scipy.optimize import linear_sum_assignment

    costs, limit = lightclip.COSTS, lightclip.UNMATCHED
    wide = [[*row, *(limit if other == number else 9 for other in range(len(costs)))] for number, row in enumerate(costs)]
    words, places = linear_sum_assignment(wide)
    patches = len(costs[0])
    assert {(int(w), int(p)) for w, p in zip(words, places, strict=True) if p < patches} == lightclip.CHOSEN
