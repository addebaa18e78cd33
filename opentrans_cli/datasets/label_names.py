"""Label maps among photos, told apart by their names: in a tar shard, or in a folder that holds both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from opentrans_cli.datasets.suffixes import LABEL_SUFFIXES

_LABEL_NAMES = """
    seg segm segmentation segmentations segmentationclass semantic sem mask masks label labels labelmap labelmaps
    label_map label_maps labelids labeltrainids annotation annotations ann anno gt gtfine groundtruth ground_truth
"""
_LABEL_WORDS = frozenset(_LABEL_NAMES.split())
_PHOTO_NAMES = "image images img imgs photo photos picture pictures jpegimages leftimg8bit rgb"
_PHOTO_FOLDERS = frozenset(_PHOTO_NAMES.split())


@dataclass(frozen=True)
class LabelNames:
    """Which of some pictures are label maps."""

    label_maps: frozenset[str]
    photos: dict[str, str]  # name of a photo -> name of its label map
    kinds: Counter[str]  # kinds of names of label maps, such as "*.seg.png" or "labels/*.png"


def label_maps_among(names: Sequence[str], holds_ids: Callable[[str], bool], *, alone: bool = True) -> LabelNames:
    """The label maps among pictures with these relative paths.

    A picture is a label map if it is a PNG or TIFF and is called so (000.seg.png beside 000.jpg, labels/000.png), or if
    it lies beside one photo of its sample as 000.png beside 000.jpg and `holds_ids`. alone: also without any photo.
    """
    label_maps: set[str] = set()
    photos: dict[str, str] = {}
    kinds: Counter[str] = Counter()
    for sample in _samples(names):
        called = [name for name in sample if _is_called_label(name)]
        rest = [name for name in sample if name not in called]
        lossy = [name for name in rest if not name.lower().endswith(LABEL_SUFFIXES)]
        if not called and len(lossy) == 1 and len(rest) > 1:
            called = [name for name in rest if name not in lossy and holds_ids(name)]
            rest = [name for name in rest if name not in called]
        if not rest and not alone:
            continue
        label_maps.update(called)
        kinds.update(map(_kind, called))
        if len(called) == 1 and len(rest) == 1:
            photos[rest[0]] = called[0]
    return LabelNames(frozenset(label_maps), photos, kinds)


def _samples(names: Sequence[str]) -> Iterator[list[str]]:
    """Pictures that belong together: up to the first dot of their names or, with several photos, to the last ones."""
    by_first: dict[str, list[str]] = {}
    for name in names:
        by_first.setdefault(_key(name, 1), []).append(name)
    for sample in by_first.values():
        by_last: dict[str, list[str]] = {}
        for name in sample:
            by_last.setdefault(_key(name), []).append(name)
        photos = sum(not name.lower().endswith(LABEL_SUFFIXES) for name in sample)
        yield from by_last.values() if photos > 1 else [sample]


def _key(name: str, parts: int | None = None) -> str:
    """What the pictures of a sample share: the path without folders that name a kind of picture, and of its last name
    the first `parts` between dots, or all but the suffix and words for a label map in front of it.
    """
    path = PurePosixPath(name)
    folders = [part for part in path.parts[:-1] if part.casefold() not in (*_LABEL_WORDS, *_PHOTO_FOLDERS)]
    dotted = path.name.split(".")
    while parts is None and len(dotted) > 2 and dotted[-2].casefold() in _LABEL_WORDS:
        del dotted[-2]
    return "/".join([*folders, ".".join(dotted[: parts or max(1, len(dotted) - 1)])])


def _is_called_label(name: str) -> bool:
    path = PurePosixPath(name)
    words = [*path.parts[:-1], *path.name.split(".")[1:-1]]
    return path.suffix.lower() in LABEL_SUFFIXES and any(word.casefold() in _LABEL_WORDS for word in words)


def _kind(name: str) -> str:
    path = PurePosixPath(name)
    folder = "" if "." in path.stem or str(path.parent) == "." else f"{path.parent}/"
    return f"{folder}*.{path.name.partition('.')[2]}"
