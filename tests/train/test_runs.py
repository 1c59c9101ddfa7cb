"""A run's files are read as they were written, or what is damaged is named; a damaged log costs its damaged lines."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lcl import storage
from lcl.config import LclError, get_profile
from lcl.eval.queries import QueryRanks, read_ranks
from lcl.train.loop import Training
from lcl.train.runs import LOG, EventLog, load_run, save_run

SMOKE = get_profile("smoke")
SHORT = dataclasses.replace(
    SMOKE, model=TINY, training=dataclasses.replace(SMOKE.training, pairs=64, epochs=1, batch_size=16, evaluate_every=2)
)


@pytest.fixture(scope="module")
def run(small_world, tmp_path_factory) -> Path:
    """A finished run with its log."""
    folder, events = tmp_path_factory.mktemp("run"), []
    log = EventLog(folder)
    for event in (training := Training(SHORT, small_world, 0, "cpu")):
        log.write(event)
        events.append(event)
    save_run(folder, training, events, {"new_scenes": {"zero_shot_top1": {"value": 0.25, "chance": 0.125}}}, {"training": 1.0})
    return folder


def test_a_run_keeps_the_ranks_of_its_queries(run, small_world, tmp_path):
    training = Training(SHORT, small_world, 0, "cpu")
    events, ranked = list(training), QueryRanks("these", torch.tensor([0, 2]), torch.tensor([1, 0]))
    save_run(tmp_path, training, events, {"new_scenes": {}}, {"training": 1.0}, ranked=ranked)
    found = read_ranks(tmp_path / "ranks.safetensors")
    assert storage.read_json(tmp_path / "metrics.json")["queries"] == found.queries == "these"
    assert found.image_to_text.tolist() == [0, 2] and found.text_to_image.tolist() == [1, 0]
    assert storage.read_json(run / "metrics.json")["queries"] is None and not (run / "ranks.safetensors").exists()


def harms(data: bytes) -> st.SearchStrategy[bytes]:
    """What is left of a file that was cut off, or in which a bit was flipped."""
    place = st.integers(0, len(data) - 2)  # without its last line break a file is whole
    flips = st.builds(lambda at, bit: data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :], place, st.integers(0, 7))
    return flips | place.map(lambda length: data[:length])


fuzz = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzz
@given(data=st.data())
def test_of_a_damaged_log_the_other_lines_are_used_with_a_warning(run, tmp_path, caplog, data):
    whole = EventLog(run, until=99).before
    assert len(whole) == 6 and not caplog.text
    harmed = data.draw(harms((run / LOG).read_bytes()))
    (tmp_path / LOG).write_bytes(harmed)
    found = EventLog(tmp_path, until=99).before
    lost = [event for event in whole if event not in found]
    assert len(lost) <= 2 or harmed == (run / LOG).read_bytes()[: len(harmed)]
    assert str(tmp_path / LOG) in caplog.text or len(found) == harmed.count(b"\n")
    assert EventLog(tmp_path, until=99).before == found  # it was written anew, without the damaged lines
    caplog.clear()


@pytest.mark.parametrize(
    "line", [b"\xff\xfe", b"[]", b"null", b'{"event": "Step"}', b'{"event": []}', b"[" * 100_000, b'"\\ud800"',
             b'{"event": "Validation", "step": "2", "loss": 1.0, "image_to_text": 0.5, "text_to_image": 0.5}'], ids=range(8)
)  # fmt: skip
def test_a_line_that_is_no_event_is_passed_over(run, tmp_path, caplog, line):
    before = (run / LOG).read_bytes()
    (tmp_path / LOG).write_bytes(before + line + b"\n" + before)
    assert len(EventLog(tmp_path, until=99).before) == 12
    assert f"{tmp_path / LOG} is damaged: 1 of its 13 lines cannot be read, first line 7" in caplog.text


@fuzz
@given(name=st.sampled_from(["metrics.json", "curve.json"]), data=st.data())
def test_a_damaged_metrics_file_or_curve_is_named(run, caplog, name, data):
    before = (run / name).read_bytes()
    caplog.clear()
    try:
        (run / name).write_bytes(data.draw(harms(before)))
        load_run(run)
        assert str(run / name) in caplog.text
    except LclError as error:
        assert str(run) in str(error) and "\n" not in str(error)
    finally:
        (run / name).write_bytes(before)


@pytest.mark.parametrize("name", ["metrics.json", "curve.json"])
def test_a_changed_number_is_told_and_older_runs_without_checksums_are_not_suspected(run, tmp_path, caplog, name):
    folder = shutil.copytree(run, tmp_path / "changed")
    assert load_run(folder).metrics["new_scenes"]["zero_shot_top1"]["value"] == 0.25 and not caplog.text
    text = (folder / name).read_text(encoding="utf-8")
    changed = text.replace("0.25", "0.75") if name == "metrics.json" else text.replace("[\n      1,", "[\n      3,", 1)
    assert changed != text
    (folder / name).write_text(changed, encoding="utf-8")
    load_run(folder)
    assert caplog.text.count("was changed or damaged") == 1 and str(folder / name) in caplog.text
    caplog.clear()
    old = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    del old["checksum"], old["curve"]
    (folder / "metrics.json").write_text(json.dumps(old), encoding="utf-8")
    assert load_run(folder).curve and not caplog.text


def test_a_run_that_did_not_finish_and_one_that_is_not_there_are_told_apart(tmp_path):
    (tmp_path / "stopped").mkdir()
    with pytest.raises(LclError, match="stopped has no metrics.json: its training did not finish"):
        load_run(tmp_path / "stopped")
    with pytest.raises(LclError, match="there is no run in .*; `lcl train --name NAME` makes one"):
        load_run(tmp_path / "none")
