"""A process of a training that fails, is killed or is stopped ends all others, within seconds and with a sentence: on gloo."""

import itertools
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from commands import two_ranks

from lcl import processes
from lcl.config import LclError
from lcl.processes import LostPeer, Watch
from lcl.train.distributed import Ranks, join

ROOT = Path(__file__).resolve().parents[2]
SIZE = 3
pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")


def build_banks(ranks: Ranks, victim: int, die) -> None:
    """The victim dies before or while the main process builds banks, which takes it a minute."""

    def work() -> None:
        if victim == 0:
            die()
        time.sleep(60)

    if ranks.rank == victim != 0:
        die()
    ranks.main_first(work)


def train(ranks: Ranks, victim: int, die) -> None:
    """The victim dies in the middle of steps that exchange something."""
    for step in itertools.count():
        ranks.add(torch.ones(2))
        time.sleep(0.01)
        if ranks.rank == victim and step == 20:
            die()


def fail() -> None:
    raise LclError("the picture 17 cannot be read.")


def crash() -> None:
    raise ZeroDivisionError("division by zero\nin two lines")


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    raise KeyboardInterrupt


def rank_of_some(rank: int, port: int, folder: str, work, victim: int, die) -> None:
    """One process, which ends as the command line does: with code 2 and a sentence, here in a file."""
    torch.set_num_threads(1)
    processes.SILENT = 5.0
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(SIZE)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        with join("cpu") as ranks:
            Path(folder, f"began {rank}").touch()
            work(ranks, victim, die)
    except BaseException as error:
        Path(folder, str(rank)).write_text(f"{type(error).__name__}: {error}")
        sys.exit(2)


def run(start_method: str, folder: Path, *told) -> tuple[list[int], list[str], float]:
    """How some processes end: their exit codes, what they say, and how many seconds after they found each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context(start_method)
    ranks = [context.Process(target=rank_of_some, args=(rank, port, str(folder), *told)) for rank in range(SIZE)]
    for process in ranks:
        process.start()
    try:
        for process in ranks:
            process.join(90)
        took = time.time() - max(path.stat().st_mtime for path in folder.glob("began *"))
        said = [path.read_text() if (path := folder / str(rank)).exists() else "" for rank in range(SIZE)]
        return [process.exitcode for process in ranks], said, took
    finally:
        for process in ranks:
            process.kill()


@pytest.mark.parametrize("work", [build_banks, train])
@pytest.mark.parametrize(("victim", "die"), [(0, fail), (1, fail), (2, crash)])
def test_a_process_that_fails_ends_all_with_its_rank_and_reason(tmp_path, start_method, work, victim, die):
    codes, said, took = run(start_method, tmp_path, work, victim, die)
    reason = "the picture 17 cannot be read" if die is fail else "ZeroDivisionError: division by zero"
    assert codes == [2] * SIZE and took < 30
    for rank in range(SIZE):
        begin = f"LclError: rank {victim} failed: {reason}; so all 3 processes stop. Start the training again, or "
        assert said[rank].startswith(begin) == (rank != victim) and said[rank].count("\n") == (rank == victim and die is crash)


@pytest.mark.parametrize("work", [build_banks, train])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_all_others(tmp_path, start_method, work, victim):
    codes, said, took = run(start_method, tmp_path, work, victim, killed)
    assert codes == [2 if rank != victim else -signal.SIGKILL for rank in range(SIZE)] and took < 30
    wanted = f"rank {victim} gave no sign of life for" if victim else "rank 0 or torchrun is gone"  # here rank 0 has the store
    for rank in {0, 1, 2} - {victim}:
        assert said[rank].startswith(f"LclError: {wanted}") and "tart the training again" in said[rank]


def test_of_a_process_that_is_stopped_alone_the_others_hear_and_of_all_none(tmp_path, start_method):
    (tmp_path / "one").mkdir(), (tmp_path / "all").mkdir()
    codes, said, took = run(start_method, tmp_path / "one", train, 1, stop)
    assert codes == [2] * SIZE and took < 30
    assert said[1] == "KeyboardInterrupt: " and said[0].startswith("LclError: rank 1 was stopped; so all") and said[2] == said[0]
    codes, said, took = run(start_method, tmp_path / "all", everyone_stops, 0, stop)
    assert said == ["KeyboardInterrupt: "] * SIZE and took < 10


def killed_after_a_stop(ranks: Ranks, victim: int, die) -> None:
    """As torchrun does, the others are asked to stop when one is killed, while they look for the one to blame."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for step in itertools.count():
        ranks.add(torch.ones(2))
        if step == 20:
            if ranks.rank == victim:
                die()
            for delay in (0.3, 1.5):
                threading.Timer(delay, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)).start()


