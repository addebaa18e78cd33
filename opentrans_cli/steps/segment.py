"""segment: own words on own images; a label map and an overlay with a legend for each."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opentrans_cli.bundle.atomic import staged_folder
from opentrans_cli.bundle.records import json_bytes
from opentrans_cli.datasets.images import list_images, read_image, write_label_map
from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.errors import DataError
from opentrans_cli.pictures.overlay import overlay
from opentrans_cli.pictures.palette import class_colours
from opentrans_cli.steps.reporter import SILENT, Reporter
from opentrans_cli.steps.segmentors import (
    Predictor,
    any_segmentor,
    embed_vocabulary,
)
from opentrans_cli.steps.sources import Tower, load_text_clip, load_tower
from opentrans_cli.training.device import resolve_device

REPORT = "segment.json"


@dataclass(frozen=True)
class SegmentResult:
    """What `segment` wrote into the folder `path`."""

    path: Path
    images: tuple[
        dict[str, Any], ...
    ]  # name, label_map and overlay (file names), classes (name -> share of the pixels)
    vocabulary: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The segment report of `artifacts.schema.json`."""
        return {"images": list(self.images), "vocabulary": list(self.vocabulary)}


def segment(
    source: str,
    images: Sequence[Path],
    *,
    vocabulary: Vocabulary,
    out: Path,
    base: str | None = None,
    device: str = "auto",
    force: bool = False,
    reporter: Reporter = SILENT,
) -> SegmentResult:
    """Label every pixel of `images` (files or folders) with one of the words of `vocabulary`.

    Writes NAME.png (class ids) and NAME-overlay.png for each image, and segment.json, into a new folder `out`; all or
    nothing. A source without a segmentor is read out without training. Raises DataError, SourceError or BundleError.
    """
    files = _files(images)
    _check_target(out, force=force)
    where = resolve_device(device)
    tower = load_tower(source, reporter, base=base)
    built = any_segmentor(tower)
    reporter.say(f"segmentor: {built.framework.name}")
    text = embed_vocabulary(
        load_text_clip(tower.base, base, reporter),
        vocabulary,
        templates=built.framework.templates,
        seen=_seen(tower, vocabulary),
        reporter=reporter,
    )
    predictor = Predictor(built, text, device=where)
    colours = class_colours(len(vocabulary))
    entries: list[dict[str, Any]] = []
    with staged_folder(out, replace=force) as folder, reporter.bar("segmenting", len(files)) as advance:
        for name, path in files.items():
            image = read_image(path)
            label_map = predictor.label_map(image).numpy()
            write_label_map(folder / f"{name}.png", label_map, colours)
            overlay(image, label_map, vocabulary.names, colours=colours).save(folder / f"{name}-overlay.png")
            entries.append(_entry(name, label_map, vocabulary))
            advance(name)
        result = SegmentResult(out, tuple(entries), vocabulary.names)
        (folder / REPORT).write_bytes(json_bytes(result.to_json()))
    return result


def _seen(tower: Tower, vocabulary: Vocabulary) -> tuple[bool, ...] | None:
    """By word: did training label it? None where no training is recorded."""
    record = tower.bundle.manifest.segmentor if tower.bundle else None
    return vocabulary.seen_by(record.seen) if record is not None and record.seen else None


def _files(images: Sequence[Path]) -> dict[str, Path]:
    """Output name -> image; stems that occur twice get their folder's name in front."""
    found: dict[str, Path] = {}
    taken: set[Path] = set()
    for given in images:
        if not given.exists():
            raise DataError(f"no such image or folder: {given}; check the path")
        for path in list_images(given) if given.is_dir() else [given]:
            if path.resolve() in taken:
                raise DataError(f"image given twice: {path}; name it once")
            taken.add(path.resolve())
            name = path.stem if path.stem not in found else f"{path.parent.name}-{path.stem}"
            if name in found:
                raise DataError(f"two images would get the same name: {found[name]} and {path}; segment them apart")
            found[name] = path
    return found


def _check_target(out: Path, *, force: bool) -> None:
    """DataError unless `out` is new, or with `force` holds nothing but what an earlier run left there."""
    if not os.path.lexists(out):
        return
    if not force:
        raise DataError(f"output exists: {out}; choose another --out, or --force to replace it")
    if not out.is_dir():
        raise DataError(f"output is not a folder: {out}; choose another --out")
    foreign = sorted({path.name for path in out.iterdir()} - _written_by_us(out))
    if foreign:
        raise DataError(f"would delete what segment did not write: {out / foreign[0]}; choose another --out")


def _written_by_us(out: Path) -> set[str]:
    try:
        images = json.loads((out / REPORT).read_text(encoding="utf-8"))["images"]
        return {REPORT, *(image[kind] for image in images for kind in ("label_map", "overlay"))}
    except (OSError, ValueError, LookupError, TypeError):
        return set()


def _entry(name: str, label_map: np.ndarray, vocabulary: Vocabulary) -> dict[str, Any]:
    shares = np.bincount(label_map.ravel(), minlength=len(vocabulary)) / label_map.size
    order = np.argsort(-shares, kind="stable")
    return {
        "name": name,
        "label_map": f"{name}.png",
        "overlay": f"{name}-overlay.png",
        "classes": {vocabulary.names[i]: round(float(shares[i]), 6) for i in order if shares[i] > 0},
    }
