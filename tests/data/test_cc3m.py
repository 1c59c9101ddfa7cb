"""CC3M: downloaded from a hub on loopback through its client, and read from tars as img2dataset writes them."""

import errno
import io
import json
import random
import re
import tarfile

import numpy as np
import pytest
from commands import lcl
from huggingface_hub import HfApi, constants
from PIL import Image
from servers import serving

from lcl import storage
from lcl.data.cc3m import HUB
from lcl.data.collection import ShardDataset
from lcl.data.manifest import MANIFEST
from lcl.data.shards import open_shards
from lcl.data.writing import Sample, write_shards


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
    made = (Sample(f"{number:06d}", photo(number, 64, 64), "jpg", (f"photo number {number}",)) for number in range(90))
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
    assert "3 of 3 tars arrived (100.0%)" in done.out and "90 pictures with 90 captions in 3 tars" in done.out
    assert "0.0% of CC3M's 3,318,333 pairs" in done.out
    for name, data in hub.tars.items():
        assert (tmp_path / "out" / name).read_bytes() == data
    assert [path.name for path in sorted((tmp_path / "out").glob("*.tar"))] == names
    assert all(not faults for faults in hub.faults.values())
    resumed = hub.sent[place(names[1])]
    assert resumed < 1.7 * len(hub.tars[names[1]])  # it went on near to where it broke off, twice
    found = open_shards(tmp_path / "out")
    assert [found.captions(row)[0] for row in range(90)] == [f"photo number {row}" for row in range(90)]
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
    assert "60 pictures with 60 captions in 2 tars" in done.out and f"{names[1]} did not arrive" in done.err
    hub.faults.clear()
    done = fetch(tmp_path / "out")
    assert "3 of 3 tars arrived" in done.out and "90 pictures with 90 captions in 3 tars" in done.out


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
        write_shards(tmp_path / "out", iter([Sample("0", photo(0), "jpg", ("one",))]), {"made of": "something"})
    done = fetch(tmp_path / "out")
    said = done.err.strip().splitlines()[-1]
    reason = {
        "nobody": "the hub did not list", "empty": "has no tars that begin with", "other": "made of something else",
    }  # fmt: skip
    assert done.code == 2 and said.startswith("error: ") and reason[case] in said and "Traceback" not in done.err


# --- pictures from their links


def test_what_img2dataset_writes_is_read_as_any_shards_are(tmp_path):
    """Its tars hold picture, caption and JSON; beside them lie its statistics, a table, and a log."""
    def members(number):
        about = {"url": f"http://x/{number}.jpg", "caption": f"a picture number {number}", "status": "success", "width": 256}
        return {".jpg": photo(number), ".txt": about["caption"].encode(), ".json": json.dumps(about).encode()}

    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for number in range(100):
            for ending, data in members(number).items():
                info = tarfile.TarInfo(f"{number:09d}{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    (tmp_path / "00000_stats.json").write_text('{"count": 120, "successes": 100, "failed_to_download": 20}')
    (tmp_path / "00000.parquet").write_bytes(b"PAR1 and so on PAR1")
    found = ShardDataset(open_shards(tmp_path), 64)
    assert len(found.shards) == 100 and len(found) + len(found.test(5)) + len(found.validation(2)) == 100
    samples = found.train(60).take(range(60))
    assert samples.images.shape == (60, 3, 64, 64) and all(re.fullmatch(r"a picture number \d+", c) for c in samples.captions)
