"""Hostile SVG: it shows nothing but itself, takes bounded time and memory, and costs the other drawings nothing."""

import base64
import io
import logging
import os
import subprocess
import sys
import time
import zlib

import pytest
from PIL import Image

from lcl.config import LclError
from lcl.data.drawn import svg
from lcl.data.drawn.pictures import load_pictures
from lcl.data.drawn.svg import BadDrawing, Painter

BAR = '<rect x="1" y="3" width="8" height="4" fill="red"/>'


def drawing(inside: str = BAR, before: str = "") -> str:
    links = 'xmlns="http://www.w3.org/2000/svg" xmlns:x="http://www.w3.org/1999/xlink"'
    return f'{before}<svg {links} viewBox="0 0 10 10">{inside}</svg>'


def as_data(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def image(href: str, name: str = "href") -> str:
    return drawing(f'<image width="10" height="10" {name}="{href}"/>')


def png(side: int = 4) -> bytes:
    """A blue PNG, whose header states `side`."""
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "blue").save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = 2 * side.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def groups(depth: int) -> str:
    return "<g>" * depth + BAR + "</g>" * depth


def chain(length: int) -> str:
    """Groups that lie within each other by reference only."""
    links = "".join(f'<g id="g{n}"><use href="#g{n - 1}"/></g>' for n in range(1, length))
    return drawing(f'<defs><g id="g0">{BAR}</g>{links}</defs><use href="#g{length - 1}"/>')


NOISE = '<feTurbulence numOctaves="100000" baseFrequency=".5"/>'
SLOW = drawing(f'<filter id="f">{NOISE * 50}</filter><g filter="url(#f)">{BAR}</g>')
LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
HOSTILE = {
    "a local file": (image("{folder}/secret.png"), "refers to '.*secret.png'"),
    "a neighbouring file": (image("secret.png"), "refers to 'secret.png'"),
    "a file by another prefix": (image("{folder}/secret.png", "x:href"), "refers to"),
    "a file by URL": (image("file://{folder}/secret.png"), "refers to 'file:"),
    "a file in disguise": (image("&#47;etc/passwd"), "refers to '/etc/passwd'"),
    "an address": (image("https://example.org/a.png"), "refers to 'https:"),
    "a device without end": (image("/dev/zero"), "refers to '/dev/zero'"),
    "a pipe": (image("{folder}/pipe.png"), "refers to '.*pipe.png'"),
    "a file for a filter": (drawing('<filter id="f"><feImage x:href="/etc/hosts"/></filter>'), "refers to '/etc/hosts'"),
    "an SVG in an SVG": (image(as_data("image/svg+xml", drawing(groups(900)).encode())), "refers to 'data:image/svg"),
    "an SVG said to be text": (image(as_data("text/plain", drawing(groups(900)).encode())), "refers to 'data:text"),
    "nested groups": (drawing(groups(300)), "more than 64 elements within each other"),
    "more nested groups": (drawing(groups(100_000)), "more than 64 elements within each other"),
    "many filters": (drawing(f'<filter id="f">{NOISE * 101}</filter>{BAR}'), "more than 100 steps of filters"),
    "entities": (drawing("&l9;", f'<!DOCTYPE svg [<!ENTITY l0 "ha">{LAUGHS}]>'), "defines entities"),
    "an entity of a file": (drawing("&x;", '<!DOCTYPE svg [<!ENTITY x SYSTEM "/etc/passwd">]>'), "defines entities"),
    "a chain of groups": (chain(300), "makes the renderer crash"),
    "a picture of gigabytes": (image(as_data("image/png", png(30_000))), "renderer crash|more than 1 GB|transparent"),
    "orders to a terminal": (drawing("<\x9b31m></b>"), "not a readable SVG"),
    "endless work": (SLOW, "takes longer than 1 s"),
    "copies of copies": (drawing(f'<defs><g id="g0">{BAR}</g>' + "".join(
        f'<g id="g{n}">{f"""<use href="#g{n - 1}"/>""" * 10}</g>' for n in range(1, 12)) + '</defs><use href="#g11"/>'),
        "not a readable|takes longer"),
}  # fmt: skip


