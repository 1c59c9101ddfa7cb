"""Tables of results: marked where a number is highest, readable by screen readers and in terminals, escaped."""

import re
from html.parser import HTMLParser

import pytest

from lcl.config import LclError
from lcl.course import study
from lcl.course.metrics import RECALL, as_text, table
from lcl.course.tables import Table, arms_table, comparison_table, gains_table, highest, results_table

ROWS = [
    ["new_scenes, seeds 0 to 2", "clip", "light <b>", "ping", "chance"],
    ["image→text R@1", "71.3 ± 1.8", "78.4 ± 1.2", "9.8 ± 0.4", "0.1"],
    ["alignment", "–", "92.6", "92.6 ± 0.5", "18.6"],
    ["masked word, no image", "10.0", "20.0", "30.0", "4.0"],
    ["category top-1", "–", "50.1", "–", "99.0"],
]
BEST = {(1, 2), (2, 2), (2, 3)}


class Reader(HTMLParser):
    """What a page's reader meets: tags with their attributes, and texts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1], data))


def test_the_highest_number_of_a_row_is_marked_and_all_that_equal_it():
    """By value, not by text; not chance, not a row with one number, not a baseline."""
    assert highest(ROWS, range(1, 4)) == BEST


def test_numbers_below_zero_are_compared_as_numbers():
    assert highest([["", "a", "b"], ["gain", "−3.0 (−4 to −2)", "-1.5"]], (1, 2)) == {(1, 2)}


def test_html_has_a_caption_and_headers_with_their_scope_and_marks_the_best():
    page = Reader(Table(ROWS, "Percent.", frozenset(BEST))._repr_html_())
    scopes = [attributes["scope"] for tag, attributes in page.tags if tag == "th"]
    assert scopes == ["col"] * 5 + ["row"] * 4
    assert [text for tag, text in page.texts if tag == "strong"] == ["78.4 ± 1.2", "92.6", "92.6 ± 0.5"]
    assert [text for tag, text in page.texts if tag == "caption"] == ["Percent. (bold: the highest of its row)"]
    assert [text for _, text in page.texts if text != page.texts[0][1]] == [cell for row in ROWS for cell in row]


def test_a_name_is_shown_and_not_obeyed():
    text = Table(ROWS, "<script>alert(1)</script>")._repr_html_()
    assert "<script" not in text and "light &lt;b&gt;" in text and "bold:" not in text


def test_it_sets_no_colour_of_its_own_so_light_and_dark_themes_can_read_it():
    """The text has the page's colour; lines are half-transparent grey; nothing has a background."""
    styles = ";".join(a.get("style", "") for _, a in Reader(Table(ROWS, "Percent.")._repr_html_()).tags)
    assert set(re.findall(r"(?<!-)\b(?:color|background)[^:]*:([^;]+)", styles)) <= {"inherit", "none"}
    assert "font-size" not in styles  # as large as the text around it


def test_in_a_terminal_the_columns_stand_one_below_the_other():
    lines = str(Table(ROWS, "Percent.", frozenset(BEST))).splitlines()
    assert lines[-1] == "Percent. (* highest of its row)" and len(lines) == len(ROWS) + 1
    assert "78.4 ± 1.2 *" in lines[1] and "71.3 ± 1.8 " in lines[1] and lines[3].count("*") == 0
    assert lines[2].index("92.6 *") + 4 == lines[3].index("20.0") + 4
    assert repr(Table(ROWS, "Percent.")) == as_text(ROWS) + "\nPercent."


def test_rows_of_other_lengths_are_refused():
    with pytest.raises(LclError, match=r"equally long, not \[2, 3\] cells"):
        Table([["a", "b"], ["c", "d", "e"]], "")
    with pytest.raises(LclError, match="equally long"):
        Table([], "")


METRICS = {split: {"zero_shot_top1": {"value": value, "chance": 0.1}} for split, value in (("new_scenes", 0.5), ("views", 0.7))}


def test_one_run_has_its_chance_and_no_marks_for_splits_differ():
    shown = results_table(METRICS)
    assert shown.best == frozenset() and list(shown.rows) == table(METRICS)
    assert "50.0 (10.0)" in shown._repr_html_() and "chance level in brackets" in str(shown)


def test_saved_arms_are_compared_with_chance_and_spread():
    shown = comparison_table(["clip", "clip-ping"], RECALL)
    rows = study.comparison(["clip", "clip-ping"], RECALL)
    assert list(shown.rows) == rows and rows[0][-1] == "chance" and "±" in rows[1][1]
    assert {column for _, column in shown.best} <= {1, 2} and {row for row, _ in shown.best} == {1, 2}
    for row, column in shown.best:
        assert float(rows[row][column].split()[0]) == max(float(cell.split()[0]) for cell in rows[row][1:3])


def test_gains_and_many_arms_are_the_tables_that_a_terminal_shows():
    asked = ["image_to_text_recall@1", "zero_shot_top1"]
    found = gains_table(["clip-ping"], "clip", asked, "unseen_drawings")
    assert list(found.rows) == study.gains(["clip-ping"], "clip", asked, "unseen_drawings")
    assert "Points above clip on unseen_drawings" in found.caption and not found.best
    rows = list(arms_table(["clip", "clip-ping"], asked).rows)
    assert [row[0] for row in rows[1:]] == ["clip", "clip-ping", "chance"] and len(rows[0]) == 3
    assert [list(column) for column in zip(*rows, strict=True)] == study.comparison(["clip", "clip-ping"], asked)
