"""Check manifests and reports against `artifacts.schema.json`, the public definition of their formats."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from opentrans_cli.errors import BundleError
from opentrans_cli.files.records import parse_json
from opentrans_cli.files.tensorfile import read_bytes

SCHEMA_NAME = "artifacts.schema.json"
_KINDS = {
    r"reports/prune\.json": "prune_report",
    r"reports/import\.json": "import_report",
    r"reports/transfer\.json": "transfer_receipt",
    r"reports/finetune\.json": "cost_receipt",
    r"reports/eval-.+\.json": "eval_report",
    r"reports/curve-.+\.json": "curve_report",
}
MAX_REPORT = 256 << 20  # bytes of a JSON report; the log of a million steps takes a third of this
PNG = b"\x89PNG\r\n\x1a\n"  # begins every picture


@cache
def load_schema() -> dict[str, Any]:
    """The schema document: from the installed package, or from the root of a checkout."""
    package = Path(__file__).parents[1]
    for folder in (package, package.parent):
        path = folder / SCHEMA_NAME
        if path.is_file():
            schema: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return schema
    raise BundleError(f"file of the installation is missing: {SCHEMA_NAME}; install opentrans-cli again")


def kinds() -> tuple[str, ...]:
    """The kinds of documents that the schema defines: "manifest", "eval_report", ..."""
    return tuple(name for name, rule in load_schema()["$defs"].items() if "title" in rule)


def check_document(document: object, kind: str) -> None:
    """Raises BundleError, naming the first wrong place, unless `document` follows the schema for `kind`, one of
    `kinds()`.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    if kind not in kinds():
        raise ValueError(f"unknown kind of document: {kind}; one of {', '.join(kinds())}")
    schema = {**load_schema(), "$ref": f"#/$defs/{kind}"}
    error = best_match(Draft202012Validator(schema).iter_errors(document))
    if error is not None:
        where = "/".join(str(part) for part in error.absolute_path) or "top level"
        reason = " ".join(error.message.split())
        raise BundleError(f"not a valid {kind.replace('_', ' ')}: at {where!r}, {reason[:300]}; see {SCHEMA_NAME}")


def report_kind(name: str) -> str | None:
    """The definition of `artifacts.schema.json` that a report of this name follows; None for other names."""
    return next((kind for pattern, kind in _KINDS.items() if re.fullmatch(pattern, name)), None)


def document_kind(document: object) -> str | None:
    """The kind of a document by the fields that only documents of this kind all have; None for a foreign one.

    Whether it follows the definition is for `check_document` to say.
    """
    if not isinstance(document, dict):
        return None
    rules = load_schema()["$defs"]
    held = [kind for kind in kinds() if set(rules[kind]["required"]) <= document.keys()]
    return max(held, key=lambda kind: len(rules[kind]["required"]), default=None)


def check_report_file(name: str, path: Path) -> None:
    """Raises BundleError unless the report `name` at `path` has the format of its name and follows its definition."""
    if not name.endswith(".json"):
        with path.open("rb") as file:
            if file.read(len(PNG)) != PNG:
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
    """The JSON in a report. Raises BundleError if it is not JSON or too large."""
    if path.stat().st_size > MAX_REPORT:
        raise BundleError(f"report is too large: {str(path)!r}, at most {MAX_REPORT} bytes; remove it from the bundle")
    return parse_json(read_bytes(path), repr(str(path)))
