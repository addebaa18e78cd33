"""Panoptic quality as its authors define it, written out slowly, and files of segments for tests.

The definition is that of Kirillov et al. 2019 with the choices of panopticapi, the program of COCO's challenge: one
pair of segments, one pixel set at a time, in exact fractions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Image_ = tuple[np.ndarray, Sequence[tuple[int, int, bool]], np.ndarray, Sequence[tuple[int, int]]]
"""True ids (H, W) and segments (id, class, crowd), and predicted ids (H, W) and segments (id, class)."""


def slow_quality(images: Iterable[Image_]) -> dict[int, tuple[int, int, int, Fraction]]:
    """By class: true positives, false positives, false negatives, and the sum of IoUs of the true positives."""
    found: dict[int, list[Any]] = {}
    for truth, true_segments, prediction, predicted_segments in images:
        void = truth == 0
        true_pixels = {number: truth == number for number, *_ in true_segments}
        predicted_pixels = {number: prediction == number for number, _ in predicted_segments}
        matched_true, matched_predicted = set(), set()
        for true_id, true_class, crowd in true_segments:
            for predicted_id, predicted_class in predicted_segments:
                if crowd or true_class != predicted_class:
                    continue
                inside, guessed = true_pixels[true_id], predicted_pixels[predicted_id]
                union = int((inside | (guessed & ~void)).sum())
                iou = Fraction(int((inside & guessed).sum()), union)
                if iou > Fraction(1, 2):
                    matched_true.add(true_id)
                    matched_predicted.add(predicted_id)
                    entry = found.setdefault(true_class, [0, 0, 0, Fraction(0)])
                    entry[0] += 1
                    entry[3] += iou
        for true_id, true_class, crowd in true_segments:
            if not crowd and true_id not in matched_true:
                found.setdefault(true_class, [0, 0, 0, Fraction(0)])[2] += 1
        for predicted_id, predicted_class in predicted_segments:
            if predicted_id in matched_predicted:
                continue
            guessed = predicted_pixels[predicted_id]
            crowds = [number for number, index, crowd in true_segments if crowd and index == predicted_class]
            excused = void | true_pixels[crowds[-1]] if crowds else void
            if Fraction(int((guessed & excused).sum()), int(guessed.sum())) <= Fraction(1, 2):
                found.setdefault(predicted_class, [0, 0, 0, Fraction(0)])[1] += 1
    return {index: (tp, fp, fn, iou) for index, (tp, fp, fn, iou) in found.items()}


def slow_means(counts: Mapping[int, tuple[int, int, int, Fraction]], classes: Iterable[int]) -> dict[str, float | None]:
    """PQ, SQ and RQ, averaged over those of `classes` that have a segment; None if none has."""
    rows = [counts[index] for index in classes if index in counts and any(counts[index][:3])]
    pq = [iou / (tp + Fraction(fp + fn, 2)) for tp, fp, fn, iou in rows]
    sq = [iou / tp if tp else Fraction(0) for tp, _, _, iou in rows]
    rq = [tp / (tp + Fraction(fp + fn, 2)) for tp, fp, fn, _ in rows]
    return {name: float(sum(v) / len(v)) if v else None for name, v in (("pq", pq), ("sq", sq), ("rq", rq))}


def read_ids(path: Path) -> np.ndarray:
    """The ids in a panoptic PNG."""
    red, green, blue = (np.asarray(channel).astype(np.int64) for channel in Image.open(path).split())
    return red + 256 * green + 65536 * blue


def write_ids(path: Path, ids: np.ndarray) -> None:
    """A panoptic PNG of ids."""
    colours = [ids % 256, ids // 256 % 256, ids // 65536]
    Image.fromarray(np.stack(colours, -1).astype(np.uint8)).save(path)


def write_panoptic(
    path: Path,
    pictures: Mapping[str, tuple[np.ndarray, Sequence[Sequence[int]]]],
    categories: Sequence[tuple[int, str, bool]],
    *,
    listed: bool = True,
) -> Path:
    """Write a JSON at `path` and the PNGs into the folder of its name.

    pictures: file name -> ids (H, W) and segments (id, category id, and 1 for a crowd). categories: id, name and
    whether it consists of objects. listed: write images and categories as well.
    """
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    annotations, images = [], []
    for number, (name, (ids, segments)) in enumerate(pictures.items(), start=1):
        png = f"{Path(name).stem}.png"
        write_ids(folder / png, ids)
        keys = ("id", "category_id", "iscrowd")
        entries = [{**dict(zip(keys, part, strict=False)), "area": int((ids == part[0]).sum())} for part in segments]
        annotations.append({"image_id": number, "file_name": png, "segments_info": entries})
        images.append({"id": number, "file_name": name, "height": ids.shape[0], "width": ids.shape[1]})
    document: dict[str, Any] = {"annotations": annotations}
    if listed:
        names = [{"id": number, "name": name, "isthing": int(thing)} for number, name, thing in categories]
        document |= {"images": images, "categories": names}
    path.write_text(json.dumps(document))
    return path


def panoptic_json(folder: Any) -> Path:
    """The label maps of `labelled_folder` as segments: grass is stuff (category 3), squares are things (7 and 9)."""
    categories = [(3, "grass", False), (7, "red square", True), (9, "blue square", True)]
    pictures = {}
    for path in sorted(folder.labels.glob("*.png")):
        label_map = np.asarray(Image.open(path)).astype(np.int64)
        ids = np.where(label_map == 255, 0, label_map + 70000)
        segments = [(number, categories[number - 70000][0]) for number in np.unique(ids).tolist() if number]
        pictures[path.name] = (ids, segments)
    return write_panoptic(folder.labels.parent / "panoptic.json", pictures, categories)
