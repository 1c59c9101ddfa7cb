"""Conceptual Captions, 3 million pairs of the web (Sharma et al. 2018), fetched as tars from the hub.

Pictures can also be downloaded from their links by img2dataset, a tool of its own; its output is read as any shards are (see
README).
"""

from __future__ import annotations

import collections
import contextlib
import errno
import logging
import os
import queue
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lcl import storage
from lcl.config import LclError, Progress, need, require
from lcl.data.manifest import record_source
from lcl.data.shards import list_faults

HUB = "pixparse/cc3m-wds"  # the hub's copy, fetched in 2021: 576 tars of jpg, txt and json with 2,905,954 pairs
PAIRS = 3_318_333  # links that CC3M has
PATTERN = "cc3m-train-"
TRIES = 3  # of a tar; within each the hub's client goes on, a few times, where a connection broke off
AT_ONCE = 4  # tars

log = logging.getLogger("lcl")


@dataclass(frozen=True)
class Arrived:
    """The result of a download.

    Attributes:
        what: "tars". asked, there: how many were requested, and how many are there.
        faults: how many are missing, by the reason.
        tars: names of those of this call, which an earlier manifest need not list.
    """

    what: str
    asked: int
    there: int
    faults: dict[str, int]
    tars: tuple[str, ...]

    def __str__(self) -> str:
        often = dict(collections.Counter(self.faults).most_common(10))
        more = f", and {len(self.faults) - len(often)} more kinds" if len(often) < len(self.faults) else ""
        missing = f"; missing: {list_faults(often)}{more}" if self.faults else ""
        return f"{self.there:,} of {self.asked:,} {self.what} arrived ({self.there / max(self.asked, 1):.1%}){missing}"


class Tar(NamedTuple):
    """A tar that the hub has. sha256: as the hub says it."""

    name: str
    bytes: int
    sha256: str


def fetch_tars(
    folder: Path, limit: int | None = None, repository: str = HUB, pattern: str = PATTERN, progress: Progress | None = None
) -> Arrived:
    """Download the training tars of a data set on the hub with the hub's client, and compare each with its sha256.

    Called again, it keeps complete tars and downloads the others. The hub's own settings hold (HF_ENDPOINT, HF_TOKEN,
    HF_HUB_OFFLINE).

    Args:
        folder: for the tars.
        limit: number of tars, at most.
        repository, pattern: of the hub, and how its tars' names begin.
        progress: called with the number of bytes that arrived since the last call.

    Raises:
        LclError: if the hub cannot be reached or has no such tars, or the folder holds another data set.
    """
    folder, api = Path(folder), need("huggingface_hub", "shards").HfApi()
    try:
        revision = api.repo_info(repository, repo_type="dataset").sha
        listed = list(api.list_repo_tree(repository, repo_type="dataset", revision=revision))
    except Exception as error:  # a client of others can fail in any way
        raise LclError(
            f"the hub did not list {repository} ({_reason(error)}); try again when online, or download the pictures from their "
            "links with img2dataset (see README)."
        ) from None
    tars = [
        Tar(file.path, file.size, file.lfs.sha256)
        for file in listed
        if getattr(file, "lfs", None) and re.fullmatch(re.escape(pattern) + r"[\w-]+\.tar", file.path)  # a plain file's name
    ]
    require(bool(tars), f"{repository} on the hub has no tars that begin with {pattern}.")
    tars = sorted(tars)[:limit]
    record_source(folder, {"hub": repository})
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
