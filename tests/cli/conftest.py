"""What the tests of several commands need: bundles to write into, and folders that show whether anything was left."""

from __future__ import annotations

import shutil
from pathlib import Path

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
