"""opentrans doctor: text for an issue, and one JSON document."""

from __future__ import annotations

import json
from typing import Any

import opentrans_cli
from opentrans_cli.bundle.schema import check_document


def test_it_prints_markdown_and_one_document(run_cli: Any) -> None:
    text = run_cli("doctor", "--no-imports")
    assert text.exit_code == 0 and text.stdout.startswith(f"## opentrans {opentrans_cli.__version__}\n")
    headings = [line for line in text.stdout.splitlines() if line.startswith("#")][1:]
    assert headings == [
        f"### {name}" for name in ("Devices", "Packages", "Extras", "Caches and disks", "Environment", "Problems")
    ]
    document = json.loads(run_cli("doctor", "--no-imports", "--json").stdout)
    check_document(document, "doctor_report")
    assert {state["name"] for state in document["packages"]} >= {"torch", "open_clip_torch", "numpy"}
