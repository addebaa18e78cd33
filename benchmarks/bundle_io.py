"""How fast bundles are written and read, and how large they are, on a tower of ResNet-50's size at 90 % sparsity.

    python benchmarks/bundle_io.py > benchmarks/results/DATE-bundle-io.md

The tower is untrained, pruned by global magnitude. Speeds are dense-equivalent: float32 bytes of the whole dense tower
over the time until the bundle is on the disk (checked, flushed, renamed), or until every tensor is dense again (hashes
checked). The page cache is warm. Each figure is the median of several runs; the slowest stands beside it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rn50 import RN50

from opentrans_cli.bundle.layout import weight_name
from opentrans_cli.bundle.manifest import Base
from opentrans_cli.bundle.nested import masks_after
from opentrans_cli.bundle.store import Bundle, BundleContents, open_bundle, write_bundle
from opentrans_cli.bundle.verify.verify import verify_bundle
from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.layers import arrays, prunable_layers
from opentrans_cli.steps.step_record import environment

PREPROCESS = {"size": 224, "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
ROUNDS = (0.5, 0.8, 0.9)
RUNS = 9


def contents() -> tuple[BundleContents, int]:
    """A bundle of three rounds without snapshots, and the float32 bytes of the dense tower."""
    torch.manual_seed(0)
    visual = build_clip(RN50).visual
    assert isinstance(visual, torch.nn.Module)
    tower = arrays(visual.state_dict())
    dense = sum(array.nbytes for array in tower.values())
    scores = {layer: np.abs(tower[weight_name(layer)]) for layer in prunable_layers(visual)}
    edges = np.quantile(np.concatenate([score.reshape(-1) for score in scores.values()]), ROUNDS)
    order = np.array([1, 2, 3, 0], np.uint8)
    rounds = {layer: order[np.searchsorted(edges, score)] for layer, score in scores.items()}
    base = Base("RN50", "RN50", RN50, "sha256:" + "0" * 64, PREPROCESS, "gelu")
    masks = masks_after(rounds, len(ROUNDS))
    return BundleContents(base, "unstructured", ROUNDS[-1], masks, masked(tower, masks), (), rounds=rounds), dense


def masked(tower: dict[str, np.ndarray], masks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tower with zeros where the masks are False."""
    return {**tower, **{weight_name(layer): tower[weight_name(layer)] * mask for layer, mask in masks.items()}}


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Median and longest time of `work` after one run that is not counted."""
    work()
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return median(times), max(times)


def row(name: str, dense: int, work: Callable[[], object]) -> None:
    usual, longest = seconds(work)
    print(f"| {name} | {usual:.3f} s | {longest:.3f} s | {dense / 1e6 / usual:.0f} MB/s |")


def read(path: Path) -> object:
    return open_bundle(path).tower()


def speeds(given: BundleContents, dense: int, folder: Path) -> None:
    print("\n| what | median | slowest | dense-equivalent |\n|---|---|---|---|")
    for dtype in ("float32", "float16", "bfloat16"):
        variant, path = replace(given, dtype=dtype, rounds=None), folder / dtype
        row(f"write, {dtype}", dense, partial(write_bundle, path, variant, force=True))
        row(f"open and read, {dtype}", dense, partial(read, path))
    row("write with the round of every weight", dense, lambda: write_bundle(folder / "rounds", given, force=True))
    row("verify", dense, lambda: verify_bundle(folder / "float32"))
    row("plain float32 file, written and flushed (np.save)", dense, lambda: plain(given, folder / "plain.npy"))


def plain(given: BundleContents, path: Path) -> None:
    """What the disk and numpy take for the dense tower without any check."""
    import os

    with path.open("wb") as file:
        for array in given.tower.values():
            np.save(file, array)
        file.flush()
        os.fsync(file.fileno())


def sizes(given: BundleContents, folder: Path) -> None:
    weights = sum(mask.size for mask in given.masks.values())
    print("\n| bundle | whole | prunable part | of its dense float32 |\n|---|---|---|---|")
    for dtype in ("float32", "float16", "bfloat16"):
        size(dtype, open_bundle(folder / dtype), weights)
    size("masks alone", write_bundle(folder / "bare", replace(given, tower={}, rounds=None)), weights)


def size(name: str, bundle: Bundle, weights: int) -> None:
    width = 0 if name == "masks alone" else 4 if name == "float32" else 2
    part = sum((layer.total + 7) // 8 + layer.kept * width for layer in bundle.manifest.layers)
    print(f"| {name} | {bundle.size_bytes / 1e6:.2f} MB | {part / 1e6:.2f} MB | {part / 4 / weights:.3f} x |")


def main() -> None:
    torch.set_num_threads(1)
    given, dense = contents()
    prunable = sum(mask.size for mask in given.masks.values())
    print(f"# Bundles written and read, {time.strftime('%Y-%m-%d')}\n\n{environment(torch.device('cpu'))}\n")
    print(f"Dense tower: {dense / 1e6:.1f} MB in float32, {prunable:,} prunable weights, 90 % of them pruned.")
    with tempfile.TemporaryDirectory() as folder:
        speeds(given, dense, Path(folder))
        sizes(given, Path(folder))


if __name__ == "__main__":
    main()
