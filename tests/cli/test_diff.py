"""diff on the command line: tables, one JSON document, warnings on stderr, and one line for what cannot be compared."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.cli.diff import _show
from opentrans_cli.steps.look.diff import diff


def test_json_is_the_diff_report(run_cli: Any, tiny_bundle: Path, nested_bundle: Callable[[str], Path]) -> None:
    result = run_cli("diff", tiny_bundle, nested_bundle("trained"), "--json")
    document = json.loads(result.stdout)
    check_document(document, "diff_report")
    assert document == diff(str(tiny_bundle), str(nested_bundle("trained"))).to_json()
    assert (result.exit_code, result.stderr) == (0, "")


def test_the_table_names_every_layer_and_fits_80_columns(bundle: Path, nested_bundle: Callable[[str], Path]) -> None:
    from opentrans_cli.steps.analyze.analyze import analyze

    analyze(str(bundle))
    result = diff(str(bundle), str(bundle))
    for shown in (result, diff(str(nested_bundle("trained")), str(nested_bundle("untrained")))):
        stream = io.StringIO()
        _show(Console(file=stream, width=80, highlight=False), shown)
        lines = stream.getvalue().splitlines()
        assert max(len(line.rstrip()) for line in lines) <= 80
        assert ("0 of 19 changed" in stream.getvalue()) == (shown is result)
        for name in shown.subnets.comparison.layers if shown.subnets else ():
            assert any(line.split()[:1] == [name] for line in lines)


def test_what_differs_is_told_in_words(run_cli: Any, tiny_bundle: Path, nested_bundle: Callable[[str], Path]) -> None:
    shown = run_cli("diff", tiny_bundle, nested_bundle("untrained")).stdout
    assert "the same" in shown and "none" in shown and "all layers" in shown
    assert "0.5000 unstructured" in shown and "0.8000 unstructured" in shown


def test_warnings_go_to_stderr_and_leave_stdout_to_the_document(
    run_cli: Any, bundle: Path, tmp_path: Path, tiny_bundle: Path
) -> None:
    for number, estimator in enumerate(("xmin_peak", "xmin_mid")):
        report = run_cli("analyze", "tiny", "--estimator", estimator, "--json").stdout
        (tmp_path / f"{number}.json").write_text(report)
    result = run_cli("diff", tmp_path / "0.json", tmp_path / "1.json", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["warnings"]
    assert result.stderr == (
        "opentrans: warning: estimators differ, xmin_peak and xmin_mid: alphas are not comparable\n"
    )
    table = run_cli("diff", tmp_path / "0.json", tmp_path / "1.json").stdout
    assert "changed" in table and "Spearman" in table and ("frozen > trained" in table or "trained > frozen" in table)


@pytest.mark.parametrize("wrong", ["nothing-here", "words.txt"])
def test_what_is_neither_is_told_in_one_line(run_cli: Any, tiny_bundle: Path, tmp_path: Path, wrong: str) -> None:
    (tmp_path / "words.txt").write_text("hello")
    for pair in ((tiny_bundle, tmp_path / wrong), (tmp_path / wrong, tiny_bundle)):
        result = run_cli("diff", *pair)
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
        assert result.stderr.startswith("opentrans: error: ") and wrong in result.stderr and "; " in result.stderr
