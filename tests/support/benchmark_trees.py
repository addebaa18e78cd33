"""Small trees of files in a layout of a benchmark, as its description says that they lie on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from opentrans_cli.datasets.benchmarks.base import BenchmarkFacts, DiskLayout
from opentrans_cli.datasets.benchmarks.pairs import class_list_of, coded_classes
from opentrans_cli.datasets.options import Split

SIZE = 48  # of the photos in pixels, high; they are twice as wide
NAMES = ("a_000000", "b_000001", "c_000002")


def write_split(benchmark: BenchmarkFacts, layout: DiskLayout, root: Path, split: Split) -> list[np.ndarray]:
    """Three photos with label maps, and what these hold: class indices (H, W), -1 = unlabelled.

    Every photo shows the first and the last class and one in between, over unlabelled pixels.
    """
    coded, listed = coded_classes(benchmark, layout.coding), class_list_of(benchmark)
    home = root / layout.homes[0]
    truths, annotations = [], []
    for number, name in enumerate(NAMES):
        truth = np.full((SIZE, 2 * SIZE), -1)
        shown = {0, len(coded.ids) - 1, (len(coded.ids) // 2 + number) % len(coded.ids)}
        for place, index in enumerate(sorted(shown)):
            truth[8:40, 8 + 24 * place : 28 + 24 * place] = index
        photo = home / layout.at(layout.images, split) / (name + (layout.image_suffix or ".jpg"))
        label = home / layout.at(layout.labels, split) / (name + (layout.label_suffix or ".png"))
        for path in (photo, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        colours = np.uint8([[9, 9, 9], [200, 40, 40], [40, 200, 40], [40, 40, 200]])
        Image.fromarray(colours[np.searchsorted(sorted(shown), truth) * (truth >= 0) + (truth >= 0)]).save(photo)
        if layout.panoptic is not None:
            ids = {index: 7 + 300 * index for index in shown}
            pixels = np.select([truth == index for index in shown], [ids[index] for index in shown], 0)
            Image.fromarray(np.stack([pixels >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)).save(label)
            segments = [{"id": ids[index], "category_id": listed.ids[index], "iscrowd": 0} for index in shown]
            annotations.append({"image_id": number, "file_name": label.name, "segments_info": segments})
        else:
            pixels = np.append(coded.ids, coded.void[-1])[truth]
            stored = pixels.astype(np.uint16 if pixels.max() > 255 else np.uint8)
            if label.suffix == ".mat":
                savemat(label, {"LabelMap": stored}, do_compression=True)
            else:
                Image.fromarray(stored).save(label)
        truths.append(truth)
    if layout.panoptic is not None:
        _write(home / layout.at(layout.panoptic, split), json.dumps({"annotations": annotations}))
    if layout.listed is not None:
        _write(home / layout.at(layout.listed, split), "\n".join(NAMES))
    return truths


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
