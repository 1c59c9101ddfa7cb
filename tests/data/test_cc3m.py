"""CC3M, fetched from real servers on loopback: from the hub through its client, and link by link through img2dataset."""

import errno
import io
import json
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from commands import lcl
from huggingface_hub import HfApi, constants
from PIL import Image
from servers import serving

from lcl import storage
from lcl.config import LclError
from lcl.data import cc3m
from lcl.data.cc3m import HUB, PINS, fetch_links, prepare
from lcl.data.shards import MANIFEST, Sample, open_shards, write_shards


@pytest.fixture
def site():
    with serving() as one:
        yield one


def photo(number: int, width: int = 320, height: int = 240) -> bytes:
    """A JPEG whose colours say its number."""
    file = io.BytesIO()
    colours = np.random.default_rng(number).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    Image.fromarray(colours).resize((width, height), Image.BICUBIC).save(file, "JPEG")
    return file.getvalue()


# --- tars from the hub


@pytest.fixture
def hub(site, tmp_path):
    """A hub that has the data set: three training tars, and others. Where it is, and its tars."""
    made = (Sample(f"{number:06d}", photo(number, 64, 64), "jpg", f"photo number {number}") for number in range(90))
    write_shards(tmp_path / "there", made, {}, rows=30)
    tars = {f"cc3m-train-{n:04d}.tar": path.read_bytes() for n, path in enumerate(sorted((tmp_path / "there").glob("*.tar")))}
    with tarfile.open(tmp_path / "more.tar", "w") as tar:  # more of the second tar's last pair, so that it takes its time
        info = tarfile.TarInfo("000059.raw")
        info.size = 30 * 2**20
        tar.addfile(info, io.BytesIO(random.Random(0).randbytes(info.size)))
    name = "cc3m-train-0001.tar"
    tars[name] = tars[name][: tars[name].rindex(b"000059.txt") + 1024] + (tmp_path / "more.tar").read_bytes()
    others = {"cc3m-validation-0000.tar": b"x" * 100, "README.md": b"words"}
    outside = {"cc3m-train-/../../x.tar": b"x", "cc3m-train-..\\x.tar": b"x"}
    site.put_data_set(HUB, tars | others | outside)
    site.tars = tars
    return site


@pytest.fixture
def fetch(hub, monkeypatch):
    """Calls `lcl data cc3m`, with the hub's client asking the server here, and impatient."""
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)

    def call(folder, *options):
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)  # what HF_ENDPOINT sets
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        return lcl("data", "cc3m", "--out", folder, *options)

    return call


def place(name: str) -> str:
    return f"/datasets/{HUB}/resolve/{'0' * 39}1/{name}"


@pytest.mark.slow
def test_the_hubs_tars_arrive_through_all_that_servers_do_and_are_verified_and_trained_on(hub, fetch, tmp_path):
    names = sorted(hub.tars)
    hub.faults[place(names[0])] = ["500", "early"]
    hub.faults[place(names[1])] = ["stall", "early"]
    hub.faults[place(names[2])] = ["flip"]  # nothing but its sha256 tells
    done = fetch(tmp_path / "out")
    assert done.code == 0, done.err
    assert "3 of 3 tars arrived (100.0%)" in done.out and "90 pairs in 3 tars" in done.out
    assert "0.0% of CC3M's 3,318,333 pairs" in done.out
    for name, data in hub.tars.items():
        assert (tmp_path / "out" / name).read_bytes() == data
    assert [path.name for path in sorted((tmp_path / "out").glob("*.tar"))] == names
    assert all(not faults for faults in hub.faults.values())
    resumed = hub.sent[place(names[1])]
    assert resumed < 1.7 * len(hub.tars[names[1]])  # it went on near to where it broke off, twice
    found = open_shards(tmp_path / "out")
    assert [found.caption(row) for row in range(90)] == [f"photo number {row}" for row in range(90)]
    assert storage.read_json(tmp_path / "out" / MANIFEST)["source"] == {"hub": HUB}

    asked = hub.asked.copy()
    again = fetch(tmp_path / "out")
    assert again.code == 0 and "3 of 3" in again.out
    assert all(hub.asked[place(name)] == asked[place(name)] for name in names)  # nothing is fetched twice
    trained = lcl(
        "train", "--profile", "smoke", "--data", tmp_path / "out", "--batch-size", 16, "--runs", tmp_path, "--name", "run"
    )
    assert trained.code == 0 and "held_out" in trained.out


