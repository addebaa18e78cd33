"""Event files for TensorBoard, written by torch's own writer where the package `tensorboard` is installed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from opentrans_cli.errors import OptionError
from opentrans_cli.files.targets import check_makeable

_FLUSH_SECONDS = 10


class EventFiles:
    """Scalars by step in the folder `folder`. Once they cannot be written, `failed` is told and no more are."""

    def __init__(self, folder: Path, *, first_step: int, failed: Callable[[OSError], None]) -> None:
        """first_step: TensorBoard forgets what earlier files of the folder say of this step and later ones.

        Raises OptionError if the package is missing or the folder cannot be written to.
        """
        check_event_files(folder)
        from torch.utils.tensorboard import SummaryWriter

        self._failed = failed
        try:
            self._writer: Any = SummaryWriter(str(folder), purge_step=first_step, flush_secs=_FLUSH_SECONDS)
        except OSError as error:
            raise _unwritable(folder, error) from error

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """The finite ones of `scalars` as of `step`."""
        for name, value in scalars.items():
            if self._writer is not None and math.isfinite(value):
                self._try(partial(self._writer.add_scalar, name, value, step))

    def close(self) -> None:
        """Write what waits."""
        if self._writer is not None:
            self._try(self._writer.close)
        self._writer = None

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            self._writer = None
            self._failed(error)


def check_event_files(folder: Path) -> None:
    """OptionError if event files cannot be had: a file in the way, or no package `tensorboard`."""
    from importlib.util import find_spec

    if folder.exists() and not folder.is_dir():
        raise OptionError(f"not a folder: --tensorboard {folder}; choose another")
    try:
        check_makeable(folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    if find_spec("tensorboard") is None:
        raise OptionError(
            f"event files need the package tensorboard: --tensorboard {folder}; "
            "install it with `pip install 'opentrans-cli[tensorboard]'`"
        )


def _unwritable(folder: Path, error: OSError) -> OptionError:
    return OptionError(
        f"cannot write event files: --tensorboard {folder} ({error.strerror or error}); choose another folder"
    )
