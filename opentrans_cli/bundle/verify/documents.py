"""The reports of a bundle against the public contract: which definition each name follows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.errors import BundleError
from opentrans_cli.files.records import parse_json
from opentrans_cli.files.tensorfile import read_bytes

_KINDS = {
    r"reports/prune\.json": "prune_report",
    r"reports/import\.json": "import_report",
    r"reports/transfer\.json": "transfer_receipt",
    r"reports/finetune\.json": "cost_receipt",
    r"reports/eval-.+\.json": "eval_report",
    r"reports/curve-.+\.json": "curve_report",
}
MAX_REPORT = 256 << 20  # bytes of a JSON report; the log of a million steps has a third of that
_PNG = b"\x89PNG\r\n\x1a\n"


def report_kind(name: str) -> str | None:
    """The definition of `artifacts.schema.json` that a report of this name follows; None for a name of its own."""
    return next((kind for pattern, kind in _KINDS.items() if re.fullmatch(pattern, name)), None)


def check_report_file(name: str, path: Path) -> None:
    """BundleError unless the report `name` at `path` is what its name says, and follows its definition."""
    if not name.endswith(".json"):
        with path.open("rb") as file:
            if file.read(len(_PNG)) != _PNG:
                raise BundleError(f"not a PNG picture: {str(path)!r}; write or download the bundle again")
        return
    document = read_report(path)
    kind = report_kind(name)
    if kind is not None:
        try:
            check_document(document, kind)
        except BundleError as error:
            raise BundleError(f"{name} is {error}") from error


def read_report(path: Path) -> Any:
    """The JSON in a report. Raises BundleError if it is none, or larger than any report."""
    if path.stat().st_size > MAX_REPORT:
        raise BundleError(f"report is too large: {str(path)!r}, at most {MAX_REPORT} bytes; remove it from the bundle")
    return parse_json(read_bytes(path), repr(str(path)))
