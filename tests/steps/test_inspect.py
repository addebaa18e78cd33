"""Inspect: what the golden bundle is, without reading a tensor."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.errors import BundleError
from opentrans_cli.steps.inspect import inspect

GOLDEN = Path(__file__).parents[1] / "golden" / "bundle-v1"


def test_the_golden_bundle_at_a_glance() -> None:
    result = inspect(GOLDEN)
    assert (result.architecture, result.pattern, result.framework) == (
        "RN50-quickgelu",
        "unstructured",
        "deeplabv3",
    )
    assert (result.kept, result.total, result.achieved_sparsity) == (11, 22, 0.5)
    assert [(layer.name, layer.kept, layer.total, layer.sparsity) for layer in result.layers] == [
        ("conv2", 5, 10, 0.5),
        ("layer1.0.conv1", 6, 12, 0.5),
    ]
    assert result.steps == ("prune",) and result.has_weights
    assert result.digest == open_bundle(GOLDEN).digest
    assert result.size_bytes == sum(path.stat().st_size for path in GOLDEN.rglob("*.*"))
    assert set(result.files) == {p.relative_to(GOLDEN).as_posix() for p in GOLDEN.rglob("*.*")} - {"manifest.json"}


def test_no_tensor_is_read(tmp_path: Path) -> None:
    """Only sizes are looked at; garbage of the right length is for `verify` to find."""
    shutil.copytree(GOLDEN, tmp_path / "b")
    path = tmp_path / "b" / "weights.safetensors"
    path.write_bytes(b"x" * path.stat().st_size)
    assert inspect(tmp_path / "b").layers == inspect(GOLDEN).layers


def test_a_path_that_is_no_bundle_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not a bundle"):
        inspect(tmp_path)
