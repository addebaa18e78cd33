"""The place a step writes to, made ready before the work: a path that cannot be written should cost no training."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from pathlib import Path

from opentrans_cli.errors import BundleError, DataError


def prepare_parent(out: Path) -> None:
    """Make the folder that `out` is going to lie in.

    Raises BundleError if there is a file in the way or nothing may be written there.
    """
    parent = Path(os.path.realpath(out)).parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"{error.strerror}: {error.filename}"
        raise BundleError(f"cannot write: {out} ({reason}); choose another --out") from error
    if not os.access(parent, os.W_OK | os.X_OK):
        raise BundleError(f"cannot write: {out} (no permission in {parent}); choose another --out")


def check_parent(out: Path) -> None:
    """Raises what `prepare_parent` would, as far as it can be told without making anything."""
    try:
        check_makeable(Path(os.path.realpath(out)).parent)
    except OSError as error:
        raise BundleError(f"cannot write: {out} ({error.strerror}: {error.filename}); choose another --out") from error


def check_makeable(folder: Path) -> None:
    """Raises OSError unless `folder` is there, or can be made, and may be written to; makes nothing."""
    there = Path(os.path.abspath(folder))
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))


def check_folder(out: Path, ours: Collection[str], *, force: bool) -> None:
    """Raises BundleError unless nothing is at `out`, or with `force` a folder with no other files than `ours`."""
    if not os.path.lexists(out):
        return
    if not force:
        raise BundleError(f"already exists: {str(out)!r}; choose another --out or pass --force")
    if not out.is_dir():
        raise BundleError(f"not a folder: {str(out)!r}; choose another --out")
    foreign = sorted({path.name for path in out.iterdir()} - set(ours))
    if foreign:
        raise BundleError(
            f"would delete a file this command did not write: {str(out / foreign[0])!r}; choose another --out, "
            "or move it first"
        )


def check_file(out: Path, *, force: bool, option: str, example: str) -> None:
    """Raises DataError unless a file may be written at `out`, which `option` names; `example` is a name to use."""
    if out.is_dir():
        raise DataError(f"output is a folder: {out}; name a file, such as {example}")
    if out.exists() and not force:
        raise DataError(f"output exists: {out}; choose another {option}, or --force to replace it")
