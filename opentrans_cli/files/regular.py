"""Open files that others have put into a folder: only regular files, so that no read waits forever."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: Path | str) -> BinaryIO:
    """Opens `path` for reading in binary. Raises OSError, also for a folder, a pipe, a socket or a device."""
    # Checked before, because opening a device can have effects, and after, because the file may have been replaced.
    _check_regular(os.stat(path), path)
    descriptor = os.open(path, _FLAGS)
    try:
        _check_regular(os.fstat(descriptor), path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check_regular(status: os.stat_result, path: Path | str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
