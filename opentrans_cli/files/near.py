"""What a path that is not there was probably meant to be."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

from opentrans_cli.errors import nearest

_MOST = 2000  # names of a folder that are compared


def near_path(path: Path) -> str:
    """The end of a message about a path that is not there: "; did you mean PATH?", of what lies beside it, or "".

    PATH begins as `path` does, so that it can be typed.
    """
    try:
        with os.scandir(path.parent) as entries:
            near = nearest(path.name, [entry.name for entry in islice(entries, _MOST)])
    except (OSError, ValueError):  # no such folder, no right to look, no path at all
        return ""
    return "" if near is None else f"; did you mean {path.parent / near}?"
