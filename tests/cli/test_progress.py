"""Progress: a bar on a terminal, plain lines in a file or a pipe."""

import contextlib
import io
import re

import pytest

from lcl.cli import common


class Terminal(io.StringIO):
    """Text that is read by a person at once."""

    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, **options) -> str:
    """What ten pictures, a note and a last line show of themselves."""
    with contextlib.redirect_stderr(stream), common.bar("writing", "image", 10, **options) as progress:
        for _ in range(10):
            progress.update()
        progress.write("a note")
        progress.set_postfix_str("loss 0.5", refresh=False)
        progress.refresh()
    return stream.getvalue()


def test_a_file_gets_plain_lines_with_an_estimate(monkeypatch, capsys):
    monkeypatch.setattr(common, "SECONDS", 0)
    text = shown(io.StringIO())
    lines = text.splitlines()
    assert len(lines) == 11 and "\r" not in text and capsys.readouterr().out == "a note\n"
    assert all(re.fullmatch(r"writing: \d+/10 image, \d\d:\d\d so far, [\d:?]+ left", line) for line in lines[:-1])
    assert re.fullmatch(r"writing: 10/10 image, \d\d:\d\d so far, 00:00 left, loss 0.5", lines[-1])


def test_lines_come_now_and_then_and_none_if_a_bar_is_off():
    assert shown(io.StringIO()).count("\n") == 1  # the last, which was asked for
    assert shown(io.StringIO(), disable=True) == ""


@pytest.mark.parametrize("seconds", [0, 30])
def test_a_terminal_gets_a_bar(monkeypatch, seconds):
    monkeypatch.setattr(common, "SECONDS", seconds)
    text = shown(Terminal())
    assert "\r" in text and "100%" in text and "loss 0.5" in text
