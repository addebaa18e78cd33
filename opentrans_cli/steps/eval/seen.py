"""Which classes had training labels, and who says so."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from opentrans_cli.datasets.base import SegDataset
from opentrans_cli.steps.segmentors.opened import OpenedSegmentor, names_of
from opentrans_cli.steps.segmentors.words import Words
from opentrans_cli.steps.sources import Tower


class SeenClasses(NamedTuple):
    """By class, whether it had training labels, and where that is known from."""

    flags: tuple[bool, ...]
    origin: str  # "class file", "vocabulary pack", "names of COCO", "bundle", "data set", or "all" if nothing is known


def known_seen(samples: SegDataset, words: Words, opened: OpenedSegmentor, given: Path | None) -> SeenClasses:
    """From the class file `given`, else from a pack, else as known for a checkpoint, else as `seen_classes` says.

    A class is seen if any of its words is among the names. Raises DataError for a file that holds no classes.
    """
    if given is not None:
        return SeenClasses(words.vocabulary.seen_by(names_of(given)), "class file")
    if words.pack is not None:
        return SeenClasses(words.seen_by(()), "vocabulary pack")
    if opened.checkpoint is not None:
        return SeenClasses(words.seen_by(opened.trained_on), "names of COCO" if opened.trained_on else "all")
    return seen_classes(samples, opened.built.tower)


def seen_classes(samples: SegDataset, tower: Tower) -> SeenClasses:
    """From the bundle's segmentor, else from the split of the data set."""
    record = tower.bundle.manifest.segmentor if tower.bundle else None
    if record is not None and record.seen:
        return SeenClasses(samples.vocabulary.seen_by(record.seen), "bundle")
    return SeenClasses(tuple(name not in samples.unseen for name in samples.vocabulary.names), "data set")