def test_what_does_not_arrive_is_counted_and_said_and_fetched_by_the_next_call(hub, fetch, tmp_path):
    names = sorted(hub.tars)
    hub.faults[place(names[1])] = ["500"] * 99
    done = fetch(tmp_path / "out")
    assert done.code == 0 and "2 of 3 tars arrived (66.7%); missing: HTTP 500 1×" in done.out
    assert "60 pairs in 2 tars" in done.out and f"{names[1]} did not arrive" in done.err
    hub.faults.clear()
    done = fetch(tmp_path / "out")
    assert "3 of 3 tars arrived" in done.out and "90 pairs in 3 tars" in done.out


def test_a_new_commit_on_the_hub_is_no_other_data_set(hub, fetch, tmp_path):
    fetch(tmp_path / "out", "--limit", 1)
    hub.put_data_set(HUB, hub.tars, revision="f" * 40)
    assert "3 of 3 tars arrived" in fetch(tmp_path / "out").out


def test_other_tars_in_the_folder_are_not_taken_for_fetched_ones(hub, fetch, tmp_path):
    fetch(tmp_path / "out")
    third = tmp_path / "out" / sorted(hub.tars)[2]
    third.write_bytes(third.read_bytes()[:-5000])
    assert "is not as the manifest says" in fetch(tmp_path / "out", "--limit", 1).err
    assert "3 of 3 tars arrived" in fetch(tmp_path / "out").out
    third.rename(tmp_path / "out" / "mine.tar")
    assert "mine.tar is not in the manifest" in fetch(tmp_path / "out").err


