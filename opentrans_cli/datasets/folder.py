"""The data set `folder`: the user's own images and label maps, paired by name, without code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.base import Sample
from opentrans_cli.datasets.class_file import LARGEST_ID, UNLABELLED, ClassList, read_classes
from opentrans_cli.datasets.images import (
    IMAGE_SUFFIXES,
    list_images,
    list_label_maps,
    read_image,
    read_label_map,
)
from opentrans_cli.datasets.options import SMALLEST_SIZE, DatasetOptions
from opentrans_cli.datasets.textfile import read_entries
from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.errors import DataError, OptionError, did_you_mean

LARGEST_DEFAULT_CROP = 512
"""The crop of the paper's experiments."""


class FolderDataset:
    """Images in one folder, label maps in another, paired by relative path without suffix.

    Label maps hold the ids of `classes`, or one of `ignore` (none given: the ids that the class file calls void, else
    255, or 65535 where a class has the id 255). A sample's label map holds class indices, and `ignore_index`.

    `split` is a list of stems; without it every image needs a label map and the other way round. `unseen` names classes
    without labels in training, `limit` is the largest number of pairs, `crop` replaces the default training crop. Names
    and lists are checked at once (DataError), files when they are read.
    """

    def __init__(
        self,
        images: Path,
        labels: Path,
        classes: Path | Vocabulary | ClassList,
        *,
        ignore: tuple[int, ...] = (),
        split: Path | None = None,
        unseen: tuple[str, ...] = (),
        limit: int | None = None,
        crop: int | None = None,
    ) -> None:
        self.classes = ClassList.of(classes)
        self.vocabulary = self.classes.vocabulary
        self.ignored = ignore or self.classes.default_ignored
        self.ignore_index = UNLABELLED if len(self.vocabulary) <= UNLABELLED else LARGEST_ID
        self._indices = _index_table(self.classes, self.ignored, self.ignore_index)
        self.unseen = _spelled_as_in(self.vocabulary, unseen)
        self._crop = crop
        pictures = _by_stem(images, list_images(images), "images")
        maps = _by_stem(labels, list_label_maps(labels), "label maps")
        if split is None:
            _refuse_missing(pictures.keys() - maps.keys(), "images have no label map", f"add it to {labels}")
            _refuse_missing(maps.keys() - pictures.keys(), "label maps have no image", f"add it to {images}")
            stems = list(pictures)
        else:
            stems = _stems_of(split, pictures)
            _refuse_missing(set(stems) - maps.keys(), "images have no label map", f"add it to {labels}")
        self._pairs = [(stem, pictures[stem], maps[stem]) for stem in stems[:limit]]

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`; raises DataError for damaged files, different sizes, or an id without a class."""
        name, picture, map_file = self._pairs[index]
        image, label_map = read_image(picture), read_label_map(map_file)
        if image.shape[:2] != label_map.shape:
            (h, w), (lh, lw) = image.shape[:2], label_map.shape
            raise DataError(f"image is {w}x{h} but its label map {lw}x{lh}: {map_file}; resize the label map (nearest)")
        return Sample(image=image, label_map=self._classes_in(label_map, map_file), name=name)

    def _classes_in(self, ids: NDArray[np.int64], map_file: Path) -> NDArray[np.int64]:
        """A label map of ids as one of class indices. Raises DataError for an id without a class."""
        last = len(self._indices) - 1
        indices = self._indices[np.where((ids < 0) | (ids > last), last, ids)]
        if (foreign := ids[indices < 0]).size:
            raise DataError(foreign_ids(foreign, ids.size, self.classes, self.ignored, map_file))
        return indices

    def name(self, index: int) -> str:
        """The stem of sample `index`."""
        return self._pairs[index][0]

    @property
    def remarks(self) -> tuple[str, ...]:
        """How the class file was read, and classes that the ignored ids leave without pixels."""
        names = dict(zip(self.classes.ids, self.vocabulary.names, strict=True))
        lost = [
            f"pixels of id {i} are not labelled (--ignore), so none is '{names[i]}'" for i in self.ignored if i in names
        ]
        moved = self.ignored == (LARGEST_ID,) and UNLABELLED in names
        told = [f"id {UNLABELLED} is '{names[UNLABELLED]}', so unlabelled pixels have {LARGEST_ID}"] if moved else []
        return (*self.classes.remarks, *lost, *told)

    @property
    def default_crop(self) -> int:
        """The given crop, else the shorter side of the first image, at most 512 and a multiple of 32."""
        if self._crop is not None:
            return self._crop
        shorter = min(self._first_shape)
        return max(SMALLEST_SIZE, min(LARGEST_DEFAULT_CROP, shorter // SMALLEST_SIZE * SMALLEST_SIZE))

    @cached_property
    def _first_shape(self) -> tuple[int, int]:
        height, width, _ = read_image(self._pairs[0][1]).shape
        return height, width

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names and sizes of all files, in order, and over the options that change labels."""
        files = [[stem, picture.stat().st_size, map_file.stat().st_size] for stem, picture, map_file in self._pairs]
        plain = self.classes.ids == tuple(range(len(self.vocabulary))) and len(self.ignored) == 1
        labels = self.ignored[0] if plain else [self.classes.ids, self.ignored]
        content = [self.vocabulary.classes, labels, self.unseen, files]
        return f"sha256:{hashlib.sha256(json.dumps(content).encode()).hexdigest()}"


def open_folder(options: DatasetOptions) -> FolderDataset:
    """The data set that --images, --labels and --classes describe; raises OptionError if one is missing."""
    if options.images is None or options.labels is None or options.classes is None:
        wanted = {"--images": options.images, "--labels": options.labels, "--classes": options.classes}
        missing = " and ".join(name for name, value in wanted.items() if value is None)
        raise OptionError(f"data set 'folder' is not fully described: {missing} missing; add it")
    return FolderDataset(
        options.images,
        options.labels,
        classes_of(options, options.classes),
        ignore=options.ignore,
        split=options.split_list,
        unseen=options.hold_out,
        limit=options.limit,
        crop=options.size,
    )


def classes_of(options: DatasetOptions, path: Path) -> ClassList:
    """The classes of the file `path`, with ids as --label-ids says."""
    classes = read_classes(path)
    return classes.in_order() if options.label_ids == "order" else classes


def _index_table(classes: ClassList, ignored: tuple[int, ...], unlabelled: int) -> NDArray[np.int64]:
    """Id -> class index, or `unlabelled` for ignored ids, -1 for others; the last entry stands for all higher ids."""
    table = np.full(max(*classes.ids, *ignored) + 2, -1, np.int64)
    table[list(classes.ids)] = np.arange(len(classes.ids))
    table[list(ignored)] = unlabelled
    return table


def foreign_ids(
    foreign: NDArray[np.int64], pixels: int, classes: ClassList, ignored: tuple[int, ...], map_file: Path
) -> str:
    """What is wrong with a label map of so many `pixels`, of which some hold the ids `foreign`, and what to do."""
    ids = np.unique(foreign).tolist()
    shown = ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
    what = f"id {shown} has no class" if len(ids) == 1 else f"{len(ids)} ids have no class, {shown}"
    known = f"classes have ids {classes.ids[0]} to {classes.ids[-1]}"
    if classes.written and len(classes.ids) <= classes.ids[-1] - classes.ids[0]:
        known += f", {len(classes.ids)} of them"
    share = 100 * foreign.size / pixels
    unlabelled = ",".join(map(str, sorted({*ignored, *ids})))
    moves = [f"pass --ignore {unlabelled} if they are not labelled"] if len(ids) < 6 else []
    if classes.written and classes.ids != tuple(range(len(classes.ids))):
        moves.append("--label-ids order if label maps count classes from 0")
    elif not classes.written and ids == [len(classes.ids)]:
        moves.append(f"write 1:{classes.vocabulary.names[0]} and so on into the class file if they count from 1")
    moves.append("add the class to the class file")
    return f"{what} ({share:.2g} % of the pixels; {known}): {map_file}; {', or '.join(moves)}"


def _by_stem(folder: Path, files: list[Path], kind: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in files:
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise DataError(f"two {kind} with one stem: {found[stem]} and {path}; keep one")
        found[stem] = path
    return found


def _stems_of(split: Path, pictures: dict[str, Path]) -> list[str]:
    """The stems a split list names, in its order; each must be an image and occur once."""
    stems: dict[str, int] = {}
    unknown: list[str] = []
    for number, entry in read_entries(split, "split list"):
        bare = entry[: -len(Path(entry).suffix)] if Path(entry).suffix.lower() in IMAGE_SUFFIXES else entry
        stem = entry if entry in pictures else bare
        if stem in stems:
            raise DataError(f"'{stem}' occurs twice: {split}, lines {stems[stem]} and {number}; keep one")
        stems[stem] = number
        if stem not in pictures:
            unknown.append(f"'{entry}' in line {number}")
    if unknown:
        first, count = unknown[0], len(unknown)
        raise DataError(f"{count} entries without an image: {split}, first {first}; correct the list or --images")
    return list(stems)


def _refuse_missing(stems: Iterable[str], what: str, remedy: str) -> None:
    if missing := sorted(stems):
        raise DataError(f"{len(missing)} {what}: first '{missing[0]}'; {remedy}, or choose with --split-list")


def _spelled_as_in(vocabulary: Vocabulary, names: tuple[str, ...]) -> tuple[str, ...]:
    """`names` as the vocabulary spells them, in its order."""
    wanted = {name.strip().casefold(): name for name in names}
    unknown = wanted.keys() - {name.casefold() for name in vocabulary.names}
    if unknown:
        name = wanted[min(unknown)]
        near = did_you_mean(name, vocabulary.names)
        raise DataError(f"held-out class is not in the class list: '{name}'; correct --hold-out{near}")
    return tuple(dict.fromkeys(name for name in vocabulary.names if name.casefold() in wanted))
