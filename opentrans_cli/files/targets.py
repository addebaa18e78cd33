"""Check and prepare the output path before a step starts, so that a wrong path does not waste a training run."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from opentrans_cli.errors import OutputError


def prepare_parent(out: Path) -> None:
    """Make the parent folder of `out`.

    Raises OutputError if there is a file in the way or nothing may be written there.
    """
    parent = Path(os.path.realpath(out)).parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"{error.strerror}: {error.filename}"
        raise OutputError(f"cannot write: {out} ({reason}); choose another --out") from error
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write: {out} (no permission in {parent}); choose another --out")


def check_parent(out: Path) -> None:
    """Raises the errors of `prepare_parent` that can be found without making anything."""
    try:
        check_makeable(Path(os.path.realpath(out)).parent)
    except OSError as error:
        raise OutputError(f"cannot write: {out} ({error.strerror}: {error.filename}); choose another --out") from error


def check_makeable(folder: Path) -> None:
    """Raises OSError unless `folder` is there, or can be made, and may be written to; makes nothing."""
    there = Path(os.path.abspath(folder))
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))


def check_file_target(out: Path, *, force: bool, option: str = "--out") -> None:
    """Raises OutputError unless a file may be written at `out`, which `option` names: nothing there, or with `force` a
    file.
    """
    _check_free(out, force=force, option=option)
    if out.is_dir():
        raise OutputError(f"not a file: {str(out)!r}; choose another {option}")


def check_folder_target(
    out: Path, *, force: bool, foreign: Callable[[Path], Iterable[str]], option: str = "--out"
) -> None:
    """Raises OutputError unless a folder may be written at `out`, which `option` names: nothing there, or with `force`
    a folder of our own.

    foreign: gives the paths inside the folder that this program did not write.
    """
    _check_free(out, force=force, option=option)
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise OutputError(f"not a folder: {str(out)!r}; choose another {option}")
    if (first := min(foreign(out), default=None)) is not None:
        raise OutputError(
            f"holds a file that this command did not write: {str(out / first)!r}; move it first, or choose "
            f"another {option}"
        )


def other_than(*ours: str) -> Callable[[Path], set[str]]:
    """The content of a folder except the names `ours`."""
    return lambda out: {path.name for path in out.iterdir()} - set(ours)


def _check_free(out: Path, *, force: bool, option: str) -> None:
    if os.path.lexists(out) and not force:
        raise OutputError(f"already exists: {str(out)!r}; choose another {option}, or pass --force to replace it")
