"""Tars of pairs: written and read by two hands, looked at once, read row by row; and every way in which they break."""

import io
import itertools
import json
import os
import pickle
import random
import re
import tarfile
import time

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from lcl import storage
from lcl.config import LclError
from lcl.data import shards
from lcl.data.manifest import MANIFEST
from lcl.data.photos import BadSample, decode_image
from lcl.data.shards import INDEX, open_shards, scan_shards
from lcl.data.tars import read_row, scan_tar
from lcl.data.writing import Sample, next_tar, scene_samples, write_shards


def jpeg(number: int, side: int = 24) -> bytes:
    rng = np.random.default_rng(number)
    file = io.BytesIO()
    colours = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
    colours.resize((side, side), Image.BICUBIC).save(file, "JPEG", quality=95)
    return file.getvalue()


SOURCE = {"made of": "colours"}
PICTURES = [jpeg(number) for number in range(8)]


def samples(count: int, first: int = 0):
    for number in range(first, first + count):
        yield Sample(f"{number:06d}", PICTURES[number % 8], "jpg", (f"pair {number}",), {"number": number})


def members(count: int = 20) -> list[tuple[str, bytes]]:
    return [
        (f"{number:06d}.{extension}", data)
        for number in range(count)
        for extension, data in (("jpg", PICTURES[number % 8]), ("txt", f"pair {number}".encode()))
    ]


