"""Workers of the data loader that cannot start, or have no room in shared memory: one sentence, at once."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lcl import machine
from lcl.config import LclError, TrainConfig
from lcl.data.collection import ShardDataset
from lcl.data.shards import open_shards
from lcl.data.writing import scene_samples, write_shards
from lcl.train import loader
from lcl.train.loader import batches

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, few_world) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, scene_samples(few_world, range(120)), {}, rows=60)
    return folder


def read(folder: Path, tokenizer) -> list:
    config = TrainConfig(pairs=40, epochs=1, batch_size=20)
    return list(batches(ShardDataset(open_shards(folder), 64), tokenizer, config, 48, 0, "cpu", workers=1))


def raising(error: Exception):
    def work(*_):
        raise error

    return work


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EAGAIN, "Resource temporarily unavailable"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),  # the one that pins memory
    ],
    ids=str,
)
def test_workers_that_cannot_be_started_are_one_sentence(folder, tokenizer, monkeypatch, error):
    monkeypatch.setattr(loader.DataLoader, "__iter__", raising(error))
    with pytest.raises(LclError, match="^1 data loader workers cannot be started .*; free some memory.* 0 needs none.$"):
        read(folder, tokenizer)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Bus error. It is", "^a data loader worker found no room in shared"),
        ("Pin memory thread exited unexpectedly", "workers died 4 times .Pin memory thread exited unexpectedly.; free some"),
    ],
)
def test_workers_that_die_are_one_sentence(folder, tokenizer, monkeypatch, message, told):
    monkeypatch.setattr(loader, "_wait", raising(RuntimeError(message)))
    with pytest.raises(LclError, match=told):
        read(folder, tokenizer)


def test_the_size_of_shared_memory_is_said_where_it_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "SHARED", tmp_path)
    assert machine.shared_memory().startswith(f"{tmp_path} has ")
    monkeypatch.setattr(machine, "SHARED", tmp_path / "missing")
    assert machine.shared_memory() == "" and "(no room)" in loader._no_shared_memory("no room")


READS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_loader_workers import read
from lcl.config import LclError
from lcl.models.tokenizer import Tokenizer
try:
    read(Path(sys.argv[1]), Tokenizer.train(["a cat"], 300, "a data set"))
except LclError as error:
    print(error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has /dev/shm")
def test_a_shared_memory_that_is_too_small_is_one_sentence_at_once(folder):
    """A real one of 64 KiB, in a mount namespace of its own, where the system lets us make it."""
    inside = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"]), "sh", "-c"]
    mount = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    try:
        if subprocess.run([*inside, mount], capture_output=True, timeout=60).returncode:
            pytest.skip("this system does not let us mount a small /dev/shm")
    except FileNotFoundError:
        pytest.skip("this system has no unshare")
    command = [*inside, mount + ' && exec "$0" "$@"', sys.executable, "-c", READS, str(folder), str(Path(__file__).parent)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    said = done.stdout.strip()
    assert said.startswith("a data loader worker found no room in shared memory (/dev/shm has 0.1 MiB, of which "), done.stderr
    assert "--shm-size" in said and said.endswith("--workers 0.") and "\n" not in said
