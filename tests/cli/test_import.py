"""opentrans import prints the bundle it wrote, says aloud what it took from elsewhere, and ends in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import open_bundle


@pytest.fixture
def pruned(tiny_bundle: Path, tmp_path: Path) -> Path:
    """The tower of the tiny bundle as a framework saves it, without its attention pool."""
    tower = open_bundle(tiny_bundle).tower()
    state = {f"backbone.{n}": torch.from_numpy(a.copy()) for n, a in tower.items() if not n.startswith("attnpool.")}
    torch.save({"model": state}, tmp_path / "pruned.pth")
    return tmp_path / "pruned.pth"


def test_the_path_goes_to_stdout_and_what_came_from_the_base_is_told(
    pruned: Path, tmp_path: Path, tiny_bundle: Path, run_cli: Any
) -> None:
    result = run_cli("import", pruned, "--base", "tiny", "-o", tmp_path / "b")
    assert result.exit_code == 0 and result.stdout == f"{tmp_path / 'b'}\n"
    assert "zeros, keys of han under 'backbone.', 18 layers, sparsity 0.5000" in result.stderr
    assert "not in the file, taken from the base: attnpool." in result.stderr and "and 6 more" in result.stderr
    assert open_bundle(tmp_path / "b").masks().keys() == open_bundle(tiny_bundle).masks().keys()


def test_json_follows_the_schema(pruned: Path, tmp_path: Path, run_cli: Any) -> None:
    result = run_cli("import", pruned, "--base", "tiny", "-o", tmp_path / "b", "--json", "--quiet", "--mask-only")
    document = json.loads(result.stdout)
    check_document(document, "import_report")
    assert result.stderr == "" and document["mask_only"] and document["path"] == str(tmp_path / "b")


def test_few_zeros_are_imported_with_a_doubt(tmp_path: Path, run_cli: Any) -> None:
    from opentrans_cli.clip.source import load_clip

    state = load_clip("tiny").model.visual.state_dict()
    state["layer1.0.conv1.weight"][0, 0] = 0
    torch.save(state, tmp_path / "x.pth")
    result = run_cli("import", tmp_path / "x.pth", "--base", "tiny", "-o", tmp_path / "b")
    assert result.exit_code == 0 and "which may be chance: is the file pruned?" in result.stderr


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ((), 1, "no whole CLIP in the checkpoint: "),
        (("--base", "tiny", "--format", "gguf"), 2, "unknown format: 'gguf'"),
        (("--base", "tiny", "--format", "torch-prune"), 1, "no mask by the names of torch-prune: "),
        (("--base", "tiny", "--keys", "timm"), 1, "the tower is not there in "),
        (("--base", "tiny", "--under", "x."), 1, "the tower is not there in "),
        (("--base", "nowhere/x.pt"), 1, "no such file or folder: nowhere/x.pt"),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(
    pruned: Path, tmp_path: Path, run_cli: Any, options: tuple[str, ...], code: int, message: str
) -> None:
    result = run_cli("import", pruned, "-o", tmp_path / "b", *options)
    assert result.exit_code == code and result.stdout == ""
    assert result.stderr.startswith(f"opentrans: error: {message}") and result.stderr.count("\n") == 1
    assert not (tmp_path / "b").exists()


def test_a_bundle_is_replaced_only_by_force(pruned: Path, tmp_path: Path, run_cli: Any) -> None:
    arguments = ("import", pruned, "--base", "tiny", "-o", tmp_path / "b")
    assert run_cli(*arguments).exit_code == 0
    again = run_cli(*arguments)
    assert again.exit_code == 1 and "--force" in again.stderr
    assert run_cli(*arguments, "--force").exit_code == 0
