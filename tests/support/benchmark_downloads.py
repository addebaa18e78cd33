"""Small published data sets as they lie on the disk after their downloads are unpacked, with what their labels mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

from opentrans_cli.assets import class_list_file

NONE = 65535
"""What `Truth` says of a pixel without a class."""

Truth = dict[str, np.ndarray]
"""By name of a picture of the split "val", its class indices (H, W)."""

SIZES = ((48, 64), (64, 40), (50, 50))
NAMES = ("2008_000003", "2009_000012", "2010_001234")


def listed(name: str) -> list[tuple[int, str]]:
    """Ids and lines of a class list."""
    lines = class_list_file(name).read_text().splitlines()
    rows = [line.split(":", 1) for line in lines if not line.startswith("#")]
    return [(int(number), words) for number, words in rows]


def drawn(seed: int, classes: int, shape: tuple[int, int]) -> np.ndarray:
    """Rectangles of classes over no class; the first and the last class are always there."""
    rng = np.random.default_rng(seed)
    indices = np.full(shape, NONE)
    for index in [*rng.integers(0, classes, 5).tolist(), 0, classes - 1]:
        top, left = rng.integers(0, shape[0] - 9), rng.integers(0, shape[1] - 9)
        indices[top : top + rng.integers(5, 20), left : left + rng.integers(5, 20)] = index
    indices[:3, :3], indices[:3, 3:6], indices[3:6, :3] = 0, classes - 1, NONE
    return indices


def photo(path: Path, seed: int, shape: tuple[int, int]) -> None:
    """A smooth picture, since noise is not kept by JPEG."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize(shape[::-1], Image.Resampling.BICUBIC).save(path)


