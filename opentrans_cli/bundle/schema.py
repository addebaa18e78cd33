"""`artifacts.schema.json`, the public contract of manifests and reports, executed."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from opentrans_cli.errors import BundleError

SCHEMA_NAME = "artifacts.schema.json"


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
    """Documents the contract describes: "manifest", "eval_report", ..."""
    return tuple(name for name, rule in load_schema()["$defs"].items() if "title" in rule)


def check_document(document: object, kind: str) -> None:
    """BundleError naming the first wrong place unless `document` follows the contract for `kind`, one of
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
