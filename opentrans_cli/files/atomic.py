"""Files and folders that are written completely or not at all, even if the process is killed.

New content is written beside its target under a hidden temporary name, flushed to the disk, and renamed into
place.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from opentrans_cli.errors import BundleError

_FULL = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}
"""No space on the disk, none for this user, none for a file of this size (`ulimit -f`)."""


class Written(NamedTuple):
    """Size and hash of a file that was just written."""

    sha256: str  # hex
    bytes: int


def temporary_beside(target: Path) -> Path:
    """A hidden name in the target's folder that no other process uses."""
    return target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


_HALF = re.compile(r"\.(.+)\.(\d+)-[0-9a-f]{8}\.tmp", re.DOTALL)


def left_behind(target: Path) -> list[Path]:
    """Temporary files and folders for `target`, named by `temporary_beside`, of processes that were killed."""
    return [half for half in left_in(target.parent) if half.name[1:].rsplit(".", 2)[0] == target.name]


def left_in(folder: Path) -> list[Path]:
    """The same for all targets in a folder."""
    beside = folder.iterdir() if folder.is_dir() else ()
    return [path for path in beside if (found := _HALF.fullmatch(path.name)) and not _runs(int(found[2]))]


def _runs(process: int) -> bool:
    """Whether there is such a process; always True on Windows, where this check would end the process."""
    if os.name == "nt":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def write_file(path: Path, chunks: Iterable[bytes | memoryview]) -> Written:
    """Writes `chunks` to `path`, replacing what is there; mode 0666 less the umask. Raises OSError."""
    temporary = temporary_beside(path)
    sha, size, rest = hashlib.sha256(), 0, iter(chunks)
    try:
        with open(temporary, "xb") as file:
            for chunk in rest:
                size += len(chunk)
                file.write(chunk)
                sha.update(chunk)  # hashed while it is written: reading the file again would cost as much once more
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise _no_room(error, path, needed=size + sum(map(len, rest))) from error
        raise
    sync_folder(path.parent)
    return Written(sha.hexdigest(), size)


def _no_room(error: OSError, path: Path, *, needed: int) -> OSError:
    free = shutil.disk_usage(path.parent).free
    reason = os.strerror(error.errno or 0)
    return OSError(error.errno, f"{reason} ({needed:,} bytes needed, {free:,} free)", str(path))


def disk_full(error: BaseException) -> bool:
    """Whether `error`, or an error that it came from, says that the disk is full."""
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.errno in _FULL):
        cause = cause.__cause__
    return cause is not None


def sync_folder(folder: Path) -> None:
    """Makes renames inside `folder` durable; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(path: Path | str, error: OSError) -> BundleError:
    """What is said of a file that could not be written."""
    return BundleError(f"cannot write: {str(path)!r}, {error.strerror or error}; check free space and permissions")


@contextmanager
def staged_file(target: Path) -> Iterator[Path]:
    """A hidden path beside `target` to write a file at; it becomes `target` when the block ends, and is deleted if the
    block fails. Raises BundleError if writing fails.
    """
    hidden = temporary_beside(target)
    try:
        yield hidden
        os.replace(hidden, target)
        sync_folder(target.parent)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        hidden.unlink(missing_ok=True)


@contextmanager
def staged_folder(target: Path, *, replace: bool) -> Iterator[Path]:
    """An empty folder to fill; it becomes `target` when the block ends, and is deleted if the block fails.

    Without `replace`, a target that was created in the meantime is not touched. Raises BundleError if writing fails.
    """
    target = Path(os.path.realpath(target))
    staging = temporary_beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging.mkdir()
        yield staging
        put_in_place(staging, target, replace=replace)
        sync_folder(target.parent)
    except OSError as error:
        raise BundleError(
            f"cannot write the bundle: {str(target)!r}, {error.strerror or error}; "
            "check free space and permissions, or choose another --out"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def hidden_folder(target: Path) -> Iterator[Path]:
    """An empty hidden folder beside `target`, whose files another process moves into it; deleted when the block ends.

    Raises BundleError if writing fails.
    """
    target = Path(os.path.realpath(target))
    hidden = temporary_beside(target)
    try:
        hidden.mkdir(parents=True)
        yield hidden
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def put_in_place(staging: Path, target: Path, *, replace: bool) -> None:
    """Renames `staging` to `target`; a replaced folder ends up at `staging`. Raises OSError."""
    if not (replace and target.exists()):
        os.rename(staging, target)  # refused by the system when a folder with content is there
        return
    if _exchange(staging, target):
        return
    # Without a system call that swaps two folders, for a moment there is neither; `open_bundle` then says where
    # the old one is.
    aside = replaced_copy(target)
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(target, aside)
    try:
        os.rename(staging, target)
    except BaseException:
        os.rename(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def replaced_copy(target: Path) -> Path:
    """Where the old folder is while `target` is being replaced on systems that cannot swap folders."""
    return target.with_name(f".{target.name}.replaced")


def _exchange(first: Path, second: Path) -> bool:
    """Swaps two folders in one step; False where the system or file system cannot."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "linux":
            here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
            result = libc.renameat2(here, os.fsencode(first), here, os.fsencode(second), swap)
        elif sys.platform == "darwin":
            result = libc.renamex_np(os.fsencode(first), os.fsencode(second), 2)  # RENAME_SWAP
        else:
            return False
    except (AttributeError, OSError, TypeError):
        return False
    return bool(result == 0)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one process at a time may write in `folder`; the system releases the lock when the process ends.

    Does nothing where there is no such lock.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
