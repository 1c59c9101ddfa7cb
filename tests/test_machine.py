"""Processors are counted as a container grants them, and processes start without the user's script."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lcl import machine
from lcl.config import Profile, get_profile
from lcl.data.writing import scene_samples, write_shards
from lcl.train import loader

ROOT = Path(__file__).resolve().parent.parent
V1 = ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({}, 6),
        ({"cpu.max": "150000 100000\n"}, 2),  # a processor and a half
        ({"cpu.max": "20000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 6),
        ({"cpu.max": "1600000 100000\n"}, 6),  # more than the affinity
        ({"cpu.max": "what?\n"}, 6),
        ({V1[0]: "300000\n", V1[1]: "100000\n"}, 3),
        ({V1[0]: "-1\n", V1[1]: "100000\n"}, 6),
        ({V1[0]: "300000\n"}, 6),  # half of the two files
    ],
    ids=str,
)
def test_processors_are_those_of_the_affinity_and_of_the_quota(tmp_path, monkeypatch, files, count):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 64, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    assert machine.processors() == count


def test_ranks_share_the_processors(monkeypatch):
    monkeypatch.setattr(loader, "processors", lambda: 6)
    counts = []
    for ranks in ("1", "2", "4", "8"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
        counts.append(loader._processors())
    assert counts == [6, 3, 1, 1]


UNGUARDED = """
import multiprocessing, os, sys
from concurrent.futures import ProcessPoolExecutor
from lcl.machine import processors, without_main
print("the script runs", flush=True)
with ProcessPoolExecutor(2, multiprocessing.get_context(sys.argv[1])) as pool, without_main():
    print(len([pool.submit(processors) for _ in range(4)]), flush=True)
assert os.path.samefile(__file__, sys.argv[0]) and sys.modules["__main__"].__file__ == __file__
"""


@pytest.mark.parametrize("method", ["spawn", *(["forkserver"] if sys.platform != "win32" else [])])
def test_a_script_without_a_guard_runs_once(tmp_path, method):
    (tmp_path / "script.py").write_text(UNGUARDED)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "script.py"), method]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the script runs\n4\n", "")


TRAINS = """
import multiprocessing, pathlib, sys
from lcl.data.collection import open_dataset
from lcl.train.loop import Training
from test_machine import short
multiprocessing.set_start_method(sys.argv[1])
print("the script runs", flush=True)
training = Training(short(), open_dataset(short(), shards=pathlib.Path(sys.argv[2])), device="cpu", workers=2)
print(len(list(training)), flush=True)
"""


def short() -> Profile:
    """Four steps."""
    smoke = get_profile("smoke")
    return dataclasses.replace(smoke, training=dataclasses.replace(smoke.training, pairs=128, epochs=1, batch_size=32))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", *(["fork"] if sys.platform.startswith("linux") else [])])
def test_a_script_without_a_guard_scans_tars_and_trains_with_workers(tmp_path, small_world, method):
    write_shards(tmp_path / "shards", scene_samples(small_world, range(180)), {"scenes": 180}, rows=10)
    (tmp_path / "shards" / "index.safetensors").unlink(missing_ok=True)
    (tmp_path / "script.py").write_text(TRAINS)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(tmp_path / "script.py"), method, str(tmp_path / "shards")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert (done.returncode, done.stdout) == (0, "the script runs\n5\n"), done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux's C library gives memory back on demand")
def test_memory_that_is_free_in_pieces_is_given_back():
    """A hundred MB in pieces of 64 KB, every tenth of which stays: the library holds on to what lies between."""
    pieces = [bytearray(64 * 1024) for _ in range(1600)]
    kept = pieces[::10]
    before = machine.resident_memory()
    del pieces
    machine.give_memory_back()
    assert len(kept) == 160 and before - machine.resident_memory() > 50 * 2**20


@pytest.mark.parametrize(("text", "fast"), [
    ("processor: 0\nflags\t\t: fpu amx_bf16 amx_tile\n", True), ("flags\t\t: fpu avx2\nbugs\t: amx_bf16\n", False), (None, False),
])  # fmt: skip
def test_a_processor_multiplies_bfloat16_fast_if_the_system_says_so(tmp_path, monkeypatch, text, fast):
    monkeypatch.setattr(machine, "CPUS", tmp_path / "cpuinfo")
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    machine.multiplies_bfloat16_fast.cache_clear()
    assert machine.multiplies_bfloat16_fast() is fast
    machine.multiplies_bfloat16_fast.cache_clear()
