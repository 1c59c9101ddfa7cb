"""Text from outside: on a terminal it is one line, which moves no cursor and reverses nothing."""

import logging
import unicodedata

import pytest
from commands import lcl
from hypothesis import given
from hypothesis import strategies as st

from lcl.cli.common import OneLine
from lcl.words import count_words, printable

HURTS = "\x00\x07\x1b\n\r\x7f\x9b\u2028\u2029\u200e\u202e\u2066\ud800"
HARMLESS = "naïve 紅い, 👩‍🚒 می‌خواهم \\n <b> $$ %s {x}"  # joiners, which emoji and Persian need, are no marks of direction
DIRECTIONS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


@given(st.text(st.characters(blacklist_categories=())) | st.text(HURTS))
def test_a_printable_text_holds_nothing_that_is_obeyed_and_says_what_was_there(text):
    shown = printable(text)
    assert not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in shown)
    assert not any(unicodedata.bidirectional(letter) in DIRECTIONS for letter in shown)
    if "\\" not in text:
        assert shown.encode("ascii", "backslashreplace").decode("unicode_escape") == text


@pytest.mark.parametrize("letter", HURTS, ids=ascii)
def test_each_of_these_is_shown_as_an_escape(letter):
    assert printable(f"a{letter}b").isascii() and printable(f"a{letter}b").startswith("a\\")


def test_other_text_stays_as_it_is():
    assert printable(HARMLESS) == HARMLESS


def test_an_error_and_a_log_message_are_one_line_each():
    result = lcl("evaluate", "no\nrun \x1b[2J\u202e")
    assert r"no\nrun \x1b[2J\u202e" in result.refusal and result.err.count("\n") == 1
    record = logging.LogRecord("lcl", logging.WARNING, "", 0, "left out: %s", ("a\n\x1b[31m.jpg",), None)
    assert OneLine().format(record) == r"left out: a\n\x1b[31m.jpg"


def test_characters_of_a_script_without_spaces_count_as_words():
    assert count_words("a red  cat, asleep") == 4
    assert count_words("一只红色的猫") == 6 and count_words("一只 red 猫!") == 5  # the last one is "!", as in "cat !"
    assert count_words("") == 0