def tar_of(items, end: bool = True) -> bytes:
    """A tar of (name, bytes), or of TarInfo."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for item in items:
            if isinstance(item, tarfile.TarInfo):
                tar.addfile(item)
            else:
                info = tarfile.TarInfo(item[0])
                info.size = len(item[1])
                tar.addfile(info, io.BytesIO(item[1]))
    return file.getvalue()


def looked(tmp_path, data: bytes) -> tuple[list[str], dict[str, int]]:
    """The captions of the rows that are found in a tar, and the faults."""
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    found = scan_tar(path)
    with path.open("rb") as file:
        return [read_row(file, row.place, 16)[1][0] for row in found.rows], found.faults


@pytest.fixture
def folder(tmp_path):
    write_shards(tmp_path / "pairs", samples(50), SOURCE, rows=20)
    return tmp_path / "pairs"


# --- whole tars


def test_what_is_written_is_what_is_read_by_us_and_by_webdataset(folder):
    ours = open_shards(folder, workers=0)
    assert len(ours) == 50 and ours.faults == {} and len(ours.tars) == 3
    paths = [str(folder / name) for name in ours.tars]
    theirs = list(webdataset.WebDataset(paths, shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in theirs] == [sample.key for sample in samples(50)]
    for row, sample in enumerate(theirs):
        image, captions = ours.read(row, 24)
        assert captions == (sample["txt"].decode(),) == ours.captions(row) == (f"pair {row}",)
        assert torch.equal(image, decode_image(sample["jpg"], 24)) and json.loads(sample["json"]) == {"number": row}


def test_tars_written_by_webdataset_are_read(tmp_path):
    with webdataset.ShardWriter(str(tmp_path / "cc3m-%04d.tar"), maxcount=7, verbose=0) as writer:
        for number in range(20):
            about = {"caption": f"pair {number}"}
            caption = {"txt": f"pair {number}"} if number % 2 else {}  # the others say it in their JSON alone
            writer.write({"__key__": f"a/{number:04d}", "jpg": PICTURES[number % 8], "json": about} | caption)
    found = open_shards(tmp_path, workers=0)
    assert [found.captions(row)[0] for row in range(len(found))] == [f"pair {number}" for number in range(20)]
    assert found.faults == {}


def test_rows_may_be_read_in_any_order_and_by_a_copy_in_another_process(folder):
    found = open_shards(folder, workers=0)
    order = random.Random(0).sample(range(50), 50)
    assert [found.captions(row)[0] for row in order] == [f"pair {row}" for row in order]
    copy = pickle.loads(pickle.dumps(found))
    assert copy._open == {} and copy.captions(49)[0] == "pair 49"


def test_equal_samples_give_equal_bytes_and_a_writing_that_was_stopped_goes_on(tmp_path, folder):
    write_shards(tmp_path / "again", itertools.islice(samples(50), 20), SOURCE, rows=20)
    write_shards(tmp_path / "again", samples(30, 20), SOURCE, start=1, rows=20)
    for name in ("pairs-00000.tar", "pairs-00001.tar", "pairs-00002.tar", MANIFEST):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    with pytest.raises(LclError, match="is there already"):
        write_shards(folder, samples(1), SOURCE)
    with pytest.raises(LclError, match="made of something else"):
        write_shards(folder, samples(1), {"made of": "sounds"}, start=3)


def test_a_full_disk_is_said_what_was_written_stays_and_the_writing_goes_on(tmp_path, monkeypatch):
    fsync, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) == 5:  # a tar, the manifest, a tar, the manifest, and now
            raise OSError(28, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(LclError, match="pairs-00002.tar: No space left on device; .* Free some space"):
        write_shards(tmp_path, samples(50), SOURCE, rows=20)
    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST, "pairs-00000.tar", "pairs-00001.tar"]
    start = next_tar(tmp_path)
    assert start == 2 and len(open_shards(tmp_path)) == 40
    (tmp_path / INDEX).unlink()
    write_shards(tmp_path, samples(10, first=40), SOURCE, start=start, rows=20)
    assert [open_shards(tmp_path).captions(row)[0] for row in (0, 49)] == ["pair 0", "pair 49"]


def test_what_tars_are_made_of_stays_known_when_they_are_looked_at_anew(folder):
    (folder / "pairs-00001.tar").unlink()
    scan_shards(folder, accept=True)
    assert storage.read_json(folder / MANIFEST)["source"] == SOURCE


def test_a_tar_that_a_kill_kept_out_of_the_manifest_is_taken_up(folder):
    whole = (folder / MANIFEST).read_bytes()
    manifest = json.loads(whole)
    del manifest["tars"]["pairs-00002.tar"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (folder / "pairs-00000.tar").unlink()
    assert next_tar(folder) == 0
    write_shards(folder, samples(50), SOURCE, start=0, rows=20)
    assert next_tar(folder) == 3 and (folder / MANIFEST).read_bytes() == whole
    assert next_tar(folder / "nowhere") == 0


def test_scenes_become_shards_and_their_json_knows_the_things(small_world, tmp_path):
    write_shards(tmp_path, scene_samples(small_world, range(300)), SOURCE)
    found = open_shards(tmp_path, workers=0)
    pairs = small_world.pairs("train", range(300))
    assert [found.captions(row)[0] for row in range(300)] == pairs.captions and found.faults == {}
    drawn = torch.stack([found.read(row, 64)[0] for row in range(300)])
    assert (drawn.int() - pairs.images.int()).abs().float().mean() < 3  # of 255; JPEG keeps what one sees
    first = next(iter(webdataset.WebDataset(str(tmp_path / "pairs-00000.tar"), shardshuffle=False, empty_check=False)))
    objects = [{"name": small_world.name(t.concept), "box": [*t.box], "words": [*t.span]} for t in pairs.scenes[0].objects]
    assert json.loads(first["json"]) == {"things": objects}


def test_the_index_is_kept_and_found_again_and_workers_find_the_same(folder, monkeypatch):
    told = []
    first = open_shards(folder, workers=2, progress=told.append)
    assert sum(told) == 3
    (folder / INDEX).unlink()
    alone = open_shards(folder, workers=0)
    assert all(torch.equal(first.index[name], alone.index[name]) for name in first.index)
    assert first.fingerprint == alone.fingerprint
    monkeypatch.setattr(shards, "scan_tar", lambda path: pytest.fail("looked again"))
    again = open_shards(folder)
    assert again.index.keys() == first.index.keys()
    assert all(torch.equal(again.index[name], first.index[name]) for name in first.index)


def test_another_tar_is_another_data_set(folder):
    before = open_shards(folder, workers=0).fingerprint
    write_shards(folder, samples(5, 50), SOURCE, start=3)
    after = open_shards(folder, workers=0)
    assert after.fingerprint != before and len(after) == 55


# --- broken tars

WHOLE = tar_of(members())
PLACES = tarfile.open(fileobj=io.BytesIO(WHOLE)).getmembers()
MIDDLE = PLACES[20]  # the picture of sample 10
BIT_IN_HEADER = bytearray(WHOLE)
BIT_IN_HEADER[MIDDLE.offset + 5] ^= 1
ALL = [f"pair {number}" for number in range(20)]
LINK, DEVICE, FIFO = (tarfile.TarInfo(f"00000{n}.jpg") for n in range(3))
LINK.type, LINK.linkname, DEVICE.type, FIFO.type = tarfile.SYMTYPE, "/etc/passwd", tarfile.CHRTYPE, tarfile.FIFOTYPE
FOLDER = tarfile.TarInfo("sub")
FOLDER.type = tarfile.DIRTYPE


@pytest.mark.parametrize(
    ("data", "captions", "faults"),
    [
        pytest.param(WHOLE, ALL, {}, id="whole"),
        pytest.param(WHOLE[: MIDDLE.offset_data + 9], ALL[:10], {"tar: cut": 1}, id="cut in a body"),
        pytest.param(WHOLE[: MIDDLE.offset + 99], ALL[:10], {"tar: cut": 1}, id="cut in a header"),
        pytest.param(WHOLE[: MIDDLE.offset], ALL[:10], {"tar: cut": 1}, id="cut between members"),
        pytest.param(
            WHOLE[: PLACES[21].offset], ALL[:10], {"tar: cut": 1, "caption: missing": 1}, id="cut between members of one"
        ),
        pytest.param(
            WHOLE[: MIDDLE.offset] + b"#" * 5000 + WHOLE[MIDDLE.offset :], ALL, {"tar: garbage": 1}, id="garbage in between"
        ),
        pytest.param(
            WHOLE[: MIDDLE.offset] + b"ustar" * 300 + WHOLE[MIDDLE.offset :], ALL, {"tar: garbage": 1}, id="headers that are none"
        ),
        pytest.param(
            bytes(BIT_IN_HEADER), ALL[:10] + ALL[11:], {"tar: garbage": 1, "image: missing": 1}, id="a bit of a header flipped"
        ),
        pytest.param(WHOLE + b"#" * 2000, ALL, {"tar: garbage": 1}, id="garbage at the end"),
        pytest.param(WHOLE + b"\0" * 20_480, ALL, {}, id="zeros at the end"),
        pytest.param(b"", [], {"tar: empty": 1}, id="no byte"),
        pytest.param(tar_of([]), [], {"tar: empty": 1}, id="no member"),
        pytest.param(b"<html>" * 1000, [], {"tar: no tar": 1}, id="a page of the web"),
        pytest.param(b"<html>short</html>", [], {"tar: no tar": 1}, id="a short page of the web"),
        pytest.param(tar_of([*members(3), LINK, DEVICE, FIFO]), ALL[:3], {"tar: link or device": 3}, id="links and devices"),
        pytest.param(tar_of([FOLDER, *members(3)]), ALL[:3], {}, id="a folder"),
        pytest.param(
            tar_of([*members(3), ("../a.jpg", b""), ("/b.jpg", b""), ("c/../../d.txt", b""), ("C:\\e.jpg", b"")]),
            ALL[:3],
            {"tar: unsafe name": 4},
            id="names that lead elsewhere",
        ),
        pytest.param(tar_of([*members(3), *members(1)]), ALL[:3], {"tar: member twice": 2, "tar: members of a sample apart": 1},
                     id="a sample twice"),
        pytest.param(tar_of(members(3)[::2] + members(3)[1::2]), ALL[:3], {"tar: members of a sample apart": 3},
                     id="members of a sample apart"),
        pytest.param(tar_of([*members(3), ("x.txt", b"a")]), ALL[:3], {"image: missing": 1}, id="no picture"),
        pytest.param(tar_of([*members(3), ("x.jpg", PICTURES[0])]), ALL[:3], {"caption: missing": 1}, id="no caption"),
        pytest.param(tar_of([*members(3), ("x.jpg", PICTURES[0]), ("x.json", b"{")]), ALL[:3], {"caption: not text": 1},
                     id="broken JSON"),
        pytest.param(tar_of([*members(3), ("x.jpg", PICTURES[0]), ("x.json", b'{"caption": null}')]), ALL[:3],
                     {"caption: missing": 1}, id="JSON without a caption"),
        pytest.param(tar_of([*members(3), ("x.jpg", PICTURES[0]), ("x.txt", b"a" * 10**6)]), ALL[:3], {"caption: too long": 1},
                     id="a huge caption"),
        pytest.param(tar_of([*members(3), ("x.jpg", PICTURES[0][:-30]), ("x.txt", b"a")]), ALL[:3], {"image: not whole": 1},
                     id="half a picture"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_tar_is_counted_and_the_rest_is_read(tmp_path, data, captions, faults):
    assert looked(tmp_path, data) == (captions, faults)


def test_a_tar_cut_anywhere_gives_the_samples_before_the_cut_and_is_never_taken_for_whole(tmp_path):
    for at in random.Random(0).sample(range(1, len(WHOLE) - tarfile.RECORDSIZE), 60):
        captions, faults = looked(tmp_path, WHOLE[:at])
        whole = [place.offset_data + place.size <= at for place in PLACES]
        assert captions == ALL[: sum(itertools.takewhile(bool, whole)) // 2]
        assert sum(number for name, number in faults.items() if name.startswith("tar: ")) == 1


def backwards() -> bytes:
    """A tar whose second member says that it has fewer bytes than none, in binary as large sizes are written."""
    data = bytearray(tar_of(members(3)))
    at = data.index(b"000000.txt")
    data[at + 124 : at + 136] = (2**96 - 1024).to_bytes(12, "big")
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)


def test_a_header_that_leads_backwards_does_not_lead_in_circles(tmp_path):
    captions, faults = looked(tmp_path, backwards())
    assert captions == ["pair 1", "pair 2"] and faults["caption: missing"] == 1


def test_bytes_that_look_like_headers_cost_little(tmp_path):
    started = time.perf_counter()
    captions, faults = looked(tmp_path, b"ustar" * 200_000 + tar_of(members(2)))
    assert captions == ["pair 0", "pair 1"] and faults == {"tar: garbage": 1} and time.perf_counter() - started < 10


@pytest.mark.parametrize("faults", [None, "no JSON", "[1]", '{"x": "y"}'])
@pytest.mark.parametrize("types", [(torch.int32, torch.int64), (torch.float32, torch.int64), (torch.int32, torch.float64)])
def test_a_damaged_index_is_said_to_be_one(folder, faults, types):
    kept = open_shards(folder)
    about = storage.read_metadata(folder / INDEX)
    if faults is None:
        if types == (torch.int32, torch.int64):
            return  # nothing is wrong with this one
    else:
        about["faults"] = faults
    changed = {name: kept.index[name].to(kind) for name, kind in zip(("tar", "places"), types, strict=True)}
    storage.write_tensors(folder / INDEX, kept.index | changed, about)
    with pytest.raises(LclError, match="is damaged; remove it"):
        open_shards(folder)


def test_damage_anywhere_is_survived_and_costs_few_samples(tmp_path):
    for seed in range(60):
        draw = random.Random(seed)
        damaged, at = bytearray(WHOLE), draw.randrange(len(WHOLE) - 512)
        damaged[at : at + draw.randint(1, 400)] = draw.randbytes(draw.randint(0, 400))  # shorter, longer, or as long
        captions, _ = looked(tmp_path, bytes(damaged))
        assert len(set(captions) & set(ALL)) >= 18


# --- folders


def refused(work, *words: str) -> None:
    with pytest.raises(LclError) as caught:
        work()
    assert all(re.search(word, str(caught.value)) for word in words), caught.value


def test_a_tar_that_was_cut_off_is_noticed_at_once_and_may_be_accepted(folder):
    open_shards(folder, workers=0)
    path = folder / "pairs-00001.tar"
    path.write_bytes(path.read_bytes()[:9000])
    refused(lambda: open_shards(folder, workers=0), "pairs-00001.tar has 9,000 of [0-9,]+ bytes", "fetch it again")
    refused(lambda: scan_shards(folder, workers=0), "pairs-00001.tar is not as the manifest says", "tar: cut 1×")
    found = scan_shards(folder, workers=0, accept=True)
    assert 30 <= len(found) < 50 and found.faults["tar: cut"] == 1
    assert len(open_shards(folder, workers=0)) == len(found)


def test_a_missing_tar_is_noticed_at_once_and_may_be_accepted(folder):
    (folder / "pairs-00000.tar").unlink()
    refused(lambda: open_shards(folder, workers=0), "pairs-00000.tar is missing")
    refused(lambda: scan_shards(folder, workers=0), "pairs-00000.tar is missing")
    assert [scan_shards(folder, workers=0, accept=True).captions(0)[0]] == ["pair 20"]


def test_a_flipped_bit_is_found_by_looking_through(folder):
    open_shards(folder, workers=0)
    path = folder / "pairs-00002.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    refused(lambda: scan_shards(folder, workers=0), "pairs-00002.tar is not as the manifest says")


def test_a_tar_that_the_manifest_does_not_know_is_noticed(folder):
    (folder / "more.tar").write_bytes(WHOLE)
    refused(lambda: scan_shards(folder, workers=0), "more.tar is not in the manifest")
    assert len(scan_shards(folder, workers=0, accept=True)) == 70


def test_a_row_that_went_away_after_it_was_looked_at_is_a_bad_sample(folder):
    found = open_shards(folder, workers=0)
    (folder / "pairs-00000.tar").unlink()
    with pytest.raises(BadSample, match="tar: missing"):
        found.read(0, 16)
    (folder / "pairs-00001.tar").write_bytes(b"")
    with pytest.raises(BadSample, match="caption: empty"):
        found.read(20, 16)


def test_too_many_bad_samples_stop_and_a_few_do_not(tmp_path):
    bad = ("x.jpg", b"no picture"), ("x.txt", b"a")
    (tmp_path / "a.tar").write_bytes(tar_of([*members(19), *bad]))
    assert open_shards(tmp_path, workers=0).faults == {"image: not a picture": 1}  # exactly 5 %
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.tar").write_bytes(tar_of([*members(18), *bad]))
    refused(lambda: open_shards(tmp_path / "b", workers=0), "1 of 19 samples", "more than 5%", "image: not a picture 1×")


@pytest.mark.parametrize("data", [b"", b"<html>", tar_of([("x.jpg", b"?"), ("x.txt", b"a")])], ids=["empty", "web", "bad"])
def test_a_folder_in_which_nothing_can_be_used_is_refused(tmp_path, data):
    (tmp_path / "a.tar").write_bytes(data)
    refused(lambda: open_shards(tmp_path, workers=0), "no sample of the 1 tars", "1×")


def test_a_folder_without_tars_is_refused(tmp_path):
    refused(lambda: open_shards(tmp_path), "no tars in")
    refused(lambda: open_shards(tmp_path / "nowhere"), "no tars in")


@pytest.mark.parametrize(
    "manifest",
    ["{", "[]", "{}", '{"format": "lcl-shards-1", "tars": {"../a.tar": {"bytes": 1, "sha256": "", "rows": 1}}}',
     '{"format": "lcl-shards-1", "tars": {"a.tar": {"bytes": -1, "sha256": "", "rows": 1}}}',
     '{"format": "lcl-shards-1", "tars": {"a.tar": 1}}'],
)  # fmt: skip
def test_a_manifest_that_makes_no_sense_is_refused(folder, manifest):
    (folder / MANIFEST).write_text(manifest)
    refused(lambda: open_shards(folder, workers=0), MANIFEST)


def test_an_index_that_makes_no_sense_is_refused(folder):
    found = open_shards(folder, workers=0)
    about = storage.read_metadata(folder / INDEX)
    storage.write_tensors(folder / INDEX, found.index | {"tar": found.index["tar"] + 9}, about)
    refused(lambda: open_shards(folder, workers=0), INDEX, "is damaged")


def test_a_process_that_dies_while_it_looks_is_said(folder, monkeypatch):
    class Broken:
        def __init__(self, *_):
            pass

        def map(self, *_):
            raise shards.concurrent.futures.process.BrokenProcessPool
            yield

        def shutdown(self, **_):
            pass

    monkeypatch.setattr(shards.concurrent.futures, "ProcessPoolExecutor", Broken)
    refused(lambda: open_shards(folder, workers=2), "was killed")
