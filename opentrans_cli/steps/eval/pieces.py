"""Predictions of single pictures on the disk, until all are there and become one document."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from opentrans_cli.errors import TrainingError
from opentrans_cli.files.atomic import write_file


class Pieces:
    """A folder with a JSON file for each row, and pictures, which is made when there is something to keep.

    Several processes may write into it, each its own rows.

    Every file appears as a whole, so that an interrupted run can go on from what is there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, row: int, piece: Any) -> None:
        """Keep what was predicted for a row, as JSON."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_file(self._path(row), [json.dumps(piece).encode()])

    def get(self, row: int) -> Any:
        """What was kept for a row. Raises TrainingError if it is gone."""
        try:
            return json.loads(self._path(row).read_bytes())
        except (OSError, ValueError):
            raise TrainingError(
                f"predictions of an interrupted run are gone: {self._path(row)}; start anew with --force and without "
                "--resume"
            ) from None

    def put_picture(self, name: str, data: bytes) -> None:
        """Keep a picture under its name, which may have folders in it."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, [data])

    def become(self, target: Path) -> None:
        """Remove the files of rows, and let the folder take the place of `target`."""
        for path in self.folder.glob("row-*.json"):
            path.unlink()
        if target.exists():
            shutil.rmtree(target)
        self.folder.replace(target)

    def discard(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, row: int) -> Path:
        return self.folder / f"row-{row:08d}.json"