def test_a_full_disk_stops_the_fetching_with_a_sentence(hub, fetch, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(HfApi, "hf_hub_download", full)
    done = fetch(tmp_path / "out")
    assert done.code == 2 and "No space left on device; what is there is kept. Make room, and call again." in done.err


def test_a_part_may_be_fetched_and_then_more(hub, fetch, tmp_path):
    assert "1 of 1 tars arrived" in fetch(tmp_path / "out", "--limit", 1).out
    assert "2 of 2 tars arrived" in fetch(tmp_path / "out", "--limit", 2).out
    assert len(open_shards(tmp_path / "out")) == 60


@pytest.mark.parametrize("case", ["nobody", "empty", "other"])
def test_a_hub_that_cannot_help_and_a_folder_of_something_else_are_said_in_one_sentence(hub, fetch, tmp_path, case):
    if case == "nobody":
        hub.url = "http://127.0.0.1:9"  # where nobody listens
    if case == "empty":
        hub.put_data_set(HUB, {"README.md": b"words"})
    if case == "other":
        write_shards(tmp_path / "out", iter([Sample("0", photo(0), "jpg", "one")]), {"made of": "something"})
    done = fetch(tmp_path / "out")
    said = done.err.strip().splitlines()[-1]
    reason = {
        "nobody": "the hub did not say what is in", "empty": "has no tars that begin with", "other": "made of something else",
    }  # fmt: skip
    assert done.code == 2 and said.startswith("error: ") and reason[case] in said and "Traceback" not in done.err


# --- pictures from their links


@pytest.fixture(scope="module")
def tool():
    """img2dataset, where it is or can be installed."""
    try:
        return prepare()
    except LclError as error:
        pytest.skip(f"img2dataset is needed, in an environment of its own, which `make tools` makes: {error}")


def table(path: Path, rows: list[tuple[str, str]]) -> Path:
    """Captions and links in CC3M's own form."""
    path.write_text("".join(f"{caption}\t{link}\n" for caption, link in rows), encoding="utf-8")
    return path


@pytest.mark.slow
def test_links_good_dead_slow_and_of_other_things_become_shards_that_are_trained_on(site, tool, tmp_path, monkeypatch):
    monkeypatch.setattr(cc3m, "PATIENCE", 4)  # of a busy machine, too
    site.silence = 7.0  # longer than img2dataset is patient
    rows = [(f'a "photo" of number {n}, really', site.put(f"/good/{n}.jpg", photo(n), "image/jpeg")) for n in range(150)]
    rows += [(f"dead {n}", f"{site.url}/gone/{n}.jpg") for n in range(20)]
    rows += [("nobody is there", "http://127.0.0.1:9/x.jpg")] * 3
    rows += [(f"slow {n}", site.put(f"/slow/{n}.jpg", photo(n), "image/jpeg", ["stall"])) for n in range(4)]
    rows += [("a page", site.put("/page", b"<html>Log in, please</html>", "text/html"))] * 5
    rows += [("half a picture", site.put("/half.jpg", photo(1)[:300], "image/jpeg"))] * 2
    rows += [("angry", site.put("/angry.jpg", photo(1), "image/jpeg", ["500"] * 9))]
    rows += [("a file", "file:///etc/hostname"), ("a pipe", "pipe:touch " + str(tmp_path / "ran")), ("", rows[0][1])]
    random.Random(0).shuffle(rows)
    links = table(tmp_path / "Train_GCC.tsv", rows)
    done = lcl("data", "cc3m", "--links", links, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert f"150 of {len(rows)} pictures arrived ({150 / len(rows):.1%}); missing: link: HTTP 404 20×" in done.out
    for told in ("neither http nor https 2×", "caption: empty 1×", "Connection refused", "timed out 4×", "HTTP 500 1×"):
        assert told in done.out, told
    assert not (tmp_path / "ran").exists() and "150 pairs in 1 tars" in done.out
    found = open_shards(tmp_path / "out")
    captions = {found.caption(row) for row in range(len(found))}
    assert captions == {caption for caption, link in rows if "/good/" in link and caption}
    image, caption = found.read(0, 64)
    number = int(caption.split("number ")[1].split(",")[0])
    wanted = Image.open(io.BytesIO(photo(number))).resize((85, 64)).crop((10, 0, 74, 64))
    assert np.abs(np.asarray(wanted).transpose(2, 0, 1).astype(int) - image.numpy()).mean() < 8  # it is that photo
    trained = lcl(
        "train", "--profile", "smoke", "--data", tmp_path / "out", "--batch-size", 32, "--runs", tmp_path, "--name", "run"
    )
    assert trained.code == 0, trained.err
    figures = json.loads((tmp_path / "run" / "metrics.json").read_text())["metrics"]["held_out"]
    assert 0 <= figures["image_to_text_recall@1"]["value"] <= 1 and figures["image_to_text_recall@1"]["chance"] == 1 / 7
    again = lcl("data", "cc3m", "--links", links, "--out", tmp_path / "out")
    assert again.code == 0 and f"150 of {len(rows)} pictures arrived" in again.out  # and nothing was asked for again
    assert site.asked["/good/0.jpg"] == 1


@pytest.mark.slow
def test_a_fetching_that_was_stopped_goes_on_with_what_is_not_done(site, tool, tmp_path):
    rows = [(f"photo {n}", site.put(f"/{n}.jpg", photo(n), "image/jpeg")) for n in range(40)]
    links, told = table(tmp_path / "links.tsv", rows), []
    fetch_links(tmp_path / "out", links, rows=10, tell_line=told.append)
    for path in (tmp_path / "out" / MANIFEST, *(tmp_path / "out").glob("00002*")):  # as if it had been killed in its third tar
        path.unlink()
    (tmp_path / "out" / "00002.tar").write_bytes(b"half a tar")
    asked = site.asked.copy()
    arrived = fetch_links(tmp_path / "out", links, rows=10, tell_line=told.append)
    assert str(arrived) == "40 of 40 pictures arrived (100.0%)" and len(open_shards(tmp_path / "out")) == 40
    assert [n for n in range(40) if site.asked[f"/{n}.jpg"] > asked[f"/{n}.jpg"]] == list(range(20, 30))
    assert any("success" in line for line in told)


@pytest.mark.slow
def test_tars_that_changed_or_came_from_elsewhere_are_not_taken_for_fetched_pictures(site, tool, tmp_path):
    rows = [(f"photo {n}", site.put(f"/{n}.jpg", photo(n), "image/jpeg")) for n in range(30)]
    asked = ("data", "cc3m", "--links", table(tmp_path / "links.tsv", rows), "--out", tmp_path / "out")
    assert lcl(*asked).code == 0 and lcl(*asked).code == 0
    tar = tmp_path / "out" / "00000.tar"
    kept = tar.read_bytes()
    tar.write_bytes(kept[:-9000])
    assert "00000.tar is not as the manifest says" in lcl(*asked).err
    tar.write_bytes(kept)
    (tmp_path / "out" / "mine.tar").write_bytes(kept)
    assert "mine.tar is not in the manifest" in lcl(*asked).err


@pytest.mark.slow
def test_where_nothing_arrived_the_next_call_tries_again(site, tool, tmp_path):
    rows = [(f"photo {n}", site.put(f"/{n}.jpg", photo(n), "image/jpeg", ["500"])) for n in range(20)]
    links = table(tmp_path / "links.tsv", rows)
    assert str(fetch_links(tmp_path / "out", links)) == "0 of 20 pictures arrived (0.0%); missing: link: HTTP 500 20×"
    assert str(fetch_links(tmp_path / "out", links)) == "20 of 20 pictures arrived (100.0%)"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "idle"])
