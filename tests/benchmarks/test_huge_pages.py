"""The Makefile asks glibc for huge pages by the variable that the race sets; where glibc cannot ask, a sentence says so."""

import os
import subprocess
import sys

import pytest

from benchmarks import huge_pages
from benchmarks.huge_pages import ASKED, ROOT, VARIABLE

linux = pytest.mark.skipif(huge_pages.setting() is None, reason="only Linux with glibc 2.35 or later knows the setting")


def test_the_makefile_asks_for_what_the_race_measures():
    assert f"export {VARIABLE} ?= {ASKED}" in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    "libc, text, expected",
    [
        (("glibc", "2.35"), "always [madvise] never\n", "madvise"),
        (("glibc", "2.41"), "[always] madvise never\n", "always"),
        (("glibc", "2.34"), "[always] madvise never\n", None),
        (("glibc", "2.39"), None, None),
        (("", ""), "[always] madvise never\n", None),
    ],
)
def test_the_setting_is_that_of_linux(libc, text, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: libc)
    state = tmp_path / "enabled"
    if text is not None:
        state.write_text(text)
    assert huge_pages.setting(state) == expected


def test_where_none_can_be_asked_for_a_sentence_says_so(monkeypatch):
    monkeypatch.setattr(huge_pages, "setting", lambda: None)
    told = []
    assert list(huge_pages.huge_pages(1, told.append)) == [] and len(told) == 1 and "is left out" in told[0]


@pytest.mark.skipif(huge_pages.setting() != "madvise", reason="only where Linux gives huge pages to those who ask does glibc ask")
def test_glibc_asks_linux_for_huge_pages():
    """Linux marks the memory for which a process asked with `hg`."""
    program = (
        "kept = [bytearray(2**16) for _ in range(2**10)]\n"
        "print(any('hg' in line.split() for line in open('/proc/self/smaps') if line.startswith('VmFlags')))"
    )
    for value, expected in ((ASKED, "True"), ("", "False")):
        environment = os.environ | {VARIABLE: value}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected, value


@linux
@pytest.mark.slow
def test_both_processes_train():
    (row,) = huge_pages.huge_pages(1, steps=1)
    assert row.key == "huge-pages" and ASKED in row.note and min(*row.ours, *row.peer) > 0