def pictures_of(folder, drawings: dict[str, str], caplog):
    """The names that are drawn, and the warnings."""
    for name, text in drawings.items():
        (folder / f"{name}.svg").write_text(text.replace("{folder}", str(folder)))
    (folder / "names.csv").write_text("file,name\n" + "".join(f"{name}.svg,{name}\n" for name in drawings))
    with caplog.at_level(logging.WARNING, "lcl"):
        pictures = load_pictures(32, folder)
    return [concept.name for concept in pictures.concepts], [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(("text", "said"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_drawing_is_named_and_left_out_and_the_rest_is_drawn(tmp_path, monkeypatch, caplog, text, said):
    monkeypatch.setattr(svg, "SECONDS", 1)
    (tmp_path / "secret.png").write_bytes(png())
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
    started = time.perf_counter()
    found, warnings = pictures_of(tmp_path, {"before": drawing(), "bad": text, "after": drawing()}, caplog)
    assert found == ["before", "after"] and len(warnings) == 1 and warnings[0].isprintable()
    with pytest.raises(BadDrawing, match=said):
        raise BadDrawing(warnings[0])
    assert "line 3: 'bad.svg' " in warnings[0] and time.perf_counter() - started < 10


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
@pytest.mark.parametrize("name", ["a.svg", "a.png"])
def test_a_pipe_is_no_drawing(tmp_path, name):
    os.mkfifo(tmp_path / name)
    (tmp_path / "names.csv").write_text(f"file,name\n{name},a\n")
    with pytest.raises(LclError, match=rf"line 2: '{name}' is no file"):
        load_pictures(32, tmp_path)


GOOD = {
    "with a picture": image(as_data("image/png", png())),
    "with a picture by another prefix": image(as_data("image/PNG", png()), "x:href"),
    "with parts used twice": drawing(f'<g id="a">{BAR}</g><use x:href="#a" y="2"/>'),
    "as editors save it": "\ufeff" + drawing(before='<?xml version="1.0" encoding="ascii"?><!DOCTYPE svg PUBLIC "a" "b.dtd">'),
    "with some groups": drawing(groups(60)),
    "with a blur": drawing(f'<filter id="f"><feGaussianBlur stdDeviation="1"/></filter><g filter="url(#f)">{BAR}</g>'),
}


def test_good_drawings_are_drawn(tmp_path, caplog):
    assert pictures_of(tmp_path, GOOD, caplog) == (list(GOOD), [])


def test_the_renderer_may_open_no_file_even_where_the_check_fails(tmp_path):
    """What the check overlooks, the system refuses."""
    pytest.importorskip("resource", reason="Windows has no such limit")
    (tmp_path / "secret.png").write_bytes(png())
    code = (
        "import io, resvg_py; from PIL import Image; from lcl.data.drawn.svg import _limit; Image.preinit()\n"
        "draw = lambda: Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=text, skip_system_fonts=True)))).getbbox()\n"
        f"text = {image(str(tmp_path / 'secret.png'))!r}\n"
        "print(draw()); _limit(); print(draw())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split("\n")[:2] == ["(0, 0, 10, 10)", "None"]


def test_many_drawings_take_one_process_and_little_longer(monkeypatch):
    import resvg_py

    with Painter(64) as painter:
        painter.draw(drawing().encode())
        process = painter._process.pid
        started = time.perf_counter()
        for _ in range(200):
            painter.draw(drawing().encode())
        own = time.perf_counter() - started
        assert painter._process.pid == process
    started = time.perf_counter()
    for _ in range(200):
        resvg_py.svg_to_bytes(svg_string=drawing(), width=64, height=64, skip_system_fonts=True)
    assert own < 4 * (time.perf_counter() - started) + 0.5


def test_a_script_without_a_main_guard_draws_and_runs_once(tmp_path):
    (tmp_path / "a.svg").write_text(drawing())
    (tmp_path / "names.csv").write_text("file,name\na.svg,a\n")
    script = tmp_path / "script.py"
    script.write_text(
        "print('runs')\nfrom pathlib import Path\nfrom lcl.data.drawn.pictures import load_pictures\n"
        f"print(load_pictures(8, Path({str(tmp_path)!r})).drawings.shape)\n"
    )
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert ran.stdout == "runs\ntorch.Size([1, 1, 4, 8, 8])\n" and ran.stderr == ""


def test_a_missing_renderer_is_no_fault_of_a_drawing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    (tmp_path / "a.svg").write_text(drawing())
    (tmp_path / "names.csv").write_text("file,name\na.svg,a\n")
    with pytest.raises(LclError, match=r"resvg.*pip install"):
        load_pictures(8, tmp_path)
