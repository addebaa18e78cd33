"""Writes the golden bundles of format version 1: `python tests/golden/make_golden.py`.

The folders are committed and stay for ever: later versions must read them, and writing the same contents must
give the same bytes. `bundle-v1` is older than the towers of earlier rounds, which `bundle-v1-rounds` has. Run this
again only when the format gains something, into a new folder.
Every value is plain arithmetic, so no random generator has to stay the same.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from opentrans_cli.bundle.manifest import Base, SegmentorRecord, Step
from opentrans_cli.bundle.nested import masks_after
from opentrans_cli.bundle.store import BundleContents, write_bundle
from opentrans_cli.files.digest import tower_digest

GOLDEN = Path(__file__).parent / "bundle-v1"
NESTED = Path(__file__).parent / "bundle-v1-rounds"


def _rounds(size: int) -> np.ndarray:
    """Every other weight is kept, the rest went in rounds 1 to 3."""
    index = np.arange(size)
    return np.where(index % 2 == 0, 0, index // 2 % 3 + 1).astype(np.uint8)


def golden_contents() -> BundleContents:
    """Two layers, 22 prunable weights in bfloat16, and every optional file."""
    shapes = {"layer1.0.conv1": (2, 3, 1, 2), "conv2": (5, 2)}
    dense: dict[str, Any] = {
        f"{layer}.weight": ((np.arange(np.prod(shape)) - 4) / 7).astype(np.float32).reshape(shape)
        for layer, shape in shapes.items()
    }
    dense["bn1.running_var"] = np.float32([0.5, 1.25, 2])
    dense["bn1.num_batches_tracked"] = np.array(3, dtype=np.int64)
    rounds = {layer: _rounds(int(np.prod(shape))).reshape(shape) for layer, shape in shapes.items()}
    masks = {layer: numbers == 0 for layer, numbers in rounds.items()}
    tower = {**dense, **{f"{layer}.weight": dense[f"{layer}.weight"] * mask for layer, mask in masks.items()}}
    return BundleContents(
        base=Base(
            source="RN50-quickgelu:openai",
            architecture="RN50-quickgelu",
            model_cfg={
                "embed_dim": 8,
                "vision_cfg": {"layers": [1, 1, 1, 1], "width": 4},
                "quick_gelu": True,
            },
            digest=tower_digest(dense),
            preprocess={
                "size": 224,
                "mean": [0.48145466, 0.4578275, 0.40821073],
                "std": [0.26862954, 0.26130258, 0.27577711],
                "interpolation": "bicubic",
                "resize_mode": "shortest",
            },
            activation="quickgelu",
        ),
        pattern="unstructured",
        target_sparsity=0.5,
        masks=masks,
        tower=tower,
        dtype="bfloat16",
        steps=(
            Step(
                verb="prune",
                options={"sparsity": 0.5, "rounds": 3, "images": None},
                seed=0,
                versions={"opentrans": "0.1.0"},
                data=None,
                parent=None,
                metrics={"loss": 0.25},
            ),
        ),
        rounds=rounds,
        head={"decode.weight": np.float32([[1, -2], [0.5, 0]])},
        segmentor=SegmentorRecord(
            framework="deeplabv3",
            options={"output_stride": 16},
            classes=(("sky", "clouds"), ("road",)),
            seen=("road",),
            templates=("a photo of a {}.",),
        ),
        alpha=(
            {"conv2.eigenvalues": np.array([0.25, 1.5]), "alpha": np.array([2.5, 3.5])},
            {"estimator": "xmin_peak", "layers": ["conv2", "layer1.0.conv1"]},
        ),
        reports={"README.md": b"# A golden bundle of version 1\n", "reports/note.json": b'{"miou": 0.5}\n'},
    )


def nested_contents() -> BundleContents:
    """The same with the towers of rounds 1 and 2: weights and running variance moved, the counter did not."""
    last = golden_contents()
    assert last.rounds is not None
    towers: dict[int, dict[str, Any]] = {}
    for number in (1, 2):
        towers[number] = {**last.tower, "bn1.running_var": np.float32([number, 1.25, 2])}
        for layer, mask in masks_after(last.rounds, number).items():
            values = (np.arange(mask.size, dtype=np.float32).reshape(mask.shape) + number) / 8
            towers[number][f"{layer}.weight"] = values * mask
    return replace(last, round_weights=towers)


if __name__ == "__main__":
    for folder, contents in ((GOLDEN, golden_contents()), (NESTED, nested_contents())):
        shutil.rmtree(folder, ignore_errors=True)
        write_bundle(folder, contents)