def png(path: Path, pixels: np.ndarray, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    image.save(path)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def coded(indices: np.ndarray, ids: list[int], none: int, dtype: type = np.uint8) -> np.ndarray:
    """Pixel by pixel, the id of each class."""
    found = [[none if index == NONE else ids[index] for index in row] for row in indices.tolist()]
    return np.array(found, dtype)


def coco(root: Path) -> Truth:
    ids, truth, annotations, images = [number for number, _ in listed("coco")], {}, [], []
    for number, shape in enumerate(SIZES):
        name = f"{139 + 7 * number:012d}"
        photo(root / "coco/val2017" / f"{name}.jpg", number, shape)
        indices = truth[name] = drawn(number, 133, shape)
        segments, colours = [], np.zeros((*shape, 3), np.uint8)
        for segment, index in enumerate(sorted({*indices.reshape(-1).tolist()} - {NONE})):
            key = 3_000_000 + 70_001 * segment
            colours[indices == index] = (key % 256, key // 256 % 256, key // 65536)
            area = int((indices == index).sum())
            segments.append({"id": key, "category_id": ids[index], "area": area, "bbox": [0, 0, 1, 1], "iscrowd": 0})
        png(root / "coco/annotations/panoptic_val2017" / f"{name}.png", colours)
        annotations.append({"image_id": int(name), "file_name": f"{name}.png", "segments_info": segments})
        images.append({"id": int(name), "file_name": f"{name}.jpg", "height": shape[0], "width": shape[1]})
    categories = [
        {"id": number, "name": words.split(",")[0], "isthing": int(number < 92)} for number, words in listed("coco")
    ]
    document = {"images": images, "annotations": annotations, "categories": categories}
    text(root / "coco/annotations/panoptic_val2017.json", json.dumps(document))
    return truth


def coco_stuff(root: Path) -> Truth:
    ids, truth = [number - 1 for number, _ in listed("coco-stuff")], {}
    for number, shape in enumerate(SIZES):
        name = f"{285 + 9 * number:012d}"
        photo(root / "coco/val2017" / f"{name}.jpg", number, shape)
        truth[name] = drawn(number, 171, shape)
        png(root / "coco/stuffthingmaps/val2017" / f"{name}.png", coded(truth[name], ids, 255))
    return truth


def cityscapes(root: Path) -> Truth:
    ids, truth = [number for number, _ in listed("cityscapes")], {}
    for number, shape in enumerate(SIZES):
        city = ("frankfurt", "lindau", "lindau")[number]
        stem = f"{city}/{city}_{number:06d}_000019"
        photo(root / "cityscapes/leftImg8bit/val" / f"{stem}_leftImg8bit.png", number, shape)
        truth[stem] = drawn(number, 19, shape)
        label_ids = coded(truth[stem], ids, 1)
        label_ids[4, 4] = 29  # a caravan, which is not scored
        truth[stem][4, 4] = NONE
        made = root / "cityscapes/gtFine/val"
        png(made / f"{stem}_gtFine_labelIds.png", label_ids)
        png(made / f"{stem}_gtFine_instanceIds.png", label_ids.astype(np.uint16) * 1000)
        png(made / f"{stem}_gtFine_color.png", np.stack([label_ids] * 3, -1))
        text(made / f"{stem}_gtFine_polygons.json", "{}")
    return truth


def ade20k_150(root: Path) -> Truth:
    home, truth = root / "ADEChallengeData2016", {}
    text(home / "objectInfo150.txt", "Idx\tRatio\tTrain\tVal\tName\n")
    text(home / "sceneCategories.txt", "ADE_val_00000001 abbey\n")
    for number, shape in enumerate(SIZES):
        name = f"ADE_val_{number + 1:08d}"
        photo(home / "images/validation" / f"{name}.jpg", number, shape)
        truth[name] = drawn(number, 150, shape)
        png(home / "annotations/validation" / f"{name}.png", coded(truth[name], [*range(1, 151)], 0))
    photo(home / "images/training/ADE_train_00000001.jpg", 9, (40, 40))
    png(home / "annotations/training/ADE_train_00000001.png", np.ones((40, 40), np.uint8))
    return truth


def ade20k_847(root: Path, *, large: bool = True) -> Truth:
    """large: with a third photo that is so large that it is shrunk; its truth is that of each second pixel."""
    numbers, truth = listed("ade20k-full"), {}
    home = root / "ADE20K_2021_17_01/images/ADE/validation"
    for number, shape in enumerate([*SIZES[:2], *([(1024, 1032)] if large else [])]):
        stem = home / ("urban/street", "home_or_hotel/bedroom", "urban/street")[number] / f"ADE_val_{number + 1:08d}"
        photo(stem.with_suffix(".jpg"), number, shape)
        indices = drawn(number, 847, (512, 516) if number == 2 else shape)
        objects = coded(indices, [key for key, _ in numbers], 0, np.int64)
        objects[8, 8] = 3057  # a windshield that is no class
        indices[8, 8] = NONE
        mask = np.stack([objects // 256 * 10 + 3, objects % 256, np.zeros_like(objects)], -1).astype(np.uint8)
        mask[objects == 0] = 0
        if number == 2:
            mask = mask.repeat(2, 0).repeat(2, 1)
        png(stem.with_name(f"{stem.name}_seg.png"), mask)
        png(stem.with_name(f"{stem.name}_parts_1.png"), mask)
        there = {*objects.reshape(-1).tolist()}
        found = [{"name_ndx": key, "name": words} for key, words in numbers if key in there]
        found.append({"name_ndx": 3057, "name": "windshield"})
        text(stem.with_suffix(".json"), json.dumps({"annotation": {"object": found}}))
        truth[stem.name] = indices
    return truth


def voc(root: Path, *, background: bool) -> Truth:
    home, truth = root / "VOCdevkit/VOC2012", {}
    for number, (name, shape) in enumerate(zip(NAMES, SIZES, strict=True)):
        photo(home / "JPEGImages" / f"{name}.jpg", number, shape)
        indices = drawn(number, 21, shape)
        png(home / "SegmentationClass" / f"{name}.png", coded(indices, [*range(21)], 255), palette=True)
        truth[name] = indices if background else coded(indices, [NONE, *range(20)], NONE, np.int64)
    photo(home / "JPEGImages/2007_000027.jpg", 9, (40, 40))
    text(home / "ImageSets/Segmentation/val.txt", "".join(f"{name}\n" for name in NAMES))
    text(home / "ImageSets/Segmentation/train.txt", "2007_000027\n")
    return truth


def voc_20(root: Path) -> Truth:
    return voc(root, background=False)


def voc_21(root: Path) -> Truth:
    return voc(root, background=True)


# fmt: off
CONTEXT_59 = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159,
    162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397,
    415, 416, 420, 424, 427, 440, 445, 454, 458,
)
# fmt: on


def context(root: Path, *, classes: int, detail: bool = True) -> Truth:
    """VOC 2010 with its MATLAB files; detail: and the file of PASCAL in Detail, which leaves VOC's last picture out."""
    home, images, regions = root / "VOCdevkit/VOC2010", [], []
    truth: Truth = {}
    for number, (name, shape) in enumerate(zip(NAMES, SIZES, strict=True)):
        photo(home / "JPEGImages" / f"{name}.jpg", number, shape)
        of_459 = drawn(number, 459, shape)
        of_459[10:20, 10:20] = CONTEXT_59[number * 58 % 59] - 1  # the first and the last of the 59 among them
        (home / "trainval").mkdir(parents=True, exist_ok=True)
        ids = coded(of_459, [*range(1, 460)], 0, np.uint16)
        savemat(home / "trainval" / f"{name}.mat", {"LabelMap": ids}, do_compression=number != 0)
        of_59 = [[CONTEXT_59.index(i) if i in CONTEXT_59 else NONE for i in row] for row in ids.tolist()]
        if detail and number == 2:
            continue
        truth[name] = of_459 if classes == 459 else np.array(of_59)
        entry = {"image_id": int(name.replace("_", "")), "file_name": f"{name}.jpg", "phase": "val"}
        images.append({**entry, "height": shape[0], "width": shape[1]})
        for category in sorted({*ids.reshape(-1).tolist()} & {*CONTEXT_59}):
            flat = (ids == category).ravel(order="F")
            ends = np.flatnonzero(np.diff(flat, prepend=False))
            counts = np.diff([0, *ends, flat.size]).tolist()
            lengths = {"size": list(shape), "counts": counts}
            regions.append({"image_id": entry["image_id"], "category_id": category, "segmentation": lengths})
    text(home / "ImageSets/Main/val.txt", "".join(f"{name}\n" for name in NAMES))
    text(home / "labels.txt", "".join(f"{number}: {words}\n" for number, words in listed("context-459")))
    if detail:
        document: dict[str, Any] = {"images": images, "annos_segmentation": regions}
        text(home / "trainval_merged.json", json.dumps(document))
    return truth


def context_59(root: Path) -> Truth:
    return context(root, classes=59)


def context_459(root: Path) -> Truth:
    return context(root, classes=459)


DOWNLOADS: dict[str, Callable[[Path], Truth]] = {
    "coco": coco,
    "coco-stuff": coco_stuff,
    "cityscapes": cityscapes,
    "ade20k-150": ade20k_150,
    "ade20k-847": ade20k_847,
    "voc-20": voc_20,
    "voc-21": voc_21,
    "context-59": context_59,
    "context-459": context_459,
}
"""By data set what writes its download into a root folder."""
