"""What `transfer` returns for every target."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Transferred:
    """What `transfer` did; each target has its own class with more fields."""

    path: Path | None  # what was written; None after a dry run
    framework: str  # the framework built, "open-clip", or the name of a checkpoint's key table

    def to_json(self) -> dict[str, Any]:
        """The receipt of `artifacts.schema.json`."""
        raise NotImplementedError
