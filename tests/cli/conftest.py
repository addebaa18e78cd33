"""What the tests of several commands need: bundles to write into, and folders that show whether anything was left."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def bundle(tmp_path: Path, tiny_bundle: Path) -> Path:
    """A copy of the tiny bundle that a test may change."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture
def segmentor(tmp_path: Path, tiny_segmentor: Path) -> Path:
    """A copy of the fine-tuned tiny bundle that a test may change."""
    return Path(shutil.copytree(tiny_segmentor, tmp_path / "segmentor"))


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """An empty folder to write into; what is there afterwards was written by the command."""
    folder = tmp_path / "desk"
    folder.mkdir()
    return folder


@pytest.fixture
def refused(run_cli: Any, desk: Path) -> Callable[..., str]:
    """Runs a line that must fail with `code`; returns the line on stderr after checking its form and the desk."""

    def run(*line: object, code: int = 1) -> str:
        before = everything_in(desk)
        result = run_cli(*line, "--quiet")
        assert result.exit_code == code, result.stderr
        told = result.stderr.splitlines()
        assert len(told) == 1 and told[0].startswith("opentrans: error: "), result.stderr
        message = told[0].removeprefix("opentrans: error: ")
        assert "; " in message or "add " in message, f"no next move: {message}"
        assert ".tmp" not in message
        if line[0] != "verify":
            assert result.stdout == ""
        assert everything_in(desk) == before, "something was written"
        return message

    return run


def everything_in(folder: Path) -> dict[str, bytes | None]:
    paths = sorted(folder.rglob("*"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in paths}
