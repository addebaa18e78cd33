"""A file of JSON lines that a run appends to, and that an interrupted run finds whole when it goes on."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from opentrans_cli.files.atomic import write_file

Keep = Callable[[dict[str, Any]], bool]


class LineFile:
    """Every line is in the system's hands when `append` returns: killing the process loses none.

    A line that cannot be written (a full disk) waits for the next one, and `failed` is told once; half a line never
    stays in the file.
    """

    def __init__(self, path: Path, *, keep: Keep, failed: Callable[[OSError], None]) -> None:
        """Of what is at `path` only whole lines stay for which `keep` is true. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            target = Path(os.path.realpath(path))  # a link stays one
            write_file(target, _lines_kept(target, keep))
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._failed = failed
        self._waiting: list[bytes] = []
        self._told = False

    @property
    def waiting(self) -> int:
        """Lines that could not be written yet."""
        return len(self._waiting)

    def append(self, entry: Mapping[str, Any]) -> None:
        """One line; infinity and NaN become null, paths text."""
        self._write([json.dumps(_plain(entry), allow_nan=False).encode() + b"\n"])

    def close(self) -> None:
        """Try once more with what waits, and close the file."""
        if self._waiting:
            self._write([])
        os.close(self._descriptor)

    def _write(self, lines: list[bytes]) -> None:
        # Emptied first: an interruption after the lines were written must not write them again.
        lines, self._waiting = self._waiting + lines, []
        before = os.fstat(self._descriptor).st_size
        try:
            rest = memoryview(b"".join(lines))
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            with suppress(OSError):  # a pipe has no length
                os.ftruncate(self._descriptor, before)
            self._waiting = lines
            if not self._told:
                self._told = True
                self._failed(error)


def _lines_kept(path: Path, keep: Keep) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # torn by a kill
            if isinstance(entry, dict) and keep(entry):
                yield line.rstrip(b"\n") + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
