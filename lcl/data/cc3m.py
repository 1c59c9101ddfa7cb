"""Conceptual Captions, 3 million pairs of the web (Sharma et al. 2018): fetched as tars from the hub, or link by link.

The links are fetched by img2dataset, a tool that needs other versions of our libraries than we do. So it runs as its own
program, in an environment of its own, which is made when it is first wanted.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import itertools
import json
import logging
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from lcl import storage
from lcl.config import LclError, Progress, data_folder, require
from lcl.data.folders import read_table
from lcl.data.photos import BadSample, read_caption
from lcl.data.shards import INDEX, MANIFEST, keep_source, tell

HUB = "pixparse/cc3m-wds"  # the hub's copy, fetched in 2021: 576 tars of jpg, txt and json with 2,905,954 pairs
PAIRS = 3_318_333  # links that CC3M has
PATTERN = "cc3m-train-"
TRIES = 3  # of a tar; within each the hub's client goes on, a few times, where a connection broke off
AT_ONCE = 4  # tars
PINS = Path(__file__).with_name("img2dataset.txt")
LINKS, ROWS = "links.jsonl", 1000  # of a tar that img2dataset writes
PICTURE = 256  # pixels of the shorter side that pictures are kept at; larger ones are reduced
PATIENCE = 10  # seconds that a server may be silent
IDLE = 1800  # seconds in which img2dataset must finish a tar

log = logging.getLogger("lcl")


@dataclass(frozen=True)
class Arrived:
    """What came of what was asked for. what: tars or pictures. faults: the others, by the reason. tars: those of this call,
    which a manifest of before need not know."""

    what: str
    asked: int
    there: int
    faults: dict[str, int]
    tars: tuple[str, ...]

    def __str__(self) -> str:
        often = dict(collections.Counter(self.faults).most_common(10))
        more = f", and {len(self.faults) - len(often)} more kinds" if len(often) < len(self.faults) else ""
        missing = f"; missing: {tell(often)}{more}" if self.faults else ""
        return f"{self.there:,} of {self.asked:,} {self.what} arrived ({self.there / max(self.asked, 1):.1%}){missing}"


# --- tars from the hub


class Tar(NamedTuple):
    """A tar that the hub has. sha256: as the hub says it."""

    name: str
    bytes: int
    sha256: str


def fetch_tars(
    folder: Path, limit: int | None = None, repository: str = HUB, pattern: str = PATTERN, progress: Progress | None = None
) -> Arrived:
    """Fetch the training tars of a data set on the hub, through the hub's client, and compare each with its sha256.

    Called again, it keeps the tars that are whole and fetches the others. limit: so many tars at most. progress: is told the
    bytes that are there. The hub's own settings hold (HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE).
    Raises LclError when the hub cannot be reached, has no such tars, or the folder holds another data set.
    """
    from huggingface_hub import HfApi

    folder, api = Path(folder), HfApi()
    try:
        revision = api.repo_info(repository, repo_type="dataset").sha
        listed = list(api.list_repo_tree(repository, repo_type="dataset", revision=revision))
    except Exception as error:  # a client of others can fail in any way
        raise LclError(
            f"the hub did not say what is in {repository} ({_reason(error)}); try again when online, or fetch the pictures from "
            "their links: `lcl data cc3m --links FILE.tsv`."
        ) from None
    tars = [
        Tar(file.path, file.size, file.lfs.sha256)
        for file in listed
        if getattr(file, "lfs", None) and re.fullmatch(re.escape(pattern) + r"[\w-]+\.tar", file.path)  # a plain file's name
    ]
    require(bool(tars), f"{repository} on the hub has no tars that begin with {pattern}.")
    tars = sorted(tars)[:limit]
    keep_source(folder, {"hub": repository})
    with storage.locked(folder):
        shutil.rmtree(folder / ".cache" / "huggingface" / "download", ignore_errors=True)  # parts that nobody goes on with
        faults: collections.Counter[str] = collections.Counter()
        whole = []
        for tar, reason in _all_at_once(tars, lambda tar: _fetch(api, folder, repository, revision, tar)):
            if reason:
                faults[reason] += 1
                log.warning("%s did not arrive: %s", tar.name, reason)
                continue
            whole.append(tar.name)
            if progress:
                progress(tar.bytes)
    return Arrived("tars", len(tars), len(whole), dict(faults), tuple(sorted(whole)))


def _all_at_once(tars: list[Tar], work: Callable[[Tar], str]) -> Iterator[tuple[Tar, str]]:
    """Every tar and what became of it, as it happens. The threads hold up nobody who stops the program."""
    todo, done = queue.SimpleQueue(), queue.SimpleQueue()
    for tar in tars:
        todo.put(tar)

    def go_on() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                tar = todo.get_nowait()
                try:
                    done.put((tar, work(tar)))
                except LclError as error:
                    done.put((tar, error))

    for _ in range(AT_ONCE):
        threading.Thread(target=go_on, daemon=True).start()
    for _ in tars:
        tar, reason = done.get()
        if isinstance(reason, LclError):
            raise reason
        yield tar, reason


def _fetch(api, folder: Path, repository: str, revision: str, tar: Tar) -> str:
    """Fetch a tar unless it is there; returns why it is not, or nothing. Raises LclError where nothing can be written."""
    path, reason = folder / tar.name, ""
    if path.exists() and path.stat().st_size == tar.bytes and storage.file_sha256(path) == tar.sha256:
        return ""
    for _ in range(TRIES):
        try:
            api.hf_hub_download(
                repository, tar.name, repo_type="dataset", revision=revision, local_dir=folder, force_download=path.exists()
            )
        except Exception as error:
            number = getattr(error, "errno", None)
            require(
                number not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS),
                f"cannot write in {folder}: {os.strerror(number or 0)}; what is there is kept. Make room, and call again.",
            )
            reason = _reason(error)
            continue
        if path.stat().st_size == tar.bytes and storage.file_sha256(path) == tar.sha256:
            return ""
        path.unlink()
        reason = "its sha256 is another one"
    return reason


def _reason(error: Exception) -> str:
    """Why a request failed, in so few words that failures can be counted by them."""
    response = getattr(error, "response", None)
    return f"HTTP {response.status_code}" if response is not None else type(error).__name__


# --- pictures from their links


def fetch_links(
    folder: Path, links: Path, limit: int | None = None, rows: int = ROWS, tell_line: Callable[[str], object] = log.info
) -> Arrived:
    """Fetch the pictures of a table of links (CC3M's .tsv: caption, link) with img2dataset, into tars of `rows` pairs.

    Called again, it goes on with the tars that are not done, or that nothing arrived in. limit: so many links at most.
    tell_line: is told what img2dataset says of its progress. Raises LclError for a table without usable links, a folder that
    holds something else, and when img2dataset cannot be installed, fails, or does nothing for IDLE seconds.
    """
    folder, faults = Path(folder), collections.Counter()
    wanted = "".join(json.dumps(link) + "\n" for link in _links(links, limit, faults)).encode()
    require(bool(wanted), f"{links} has no link that can be fetched: {tell(faults)}.")
    kept = folder / LINKS
    if kept.exists():
        require(kept.read_bytes() == wanted, f"{folder} holds the pictures of other links; name another folder.")
    else:
        others = list(folder.glob("*.tar")) or (folder / MANIFEST).exists()
        require(not others, f"there are other shards in {folder}; name another folder.")
    tars = -(-wanted.count(b"\n") // rows)
    for path in folder.glob("*_stats.json"):
        if not storage.read_json(path).get("successes"):
            path.unlink()  # nobody was there; perhaps somebody is now
    fetched = len(list(folder.glob("*_stats.json"))) < tars
    if fetched:
        python = prepare(tell_line)
        with storage.locked(folder):
            storage.write_bytes(kept, wanted)
            for name in (MANIFEST, INDEX):  # the tool takes every .json for its own; both are made again
                (folder / name).unlink(missing_ok=True)
            _run_tool(python, folder, rows, tell_line)
    stats = [storage.read_json(path) for path in sorted(folder.glob("*_stats.json"))]
    require(len(stats) == tars, f"img2dataset made {len(stats)} of {tars} tars; call again to go on.")
    for stat in stats:
        for status, number in stat["status_dict"].items():
            faults[f"link: {_short(status)}"] += number if status != "success" else 0
    there = sum(stat["successes"] for stat in stats)
    if there:
        keep_source(folder, {"links": storage.file_sha256(kept), "by": "img2dataset"})
    new = fetched or not (folder / INDEX).exists()  # otherwise they were looked at before, and must be what they were
    names = tuple(path.name.replace("_stats.json", ".tar") for path in sorted(folder.glob("*_stats.json"))) if new else ()
    return Arrived("pictures", there + faults.total(), there, dict(+faults), names)


def _links(path: Path, limit: int | None, faults: collections.Counter[str]) -> Iterator[dict[str, str]]:
    for _, link, caption in itertools.islice(read_table(path), limit):
        if not link.lower().startswith(("http://", "https://")):  # the tool would open files as well
            faults["link: neither http nor https"] += 1
            continue
        try:
            yield {"url": link, "caption": read_caption(caption)}
        except BadSample as reason:
            faults[str(reason)] += 1


def _short(status: str) -> str:
    """A reason as one counts it: without what is different in each, and nothing that a server could say to a terminal."""
    if number := re.search(r"HTTP Error (\d+)", status):
        return f"HTTP {number[1]}"
    plain = "".join(letter for letter in status.removeprefix("<urlopen error ").rstrip(">") if " " <= letter <= "~")
    return plain[:60]


def _run_tool(python: Path, folder: Path, rows: int, tell_line: Callable[[str], object]) -> None:
    settings = {
        "url_list": (folder / LINKS).resolve(), "input_format": "jsonl", "url_col": "url", "caption_col": "caption",
        "output_folder": folder.resolve(), "output_format": "webdataset", "number_sample_per_shard": rows,
        "image_size": PICTURE, "resize_mode": "keep_ratio", "resize_only_if_bigger": True,
        "processes_count": os.cpu_count() or 1, "thread_count": 32, "timeout": PATIENCE, "retries": 0,
        "incremental_mode": "incremental",
    }  # fmt: skip
    command = [str(python), "-m", "img2dataset.main", *(f"--{name}={value}" for name, value in settings.items())]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment |= {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}  # it asks nobody for news
    log_path, seen, moved, last = folder / "img2dataset.log", -1, time.monotonic(), collections.deque(maxlen=20)
    with log_path.open("wb") as written, log_path.open(encoding="utf-8", errors="replace") as said:
        tool = subprocess.Popen(command, stdout=written, stderr=subprocess.STDOUT, env=environment)
        try:
            running = True
            while running:
                time.sleep(0.5)
                running = tool.poll() is None  # asked before its last words are read
                for line in said:
                    last.append(line.strip())
                    if line.startswith("total"):  # its own figures
                        tell_line(line.strip())
                if (done := len(list(folder.glob("*_stats.json")))) != seen:
                    seen, moved = done, time.monotonic()
                require(
                    time.monotonic() - moved < IDLE,
                    f"img2dataset finished no tar for {IDLE / 60:.0f} minutes, as a server can bring about that answers "
                    "without end; call again to go on.",
                )
        finally:
            _end(tool)
    require(tool.returncode == 0, f"img2dataset ended with {tool.returncode}: {' / '.join(last)}; call again to go on.")


def _end(tool: subprocess.Popen) -> None:
    """Let nothing of it run on: it starts processes of its own."""
    with contextlib.suppress(psutil.NoSuchProcess):
        everyone = psutil.Process(tool.pid).children(recursive=True)
        for process in everyone:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    tool.kill()
    tool.wait()


def prepare(tell_line: Callable[[str], object] = log.info) -> Path:
    """The Python of img2dataset's own environment, in `data/cache/tools`; made, from exact pins, if it is not there yet.

    Raises LclError when that fails, which it does offline.
    """
    made_of = [PINS.read_text(encoding="utf-8"), sys.version, sys.platform, sys.base_prefix]
    folder = data_folder() / "cache" / "tools" / f"img2dataset-{storage.fingerprint(made_of)}"
    python = folder.absolute() / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    with storage.locked(folder.with_suffix(".making")):
        if (folder / "ready").exists():
            return python
        tell_line("making an environment for img2dataset, once; this takes a minute and 0.8 GB")
        venv.EnvBuilder(with_pip=True, clear=True, symlinks=os.name != "nt").create(folder)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(PINS)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        done = subprocess.run(install, capture_output=True, text=True, errors="replace", env=environment)
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        require(done.returncode == 0, f"img2dataset could not be installed ({reason}); be online, and call again.")
        storage.write_bytes(folder / "ready", b"")
    return python
