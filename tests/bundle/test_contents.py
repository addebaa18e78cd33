"""The laws of new contents, each broken once: told in one line, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opentrans_cli.bundle.store import BundleContents, write_bundle
from opentrans_cli.errors import BundleError, MaskError

Make = Callable[..., Any]


def _grown(given: BundleContents) -> dict[str, Any]:
    weight = given.tower["conv2.weight"].copy()
    weight[~given.masks["conv2"]] = 1e-30
    return {"tower": {**given.tower, "conv2.weight": weight}}


def _with(given: BundleContents, name: str, value: Any) -> dict[str, Any]:
    return {"tower": {**given.tower, name: value}}


def _huge(given: BundleContents) -> dict[str, Any]:
    weight = np.where(given.masks["conv2"], np.float32(3.4e38), np.float32(0))
    return _with(given, "conv2.weight", weight)


LAWS: dict[str, tuple[Callable[[BundleContents], dict[str, Any]], type[Exception], str]] = {
    "weight outside the mask": (_grown, MaskError, "pruned weights are not zero: layer 'conv2'"),
    "NaN in a kept weight": (
        lambda g: _with(g, "conv2.weight", np.full((3, 3), np.nan, np.float32)),
        BundleError,
        "holds NaN or infinite values: 'conv2.weight'",
    ),
    "infinity in another tensor": (
        lambda g: _with(g, "bn1.running_var", np.float32([1, np.inf, 1])),
        BundleError,
        "holds NaN or infinite values: 'bn1.running_var'",
    ),
    "NaN in the head": (lambda g: {"head": {"h": np.float32([np.nan])}}, BundleError, "values: 'h'"),
    "too large for float16": (
        lambda g: {**_huge(g), "dtype": "float16"},
        BundleError,
        "too large for float16",
    ),
    "too large for bfloat16": (
        lambda g: {**_huge(g), "dtype": "bfloat16"},
        BundleError,
        "too large for bfloat16",
    ),
    "other shape": (
        lambda g: _with(g, "conv2.weight", np.zeros((9,), np.float32)),
        MaskError,
        "differ in shape",
    ),
    "integer weight": (lambda g: _with(g, "conv2.weight", np.zeros((3, 3), np.int64)), MaskError, "int64"),
    "mask without weight": (
        lambda g: {"tower": {"bn1.running_var": np.ones(3, np.float32)}},
        MaskError,
        "mask without a weight",
    ),
    "no masks": (lambda g: {"masks": {}}, MaskError, "no layer to prune"),
    "mask of bytes": (lambda g: {"masks": {"conv2": np.ones((3, 3), np.uint8)}}, MaskError, "not a mask"),
    "empty mask": (lambda g: {"masks": {"conv2": np.ones((0, 3), bool)}}, MaskError, "not a mask"),
    "layer name": (
        lambda g: {"masks": {"../x": np.ones(3, bool)}, "tower": {}},
        MaskError,
        "not a layer name",
    ),
    "rounds of other layers": (
        lambda g: {"rounds": {"conv2": np.zeros((3, 3), np.uint8)}},
        MaskError,
        "different layers: 'layer1.0.conv1'",
    ),
    "round 0 on a pruned weight": (
        lambda g: {"rounds": {layer: np.zeros(m.shape, np.uint8) for layer, m in g.masks.items()}},
        MaskError,
        "rounds and mask disagree",
    ),
    "report name": (lambda g: {"reports": {"../x.json": b"{}"}}, BundleError, "not a name for a report"),
    "report that is a tensor file": (
        lambda g: {"reports": {"alpha.safetensors": b""}},
        BundleError,
        "not a name for a report",
    ),
    "report not json": (lambda g: {"reports": {"reports/x.json": b"{"}}, BundleError, "not readable as JSON"),
    "picture not png": (lambda g: {"reports": {"reports/x.png": b"GIF89a"}}, BundleError, "not a PNG"),
    "target": (lambda g: {"target_sparsity": 1.2}, BundleError, "target_sparsity"),
    "steps": (lambda g: {"steps": g.steps * 2}, BundleError, "does not name its parent"),
}


def test_a_broken_law_is_told_and_leaves_nothing_behind(tmp_path: Path, contents: Make) -> None:
    given = contents()
    for name, (change, kind, message) in LAWS.items():
        with pytest.raises(kind, match=message) as caught:
            write_bundle(tmp_path / name, replace(given, **change(given)))
        assert "\n" not in str(caught.value) and not list(tmp_path.iterdir()), name


def test_a_head_without_its_segmentor_and_an_unknown_dtype_are_programming_mistakes(
    tmp_path: Path, contents: Make
) -> None:
    for changes in ({"segmentor": None}, {"dtype": "int8"}):
        with pytest.raises(ValueError):
            write_bundle(tmp_path / "b", contents(**changes))
