"""Class lists and split lists: UTF-8 text, one entry per line, blank lines and `#` comments skipped."""

from __future__ import annotations

from pathlib import Path

from opentrans_cli.errors import DataError


def read_entries(path: Path, kind: str) -> list[tuple[int, str]]:
    """The entries of a text file with their line numbers (from 1), stripped of surrounding blanks.

    `kind` names the file in messages ("class file"). Raises DataError if the file is missing, not UTF-8 or
    empty.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{kind} not found: {path}; check the path") from None
    except OSError as error:
        raise DataError(f"{kind} cannot be read: {path} ({error.strerror}); name a text file") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{kind} is not UTF-8 text: {path}, line {line}; save it as UTF-8") from None
    lines = enumerate((line.strip() for line in text.split("\n")), start=1)
    entries = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not entries:
        raise DataError(f"{kind} is empty: {path}; write one entry per line")
    return entries
