"""What killed runs left half written goes when the next one begins; what another process is writing stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from opentrans_cli.files.atomic import temporary_beside
from opentrans_cli.reporter import SILENT
from opentrans_cli.steps.run_files import round_path, state_path, state_to_resume


@pytest.mark.skipif(os.name == "nt", reason="there is no asking whether a process runs")
@pytest.mark.parametrize("resume", [False, True])
def test_halves_of_killed_runs_are_removed_and_nothing_else(resume: bool, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    targets = (tmp_path / "f", state_path(tmp_path / "f"), tmp_path / "f.log.jsonl", round_path(tmp_path / "f", 7))
    named = [temporary_beside(target).name.replace(f".{os.getpid()}-", ".{}-") for target in targets]
    halves = [name.format(gone.pid) for name in named]
    kept = [
        *(name.format(os.getpid()) for name in named),
        *(f".g.{gone.pid}-0123abcd.tmp", f".f.{gone.pid}-0123abcd", f".f.x.{gone.pid}-0123abcd.tmp"),
        *(".f.resume.safetensors", "f.log.jsonl"),
    ]
    (tmp_path / halves[0]).mkdir()
    for name in (*halves[1:], f"{halves[0]}/weights.safetensors", *kept):
        (tmp_path / name).write_text("half")
    state = state_to_resume(tmp_path / "f", resume=resume, reporter=SILENT)
    assert state == (state_path(tmp_path / "f") if resume else None)
    gone_as_well = set() if resume else {".f.resume.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == {*kept} - gone_as_well


def test_a_folder_that_is_not_there_holds_no_state(tmp_path: Path) -> None:
    assert state_to_resume(tmp_path / "none" / "f", resume=True, reporter=SILENT) is None
