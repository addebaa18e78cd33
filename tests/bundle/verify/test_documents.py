"""Reports: each name follows one definition of the schema, and none is read without a bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from opentrans_cli.bundle.schema import kinds
from opentrans_cli.bundle.verify import documents
from opentrans_cli.bundle.verify.documents import check_report_file, report_kind
from opentrans_cli.errors import BundleError


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("reports/prune.json", "prune_report"),
        ("reports/import.json", "import_report"),
        ("reports/transfer.json", "transfer_receipt"),
        ("reports/finetune.json", "cost_receipt"),
        ("reports/eval-shapes.json", "eval_report"),
        ("reports/eval-shapes-at-0.5.json", "eval_report"),
        ("reports/curve-shapes.json", "curve_report"),
        ("reports/notes.json", None),
        ("reports/curve-shapes.png", None),
    ],
)
def test_a_name_says_which_definition_a_report_follows(name: str, kind: str | None) -> None:
    assert report_kind(name) == kind and (kind is None or kind in kinds())


def test_a_picture_is_one_and_json_is_json(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"\x89PNG\r\n\x1a\n...")
    check_report_file("reports/x.png", path)
    with pytest.raises(BundleError, match="not readable as JSON"):
        check_report_file("reports/x.json", path)
    path.write_bytes(b"{}")
    check_report_file("reports/x.json", path)
    with pytest.raises(BundleError, match="not a PNG picture"):
        check_report_file("reports/x.png", path)
    with pytest.raises(BundleError, match=r"reports/prune.json is not a valid prune report"):
        check_report_file("reports/prune.json", path)


def test_a_report_without_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.touch()
    with path.open("r+b") as file:
        file.truncate(documents.MAX_REPORT + 1)  # a hole, which takes no room
    monkeypatch.setattr(documents, "read_bytes", lambda given: pytest.fail("read"))
    with pytest.raises(BundleError, match="report is too large"):
        check_report_file("reports/x.json", path)
