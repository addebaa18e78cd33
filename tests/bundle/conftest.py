"""A tiny bundle with every optional part: two layers, 21 prunable weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opentrans_cli.bundle.manifest import Base, SegmentorRecord, Step
from opentrans_cli.bundle.store import Bundle, BundleContents, write_bundle
from opentrans_cli.files.digest import tower_digest


def make_base(digest: str = "sha256:" + "0" * 64) -> Base:
    return Base(
        source="tiny",
        architecture="tiny-RN",
        model_cfg={"embed_dim": 8, "vision_cfg": {"layers": [1, 1, 1, 1], "width": 4}},
        digest=digest,
        preprocess={
            "size": 32,
            "mean": [0.48, 0.46, 0.41],
            "std": [0.27, 0.26, 0.28],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
        activation="quickgelu",
    )


def make_step(verb: str = "prune", parent: str | None = None) -> Step:
    return Step(
        verb=verb,
        options={"sparsity": 0.5, "layers": ["layer1.0.conv1"], "images": None},
        seed=7,
        versions={"numpy": "2.0"},
        data=None,
        parent=parent,
        metrics={"loss": 0.25},
    )


def make_contents(seed: int = 0, **changes: Any) -> BundleContents:
    """Random weights and masks; `changes` replace single fields."""
    rng = np.random.default_rng(seed)
    masks = {"layer1.0.conv1": rng.random((2, 3, 1, 2)) < 0.5, "conv2": rng.random((3, 3)) < 0.5}
    masks["conv2"][0, 0] = True
    tower: dict[str, Any] = {
        f"{layer}.weight": np.where(mask, rng.standard_normal(mask.shape), 0).astype(np.float32)
        for layer, mask in masks.items()
    }
    tower["conv2.weight"][0, 0] = -0.0
    tower["bn1.running_var"] = np.float32(rng.random(3))
    tower["bn1.num_batches_tracked"] = np.array(5, dtype=np.int64)
    fields: dict[str, Any] = {
        "base": make_base(tower_digest(tower)),
        "pattern": "unstructured",
        "target_sparsity": 0.5,
        "masks": masks,
        "tower": tower,
        "steps": (make_step(),),
        "rounds": {
            layer: np.where(mask, 0, rng.integers(1, 4, mask.shape)).astype(np.uint8) for layer, mask in masks.items()
        },
        "head": {"decode.weight": np.float32(rng.standard_normal((2, 4)))},
        "segmentor": SegmentorRecord(
            framework="deeplabv3",
            options={"stride": 16},
            classes=(("sky", "clouds"), ("road",)),
            seen=("road",),
            templates=("a photo of a {}.",),
        ),
        "alpha": ({"conv2": np.array([0.5, 1.5])}, {"estimator": "xmin_peak"}),
        "reports": {"reports/eval.json": b'{"miou": 0.5}\n', "README.md": b"# tiny\n"},
    }
    return BundleContents(**{**fields, **changes})


@pytest.fixture
def contents() -> Callable[..., BundleContents]:
    return make_contents


@pytest.fixture
def step() -> Callable[..., Step]:
    return make_step


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "tiny", make_contents())