def test_a_stop_that_torchrun_sends_for_a_killed_process_does_not_hide_it(tmp_path, start_method):
    codes, said, _ = run(start_method, tmp_path, killed_after_a_stop, 1, killed)
    assert codes == [2, -signal.SIGKILL, 2]
    assert all(said[rank].startswith("LclError: rank 1 gave no sign of life for") for rank in (0, 2))


def everyone_stops(ranks: Ranks, _, die) -> None:
    ranks.wait()
    die()


def hang(ranks: Ranks, victim: int, die) -> None:
    """The victim fails while another one heeds no interrupt, as in a call of NCCL."""
    processes.GRACE = 2.0
    if ranks.rank == victim:
        die()
    elif ranks.rank == 2:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        time.sleep(60)
    ranks.wait()


def test_a_process_that_heeds_nothing_is_ended(tmp_path, start_method):
    codes, said, took = run(start_method, tmp_path, hang, 1, fail)
    assert codes == [2] * SIZE and took < 30 and said[2] == "" and "rank 1 failed" in said[0]


def late(ranks: Ranks, *_) -> None:
    """Processes that end at different times, the one with the store first, have not failed."""
    time.sleep(4 * ranks.rank)


def test_processes_that_end_well_one_after_the_other_are_not_dead(tmp_path, start_method):
    codes, said, took = run(start_method, tmp_path, late, 0, stop)
    assert codes == [0] * SIZE and said == [""] * SIZE and took >= 7


class FakeStore(dict):
    """A store that one process has for itself."""

    def add(self, key, amount):
        self[key] = self.get(key, 0) + amount
        return self[key]

    def compare_set(self, key, expected, desired):
        if self.get(key, "") == expected:
            self[key] = desired
        return self.get(key, "").encode()


@pytest.fixture
def watch(monkeypatch):
    monkeypatch.setattr(processes, "BEAT", 1e-3)
    monkeypatch.setattr(processes.Watch, "_run", lambda self: None)
    return Watch(FakeStore(), 1, 2)


def test_time_in_which_a_process_was_stopped_itself_is_no_silence_of_the_others(watch, monkeypatch):
    watch.store.add("beats of 0", 1)
    watch.look()
    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + 1000)  # Ctrl-Z for a while
    assert not watch.look()
    monkeypatch.setattr(processes, "SILENT", 0.01)
    while not watch.look():
        time.sleep(1e-3)
    assert "rank 0 gave no sign of life" in watch.reason


def test_one_that_has_not_begun_or_has_ended_is_not_waited_for(watch, monkeypatch):
    monkeypatch.setattr(processes, "SILENT", 0.0)
    for _ in range(5):
        time.sleep(2e-3)
        assert not watch.look(1e-4)
    watch.store |= {"beats of 0": 7, "0 ends": 1}
    for _ in range(5):
        time.sleep(2e-3)
        assert not watch.look(1e-4)


def test_what_waits_hears_of_a_failure(watch):
    watch.store["failed"] = '[0, "failed: no picture."]'
    watch.look()
    with pytest.raises(LostPeer, match="^rank 0 failed: no picture; so all 2 processes stop"):
        watch.wait(lambda: False)


@pytest.mark.slow
def test_torchrun_ends_and_the_killed_rank_is_named(tmp_path):
    status, told = two_ranks(tmp_path, signal.SIGKILL, "--checkpoint-every", "1")
    assert status != 0
    own = [line for line in told.splitlines() if line.startswith(("error: ", "stopped at"))]
    assert len(own) == 1 and own[0].startswith("error: rank 1 gave no sign of life for"), told
    assert list((tmp_path / "two" / "checkpoints").glob("step-*"))  # to go on from
