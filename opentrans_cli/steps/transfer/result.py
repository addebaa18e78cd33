"""What every target of `transfer` gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Transferred:
    """What `transfer` did; each target has a class of its own with more fields."""

    path: Path | None  # what was written; None after a dry run
    framework: str  # the framework built, "open-clip", or the name of a checkpoint's key table

    def to_json(self) -> dict[str, Any]:
        """The receipt of `artifacts.schema.json`."""
        raise NotImplementedError
