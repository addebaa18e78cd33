"""The data set `panoptic`: the user's own photos with segments in COCO's format, which give label maps as well."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path

import numpy as np

from opentrans_cli.datasets.base import PanopticTruth, Sample
from opentrans_cli.datasets.class_file import LARGEST_ID, UNLABELLED, ClassList
from opentrans_cli.datasets.coco_json import ImageId
from opentrans_cli.datasets.coco_panoptic import PanopticFile, check_there, class_map
from opentrans_cli.datasets.folder import class_list
from opentrans_cli.datasets.images import read_image, turned_as
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.datasets.pairs import Header, Pair, misfit, read_header
from opentrans_cli.datasets.picture_source import Picture
from opentrans_cli.datasets.textfile import read_entries
from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.errors import DataError, OptionError, did_you_mean


class PanopticPhotos:
    """Photos, and segments of a panoptic JSON of COCO's; class i is category i in the order of their ids.

    Photos are read upright, as with label maps; segments with the size of the stored photo are turned with it. `split`
    lists the images to use, by file name with or without suffix, `limit` is the largest number of images, `crop` the
    side of training crops. The JSON is checked at once (DataError), pictures when they are read.
    """

    def __init__(
        self,
        images: Path,
        segments: PanopticFile,
        classes: ClassList | None = None,
        *,
        split: Path | None = None,
        limit: int | None = None,
        crop: int = 512,
    ) -> None:
        """classes: other names for the categories, by their ids if these are written, else in the order of the ids."""
        if not segments.categories:
            raise DataError(f"COCO file lists no categories: {segments.path}; add them")
        ids = [category.id for category in segments.categories]
        if classes is not None and (tuple(ids) != classes.ids if classes.written else len(ids) != len(classes.ids)):
            raise DataError(
                f"class file and categories disagree: {len(classes.ids)} classes for {len(ids)} of {segments.path}; "
                "name each of them, or leave --classes out"
            )
        names = tuple((category.name,) for category in segments.categories)
        self.vocabulary = Vocabulary(names) if classes is None else classes.vocabulary
        self.things = tuple(category.thing for category in segments.categories)
        self.category_ids = tuple(ids)
        self.ignore_index = UNLABELLED if len(ids) <= UNLABELLED else LARGEST_ID
        self.unseen: tuple[str, ...] = ()
        self.default_crop = crop
        self.remarks = () if classes is None else classes.remarks
        self._class_of = {number: index for index, number in enumerate(ids)}
        self._images, self._segments = images, segments
        self._rows = _chosen(segments, split)[:limit]
        check_there("image", [self._photo(row) for row in range(len(self))], images, segments.path)
        segments.check(self._rows, self._class_of)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`; raises PictureError for a damaged photo or PNG, or where they or the JSON do not fit."""
        truth = self.panoptic(index)
        return Sample(read_image(self._photo(index)), class_map(truth, self.ignore_index), self.name(index))

    def panoptic(self, index: int) -> PanopticTruth:
        """The segments of sample `index`, at the size of its image; raises as reading the sample does."""
        truth = self._segments.read(self._rows[index], self._class_of)
        return upright(truth, self._photo(index), self._segments.png(self._rows[index]))

    def name(self, index: int) -> str:
        """The name of the photo of sample `index`, without its suffix."""
        return Path(self._segments.images[self._rows[index]].file_name).with_suffix("").as_posix()

    def image_id(self, index: int) -> ImageId:
        """The id of sample `index` in the JSON."""
        return self._rows[index]

    def _photo(self, index: int) -> Path:
        return self._images / self._segments.images[self._rows[index]].file_name

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over classes, segments and sizes of all files, in order, and what has no labels in training."""
        files = [
            [self.name(row), self._photo(row).stat().st_size, self._segments.png(image).stat().st_size]
            for row, image in enumerate(self._rows)
        ]
        segments = [self._segments.segments(image, self._class_of) for image in self._rows]
        content = [self.vocabulary.classes, self.things, self.unseen, files, segments]
        return f"sha256:{hashlib.sha256(json.dumps(content).encode()).hexdigest()}"


def upright(truth: PanopticTruth, photo: Path, png: Path) -> PanopticTruth:
    """`truth` as the photo is seen: turned with it, if it has the size of its stored pixels.

    Raises PictureError if it has another size.
    """
    header = read_header(Picture(photo), "image")
    size = Header(*truth.ids.shape[::-1])
    if (error := misfit(Pair(photo.stem, Picture(photo), Picture(png)), header, size)) is not None:
        raise error
    if size.stored == header.upright:
        return truth
    turned = turned_as(photo, str(photo), truth.ids.astype(np.int64))
    assert turned is not None
    return PanopticTruth(turned.astype(np.int32), truth.segments)


def _chosen(segments: PanopticFile, split: Path | None) -> list[ImageId]:
    """The images to use, in the order of the JSON or of the list. Raises DataError."""
    if lost := [image for image in segments.image_ids if image not in segments.images]:
        raise DataError(f"segments of an image that is not listed: {lost[0]} in {segments.path}; add it to 'images'")
    if split is None:
        return list(segments.image_ids)
    by_name = {}
    for image in segments.image_ids:
        name = Path(segments.images[image].file_name)
        by_name[name.as_posix()] = by_name[name.with_suffix("").as_posix()] = image
    rows: dict[ImageId, int] = {}
    for number, entry in read_entries(split, "split list"):
        if entry not in by_name:
            raise DataError(
                f"no segments of an image in the split list: {split}, line {number} ('{entry}'); correct the list"
                f"{did_you_mean(entry, by_name)}"
            )
        if (first := rows.setdefault(by_name[entry], number)) != number:
            raise DataError(f"'{entry}' occurs twice: {split}, lines {first} and {number}; keep one")
    return list(rows)


def open_panoptic(options: DatasetOptions) -> PanopticPhotos:
    """The data set of --images and the panoptic JSON --labels. Raises OptionError for options it cannot use."""
    wanted = {"--images": options.images, "--labels": options.labels}
    if missing := [name for name, value in wanted.items() if value is None]:
        raise OptionError(f"data set 'panoptic' is not fully described: {' and '.join(missing)} missing; add it")
    options.refuse("data set 'panoptic' has", "root", "ignore", "image_suffix", "label_suffix", "hold_out")
    assert options.images is not None and options.labels is not None
    if options.images.is_file() or not options.images.exists():
        raise DataError(f"image folder not found: {options.images}; check the path")
    return PanopticPhotos(
        options.images,
        PanopticFile(options.labels),
        None if options.classes is None else class_list(options, options.classes),
        split=options.split_list,
        limit=options.limit,
        crop=options.size or 512,
    )
