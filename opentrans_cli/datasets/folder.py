"""The data set `folder`: the user's own images and label maps, paired by name, without code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.base import Sample
from opentrans_cli.datasets.class_file import LARGEST_ID, UNLABELLED, ClassList, read_classes
from opentrans_cli.datasets.images import turned_as
from opentrans_cli.datasets.listing import IMAGE_SUFFIXES, list_images, list_label_maps
from opentrans_cli.datasets.options import SMALLEST_SIZE, DatasetOptions
from opentrans_cli.datasets.picture_source import Picture, is_shards, list_pictures, read_ids, read_picture
from opentrans_cli.datasets.textfile import read_entries
from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.errors import DataError, OptionError, PictureError, did_you_mean

LARGEST_DEFAULT_CROP = 512
"""The crop of the paper's experiments."""


class FolderDataset:
    """Images in one folder, label maps in another, paired by relative path without suffix; or both in tar shards.

    `image_suffix` and `label_suffix` replace the suffixes in a name, as in Cityscapes: "_leftImg8bit.png".
    Without `labels`, `images` are tar shards as `list_pictures` takes them, with a label map beside each photo.

    A photo is read upright, as its EXIF orientation says. Where this is a quarter turn and the label map has the size
    of the stored photo, the label map was drawn on that and is turned in the same way.

    Label maps hold the ids of `classes`, or one of `ignore` (none given: the ids that the class file calls void, else
    255, or 65535 where a class has the id 255). A sample's label map holds class indices, and `ignore_index`.

    `split` is a list of stems; without it every image needs a label map and the other way round. `unseen` names classes
    without labels in training, `limit` is the largest number of pairs, `crop` replaces the default training crop. Names
    and lists are checked at once (DataError), files when they are read.
    """

    def __init__(
        self,
        images: Path,
        labels: Path | None,
        classes: Path | Vocabulary | ClassList,
        *,
        ignore: tuple[int, ...] = (),
        split: Path | None = None,
        unseen: tuple[str, ...] = (),
        limit: int | None = None,
        crop: int | None = None,
        image_suffix: str | None = None,
        label_suffix: str | None = None,
    ) -> None:
        self.classes = ClassList.of(classes)
        self.vocabulary = self.classes.vocabulary
        self.ignored = ignore or self.classes.default_ignored
        self.ignore_index = UNLABELLED if len(self.vocabulary) <= UNLABELLED else LARGEST_ID
        self._indices = _index_table(self.classes, self.ignored, self.ignore_index)
        self.unseen = _spelled_as_in(self.vocabulary, unseen)
        self._crop = crop
        self.left_out: tuple[str, ...] = ()  # pictures that `leave_out` was told of
        self._listed: list[str] = []  # what was left out
        pictures, maps = self._files(images, labels, image_suffix, label_suffix)
        if split is None:
            _refuse_missing(pictures.keys() - maps.keys(), "images have no label map", f"add it to {labels or images}")
            _refuse_missing(maps.keys() - pictures.keys(), "label maps have no image", f"add it to {images}")
            stems = list(pictures)
        else:
            stems = _stems_of(split, pictures)
            _refuse_missing(set(stems) - maps.keys(), "images have no label map", f"add it to {labels or images}")
        self._pairs = [(stem, pictures[stem], maps[stem]) for stem in stems[:limit]]

    def _files(
        self, images: Path, labels: Path | None, image_suffix: str | None, label_suffix: str | None
    ) -> tuple[dict[str, Picture], dict[str, Picture]]:
        """Photos and label maps by stem."""
        if labels is None:
            found = _by_stem(None, list_pictures(images, say=self._listed.append), "images", None)
            return found, {stem: picture.label for stem, picture in found.items() if picture.label is not None}
        photos = list_images(images, suffix=image_suffix, say=self._listed.append)
        maps = list_label_maps(labels, suffix=label_suffix, say=self._listed.append)
        return (
            _by_stem(images, map(Picture, photos), "images", image_suffix),
            _by_stem(labels, map(Picture, maps), "label maps", label_suffix),
        )

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`; raises DataError for an id without a class, PictureError for a damaged file or other size."""
        name, picture, map_file = self._pairs[index]
        image, label_map = read_picture(picture), read_ids(map_file)
        if image.shape[:2] != label_map.shape:
            label_map = self._fitting(image.shape[:2], label_map, picture, map_file)
        return Sample(image=image, label_map=self._classes_in(label_map, map_file.name), name=name)

    def _fitting(
        self, shape: tuple[int, int], label_map: NDArray[np.int64], picture: Picture, map_file: Picture
    ) -> NDArray[np.int64]:
        """A label map of another size than the upright photo, turned as the photo is. Raises PictureError."""
        turned = turned_as(picture.content(), picture.name, label_map)
        if turned is not None and turned.shape == shape:
            return turned
        (h, w), (lh, lw) = shape, label_map.shape
        raise PictureError(
            f"image is {w}x{h} but its label map {lw}x{lh}: {map_file.name}; resize the label map (nearest)"
        )

    def _classes_in(self, ids: NDArray[np.int64], map_file: str) -> NDArray[np.int64]:
        """A label map of ids as one of class indices. Raises DataError for an id without a class."""
        last = len(self._indices) - 1
        indices = self._indices[np.where((ids < 0) | (ids > last), last, ids)]
        if (foreign := ids[indices < 0]).size:
            raise DataError(foreign_ids(foreign, ids.size, self.classes, self.ignored, map_file))
        return indices

    def leave_out(self, bad: Mapping[int, str]) -> None:
        """Leave these pairs out: row -> which picture it is and what is wrong with it."""
        self._pairs = [pair for row, pair in enumerate(self._pairs) if row not in bad]
        self.left_out = (*self.left_out, *bad.values())

    def name(self, index: int) -> str:
        """The stem of sample `index`."""
        return self._pairs[index][0]

    @property
    def remarks(self) -> tuple[str, ...]:
        """Which files were left out, how the class file was read, and classes that `ignore` leaves without pixels."""
        names = dict(zip(self.classes.ids, self.vocabulary.names, strict=True))
        lost = [
            f"pixels of id {i} are not labelled (--ignore), so none is '{names[i]}'" for i in self.ignored if i in names
        ]
        moved = self.ignored == (LARGEST_ID,) and UNLABELLED in names
        told = [f"id {UNLABELLED} is '{names[UNLABELLED]}', so unlabelled pixels have {LARGEST_ID}"] if moved else []
        return (*self._listed, *self.classes.remarks, *lost, *told)

    @property
    def default_crop(self) -> int:
        """The given crop, else the shorter side of the first image, at most 512 and a multiple of 32."""
        if self._crop is not None:
            return self._crop
        shorter = min(self._first_shape)
        return max(SMALLEST_SIZE, min(LARGEST_DEFAULT_CROP, shorter // SMALLEST_SIZE * SMALLEST_SIZE))

    @cached_property
    def _first_shape(self) -> tuple[int, int]:
        height, width, _ = read_picture(self._pairs[0][1]).shape
        return height, width

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names and sizes of all files, in order, and over the options that change labels."""
        files = [[stem, picture.bytes, map_file.bytes] for stem, picture, map_file in self._pairs]
        plain = self.classes.ids == tuple(range(len(self.vocabulary))) and len(self.ignored) == 1
        labels = self.ignored[0] if plain else [self.classes.ids, self.ignored]
        content = [self.vocabulary.classes, labels, self.unseen, files]
        return f"sha256:{hashlib.sha256(json.dumps(content).encode()).hexdigest()}"


def open_folder(options: DatasetOptions) -> FolderDataset:
    """The data set that --images, --labels and --classes describe; raises OptionError if one is missing."""
    inside = options.images is not None and options.labels is None and is_shards(options.images)
    if options.images is None or (options.labels is None and not inside) or options.classes is None:
        wanted = {"--images": options.images, "--labels": inside or options.labels, "--classes": options.classes}
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
        image_suffix=options.image_suffix,
        label_suffix=options.label_suffix,
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
    foreign: NDArray[np.int64], pixels: int, classes: ClassList, ignored: tuple[int, ...], map_file: str
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


def _by_stem(folder: Path | None, files: Iterable[Picture], kind: str, suffix: str | None) -> dict[str, Picture]:
    """Pictures by their name in `folder`, or in their shard, without suffix."""
    found: dict[str, Picture] = {}
    for picture in files:
        path = picture.path.relative_to(folder) if folder is not None else Path(picture.member or picture.path)
        stem = stem_of(path, suffix)
        if stem in found:
            move = (
                "keep one" if suffix is not None else "keep one, or choose a kind with --image-suffix, --label-suffix"
            )
            raise DataError(f"two {kind} with one stem: {found[stem].name} and {picture.name}; {move}")
        found[stem] = picture
    return found


def stem_of(path: Path, suffix: str | None) -> str:
    """The relative path of a picture without its suffix, or without a longer end that the user named."""
    return path.with_suffix("").as_posix() if suffix is None else path.as_posix()[: -len(suffix)]


def _stems_of(split: Path, pictures: Mapping[str, object]) -> list[str]:
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
