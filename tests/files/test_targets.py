"""Places to write to, and where a run leaves its state."""

from __future__ import annotations

from pathlib import Path

import pytest

from opentrans_cli.errors import OutputError
from opentrans_cli.files.targets import prepare_parent
from opentrans_cli.steps.run_files import state_path


def test_the_folder_of_a_target_is_made_and_the_target_is_not(tmp_path: Path) -> None:
    prepare_parent(tmp_path / "a" / "b" / "out")
    prepare_parent(tmp_path / "a" / "b" / "out")
    assert (tmp_path / "a" / "b").is_dir() and not list((tmp_path / "a" / "b").iterdir())


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write: .*/file/out .*; choose another --out"):
        prepare_parent(tmp_path / "file" / "out")
    with pytest.raises(OutputError, match=r"cannot write: .*/file/a/out .*; choose another --out"):
        prepare_parent(tmp_path / "file" / "a" / "out")


def test_the_state_lies_hidden_beside_its_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state_path(tmp_path / "b") == tmp_path / ".b.resume.safetensors"
    monkeypatch.chdir(tmp_path)
    assert state_path(Path("b")) == tmp_path / ".b.resume.safetensors"
    assert state_path(Path(".")).parent == tmp_path.parent
