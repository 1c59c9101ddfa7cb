"""The manifest of a folder of shards: which tars there are, their checksums, and what they were made from."""

from __future__ import annotations

from pathlib import Path

from lcl import storage
from lcl.config import LclError, require

FORMAT = "lcl-shards-1"
MANIFEST = "manifest.json"


def read_manifest(folder: Path) -> dict[str, dict]:
    """{tar: {"bytes", "sha256", "rows"}}; empty if there is no manifest. Raises LclError for an invalid one."""
    path = folder / MANIFEST
    if not path.exists():
        return {}
    found = storage.read_json(path)
    tars = found.get("tars") if isinstance(found, dict) and found.get("format") == FORMAT else None
    whole = isinstance(tars, dict) and all(
        isinstance(tar, dict)
        and isinstance(tar.get("sha256"), str)
        and all(type(tar.get(number)) is int and tar[number] >= 0 for number in ("bytes", "rows"))
        and Path(name).name == name
        for name, tar in tars.items()
    )
    require(whole, f"{path} is no manifest of this library; remove it, and the tars are scanned again.")
    return dict(tars)


def write_manifest(folder: Path, tars: dict[str, dict], source: dict | None = None) -> None:
    """Write the manifest atomically. A setting for near-duplicates that is there stays, see `group_near_duplicates`."""
    near = {"near": True} if near_duplicates_grouped(folder) else {}
    content = {"format": FORMAT, "source": source, "tars": dict(sorted(tars.items()))}
    storage.write_json(folder / MANIFEST, content | near)


def source_of(folder: Path) -> dict | None:
    """What the tars are made from, if the manifest says so."""
    return _field(folder, "source")


def record_source(folder: Path, source: dict) -> None:
    """Record what a folder's tars are made from, before they are scanned. Raises LclError if it is recorded otherwise."""
    folder = Path(folder)
    tars = read_manifest(folder)
    before = source_of(folder) or source
    require(before == source, f"the shards in {folder} are made of something else ({before}); name another folder.")
    write_manifest(folder, tars, source)


def near_duplicates_grouped(folder: Path) -> bool:
    """Whether near-duplicates count as the same picture when these shards are split."""
    return _field(folder, "near") is True


def group_near_duplicates(folder: Path) -> None:
    """From now on let near-duplicates lie on one side of every split; this changes the data set's fingerprint."""
    storage.write_json(folder / MANIFEST, storage.read_json(folder / MANIFEST) | {"near": True})


def _field(folder: Path, name: str):
    try:
        found = storage.read_json(folder / MANIFEST)
    except LclError:
        return None
    return found.get(name) if isinstance(found, dict) else None
