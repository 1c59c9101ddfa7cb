"""Atomic writes, checksums, safetensors and JSON: a file is complete, or not there at all."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcl.config import LclError, data_folder, require

if TYPE_CHECKING:
    import torch  # at run time only where tensors are: ONNX folders are opened without torch, safetensors and filelock

log = logging.getLogger("lcl")


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def _require_file(path: Path) -> None:
    """Raise LclError for a pipe or a device, which could be read for ever."""
    require(not os.path.exists(path) or os.path.isfile(path), f"{path} is a folder, a pipe or a device; it should be a file.")


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in chunks. Raises LclError if it cannot be read."""
    _require_file(path)
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise LclError(f"cannot read {path}: {error.strerror}.") from None


def fingerprint(value: Any) -> str:
    """Sixteen hexadecimal digits that name a JSON-able value: equal values, equal names, on any machine."""
    return sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode(errors="surrogatepass"))[:16]


def _replace(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a temporary file next to `path`, then move it there in one step.

    Raises LclError when the folder cannot be written or the disk is full; the old file is then still there, untouched.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        fill(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # on the disk before the name points at it
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files that only their owner may read
        os.replace(temporary, path)
    except OSError as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise LclError(
            f"cannot write {path}: {reason}; what was there before is untouched. Free some space or choose another folder."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)  # there is no way to read it but to set it
    os.umask(mask)
    return mask


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a folder and keep other processes that lock it waiting; a process that dies lets go. Raises LclError if it cannot."""
    import filelock

    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(Path(folder) / ".lock")
        try:
            lock.acquire(timeout=1)
        except filelock.Timeout:
            log.info("another process works in %s; waiting for it", folder)
            lock.acquire()
    except OSError as error:
        raise LclError(f"cannot write in {folder}: {error.strerror}; choose another folder.") from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def fresh_folder(folder: Path) -> Iterator[Path]:
    """Make a folder to fill beside `folder`; it takes that name at the end, and is removed after an error or ^C.

    Raises:
        LclError: if `folder` exists and is not empty, or cannot be made.
    """
    folder = Path(os.path.abspath(folder))
    full = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    require(not full, f"{folder} exists and is not empty; remove it, or name another folder.")
    beside = folder.parent / f".{folder.name}.{os.getpid()}"
    try:
        beside.mkdir(parents=True)
    except OSError as error:
        raise LclError(f"cannot write in {folder.parent}: {error.strerror}; choose another folder.") from None
    try:
        yield beside
        try:
            if folder.exists():
                folder.rmdir()
            beside.rename(folder)
        except OSError as error:
            raise LclError(f"cannot make the folder {folder}: {error.strerror}; choose another one.") from None
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def can_write(folder: Path) -> bool:
    """Whether this process may write in a folder, or make it where it does not exist."""
    there = next(place for place in (folder, *folder.absolute().parents) if os.path.exists(place))
    return os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)


def cache_folder(*parts: str) -> Path:
    """The folder of a cache, which need not exist: below `data_folder()`.

    Where that cannot be written, the folder is below the user's cache folder, else the system's temporary one, with a warning.
    """
    own = data_folder() / "cache"
    places = [own, _user_cache(), Path(tempfile.gettempdir()) / f"lcl-{getattr(os, 'getuid', int)()}"]
    place = next((place for place in places if can_write(place)), own)
    if place != own:
        _warn_once(f"{own} cannot be written, so caches go to {place}; the variable LCL_DATA names another data folder.")
    return place.joinpath(*parts)


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or os.path.expanduser("~/.cache")) / "lcl"


def keep_programs_private() -> None:
    """Make torch keep compiled programs where only this user can write: it runs what it finds there.

    Torch's own choice is a folder of a known name in the system's temporary one, which another user may have made. Here it is
    below the user's cache folder, or where $TORCHINDUCTOR_CACHE_DIR says. If others may write there, programs go to a fresh
    folder, with a warning.
    """
    folder = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or _user_cache() / "inductor").resolve()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.stat()
        private = not hasattr(os, "getuid") or about.st_uid == os.getuid() and not about.st_mode & 0o022
    except OSError:
        private = False
    if not private:
        shared, folder = folder, Path(tempfile.mkdtemp(prefix="lcl-inductor-"))
        log.warning("%s is not a folder that only you can write, so torch keeps its compiled programs in %s.", shared, folder)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


@functools.cache
def _warn_once(message: str) -> None:
    log.warning(message)


def try_write(write: Callable[..., object], path: Path, *contents: object) -> bool:
    """Call write(path, *contents) for a cache: if it raises LclError, such as on a full disk, warn and return False."""
    try:
        write(path, *contents)
    except LclError as error:
        log.warning("%s What was computed is used, but not cached; the variable LCL_DATA names another data folder.", error)
        return False
    return True


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, atomically."""
    _replace(Path(path), lambda temporary: temporary.write_bytes(data))


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as readable JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_checked(path: Path, value: dict[str, Any]) -> None:
    """Write `value` as JSON with one more key, `checksum`: the fingerprint of all others."""
    write_json(path, value | {"checksum": fingerprint(value)})


MAX_JSON_BYTES = 64_000_000
MAX_MODEL_BYTES = 24_000_000  # of a model's JSON: at worst, as empty lists, a gigabyte of memory and five seconds


def read_json(path: Path, most: int = MAX_JSON_BYTES) -> Any:
    """Read JSON. Raises LclError when the file is missing, damaged, or larger than `most` bytes."""
    _require_file(path)
    try:
        size = Path(path).stat().st_size
        require(size <= most, f"{path} has {size} bytes, more than any file of this library.")
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LclError(f"{path} does not exist.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise LclError(f"{path} is not readable as JSON ({error}); it may have been cut off.") from error


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write named tensors to a safetensors file, atomically; contiguous copies are made where needed."""
    import safetensors.torch

    def fill(temporary: Path) -> None:
        try:
            safetensors.torch.save_file(tensors, temporary, metadata)
        except safetensors.SafetensorError as error:  # such as a full disk
            raise OSError(str(error)) from error

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    _replace(Path(path), fill)


MAX_PARAMETERS = 10_000  # tensors of a model


@contextlib.contextmanager
def outline() -> Iterator[None]:
    """Make modules without memory for their weights, on the device meta. Raises LclError for more than MAX_PARAMETERS."""
    import torch
    from torch.nn.modules.module import register_module_parameter_registration_hook

    made = itertools.count(1)

    def count(*_: object) -> None:
        require(next(made) <= MAX_PARAMETERS, f"it has more than {MAX_PARAMETERS} tensors")

    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            yield
    finally:
        hook.remove()


def read_tensors(path: Path, like: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """Read a safetensors file.

    Args:
        path: of the file.
        like: the tensors that must be in it, such as those of an `outline`; names and shapes are compared before any is read.

    Raises:
        LclError: when it is missing or damaged; with `like`, for other names, shapes and types, for NaN and infinity.
    """
    import safetensors.torch

    _require_file(path)
    try:
        if like is None:
            return safetensors.torch.load_file(path)
        with safetensors.safe_open(path, "pt") as file:
            other = sorted(like.keys() ^ set(file.keys()))
            names = ", ".join(other[:3])[:200]
            require(not other, f"{path} does not hold exactly the tensors of this model: missing or extra are {names}.")
            for name, wanted in like.items():
                shape = file.get_slice(name).get_shape()
                require(shape == list(wanted.shape), f"{name} in {path} is {shape}, but this model's is {list(wanted.shape)}.")
            tensors = {name: file.get_tensor(name) for name in like}
    except FileNotFoundError:
        raise LclError(f"{path} does not exist.") from None
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise LclError(f"{path} is not a whole safetensors file ({error}); it may have been cut off.") from error
    for name, tensor in tensors.items():
        right = tensor.dtype == like[name].dtype
        require(right, f"{name} in {path} is of type {tensor.dtype}, but this model's is {like[name].dtype}.")
        finite = bool(tensor.isfinite().all())
        require(finite, f"{name} in {path} holds NaN or infinity; use an earlier checkpoint, or train again.")
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """What `write_tensors` was given as metadata. Raises LclError when the file is missing or damaged."""
    import safetensors

    _require_file(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            return file.metadata() or {}
    except FileNotFoundError:
        raise LclError(f"{path} does not exist.") from None
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise LclError(f"{path} is not a whole safetensors file ({error}); it may have been cut off.") from error