@pytest.mark.skipif(sys.platform == "win32", reason="these signals are not Windows'")
def test_when_it_is_stopped_nothing_of_the_tool_runs_on(site, tool, tmp_path, how):
    site.silence = 60.0
    links = table(tmp_path / "links.tsv", [("slow", site.put("/slow.jpg", photo(0), "image/jpeg", ["stall"] * 9))])
    idle = 30 if how == "idle" else 99
    code = f"import lcl.data.cc3m as c, lcl.cli.main; c.IDLE = {idle}; c.PATIENCE = 60; lcl.cli.main.main()"
    command = [sys.executable, "-c", code, "data", "cc3m", "--links", str(links), "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while not site.asked["/slow.jpg"]:
            time.sleep(0.1)
            assert process.poll() is None, process.stdout.read()
        everyone = psutil.Process(process.pid).children(recursive=True)
        assert len(everyone) >= 2
        if how != "idle":
            process.send_signal(signal.Signals[how])
        said = process.communicate(timeout=90)[0]
    assert process.returncode == {"SIGTERM": 143, "SIGINT": 130, "idle": 2}[how]
    assert "Traceback" not in said and (how != "idle" or "img2dataset finished no tar for" in said)
    assert not [one for one in psutil.wait_procs(everyone, timeout=5)[1] if one.status() != psutil.STATUS_ZOMBIE]


def test_what_servers_say_is_told_plainly_and_not_at_length():
    assert cc3m._short("HTTP Error 404: \x1b]0;owned\x07\x1b[2J") == "HTTP 404"
    assert cc3m._short("<urlopen error \x1b[2Jno>") == "[2Jno" and len(cc3m._short("x" * 500)) == 60
    told = str(cc3m.Arrived("pictures", 100, 0, {f"reason {n}": 1 for n in range(40)}, ()))
    assert told.count("reason") == 10 and told.endswith("and 30 more kinds")


@pytest.mark.slow
def test_another_table_or_other_shards_are_never_mixed_in(site, tool, tmp_path):
    links = table(tmp_path / "links.tsv", [("one", site.put("/1.jpg", photo(1), "image/jpeg"))])
    fetch_links(tmp_path / "out", links)
    other = table(tmp_path / "other.tsv", [("two", site.put("/2.jpg", photo(2), "image/jpeg"))])
    with pytest.raises(LclError, match="holds the pictures of other links; name another folder"):
        fetch_links(tmp_path / "out", other)
    write_shards(tmp_path / "mine", iter([Sample("0", photo(0), "jpg", "one")]), {})
    with pytest.raises(LclError, match="there are other shards in"):
        fetch_links(tmp_path / "mine", links)


@pytest.mark.parametrize("rows", [[], [("a", "ftp://x/y.jpg"), ("b", "pipe:cat x"), ("c", "/etc/passwd")], [("", "http://x/y")]])
def test_a_table_without_a_link_that_can_be_fetched_is_refused_before_anything_is_done(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(cc3m, "prepare", lambda *_: pytest.fail("prepared for nothing"))
    with pytest.raises(LclError, match="has no link that can be fetched"):
        fetch_links(tmp_path / "out", table(tmp_path / "links.tsv", rows))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_where_the_tool_cannot_be_installed_it_is_said_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("LCL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    links = table(tmp_path / "links.tsv", [("one", "http://127.0.0.1:9/x.jpg")])
    with pytest.raises(LclError, match=r"img2dataset could not be installed \(.*\); be online, and call again"):
        fetch_links(tmp_path / "out", links)
    assert not (tmp_path / "out").exists() and not list((tmp_path / "data").rglob("ready"))


def test_the_tools_own_pins_are_exact():
    lines = PINS.read_text(encoding="utf-8").splitlines()[1:]
    assert any(line.startswith("img2dataset==") for line in lines) and all("==" in line for line in lines)
