"""Inspect: what the golden bundle is, without reading a tensor."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from opentrans_cli.bundle.nested import masks_after
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.errors import BundleError, OptionError
from opentrans_cli.steps.look.inspect import inspect

GOLDEN = Path(__file__).parents[2] / "golden" / "bundle-v1"


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


def test_rounds_are_listed_and_each_can_be_looked_at(nested_bundle: Callable[[str], Path]) -> None:
    path = nested_bundle("trained")
    whole = inspect(path)
    assert [round(info.sparsity, 3) for info in whole.rounds] == [0.2, 0.5, 0.8]
    assert all(info.has_weights for info in whole.rounds) and whole.at_sparsity is None
    rounds = open_bundle(path).rounds() or {}
    for info in whole.rounds:
        shown = inspect(path, at_sparsity=info.sparsity)
        assert (shown.kept, shown.achieved_sparsity, shown.at_sparsity) == (info.kept, info.sparsity, info.sparsity)
        counted = {layer: int(mask.sum()) for layer, mask in masks_after(rounds, info.round).items()}
        assert {layer.name: layer.kept for layer in shown.layers} == counted
        assert shown.rounds == whole.rounds and shown.digest == whole.digest


def test_a_sparsity_the_run_never_had_is_told(nested_bundle: Callable[[str], Path]) -> None:
    with pytest.raises(OptionError, match=r"no round has this sparsity: 0\.7 .*choose one of 0\.2, 0\.5, 0\.8"):
        inspect(nested_bundle("trained"), at_sparsity=0.7)
