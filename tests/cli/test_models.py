"""opentrans models: a table, and one JSON document."""

from __future__ import annotations

import json
from typing import Any

from opentrans_cli.bundle.schema import check_document


def test_it_prints_a_table_and_one_document(run_cli: Any) -> None:
    table = run_cli("models", "RN101").stdout
    assert "RN101-quickgelu:openai" in table and "unstructured, layerwise, N:M, channel" in table
    assert "a source is one of" in run_cli("models", "--cached").stdout and "a source is one of" not in table
    check_document(json.loads(run_cli("models", "tiny", "--json").stdout), "models_report")
