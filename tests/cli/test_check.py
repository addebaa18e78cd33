"""opentrans check: exit codes, one line for the first fault, one document, and a screen of 80 columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from opentrans_cli.bundle.schema import check_document


def test_sound_data_end_with_0_and_broken_with_1_and_the_next_move(run_cli: Any, labelled_folder: Any) -> None:
    where = labelled_folder.images, labelled_folder.labels, labelled_folder.classes
    done = run_cli("check", *where, "--quiet")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "6 pairs" in done.stdout and "red square" in done.stdout and "This data can work." in done.stdout
    (labelled_folder.labels / "2.png").unlink()
    done = run_cli("check", *where, "--quiet")
    assert done.exit_code == 1 and "2.png" in done.stdout
    assert done.stderr == (
        "opentrans: error: this data cannot work: 1 photo has no label map; "
        f"add label maps to {labelled_folder.labels}, or choose photos with --split-list\n"
    )
    done = run_cli("check", *where, "--json", "--quiet")
    document = json.loads(done.stdout)
    check_document(document, "check_report")
    assert (done.exit_code, document["ok"], document["findings"][0]["names"]) == (1, False, ["2.png"])


def test_into_a_pipe_goes_the_folder_of_samples(run_cli: Any, labelled_folder: Any, desk: Path) -> None:
    where = labelled_folder.images, labelled_folder.labels, labelled_folder.classes
    assert run_cli("check", *where, "-o", desk / "new", "--quiet").stdout == f"{desk / 'new'}\n"


def test_thousands_of_classes_and_files_stay_a_short_screen(
    run_cli: Any, labelled_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists are cut on the screen and whole in the document; no line is longer than 80 columns."""
    labelled_folder.classes.write_text("\n".join(f"class number {number} of a long list" for number in range(3000)))
    for number in range(12):
        Image.new("RGB", (64, 64)).save(
            labelled_folder.images / f"a photo of a long name and no label map {number}.png"
        )
    monkeypatch.setattr("opentrans_cli.cli.output._UNBROKEN", 80)
    where = labelled_folder.images, labelled_folder.labels, labelled_folder.classes
    lines = run_cli("check", *where, "--quiet").stdout.splitlines()
    assert len(lines) < 40 and max(map(len, lines)) <= 80
    assert "and 2,996 ids more (--json lists all)" in lines
    assert "and 9 more (--json lists all)" in " ".join(" ".join(lines).split())
    document = json.loads(run_cli("check", *where, "--json", "--quiet").stdout)
    assert len(document["ids"]) == 3000 and len(document["findings"][0]["names"]) == 12
