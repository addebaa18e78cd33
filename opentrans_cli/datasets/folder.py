"""The data set `folder`: the user's own images and label maps, paired by name, without code."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.base import Sample
from opentrans_cli.datasets.class_file import LARGEST_ID, UNLABELLED, ClassList, may_lack_names, read_classes
from opentrans_cli.datasets.options import SMALLEST_SIZE, DatasetOptions
from opentrans_cli.datasets.pairs import pair_pictures, read_pair
from opentrans_cli.datasets.picture_source import is_shards, read_picture
from opentrans_cli.datasets.scan import count_ids, scan, spread
from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.errors import DataError, OptionError, PictureError, did_you_mean

MOST_HEADERS, QUICK_PIXELS = 4096, 1 << 26
"""What is looked at before long work: headers of so many pairs, and label maps of so many pixels; about a second."""

OR_SKIP = ", or skip it and others with --skip-bad"
"""The other next move for a bad picture."""

LARGEST_DEFAULT_CROP = 512
"""The crop of the paper's experiments."""


class Probe(NamedTuple):
    """What some pairs hold."""

    label_maps: int  # that were read
    pixels: tuple[int, ...]  # by class
    unlabelled: int  # pixels of ignored ids
    turn_unclear: tuple[str, ...]  # photos that EXIF turns, where no size says if their label maps are turned as well


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
        pairing = pair_pictures(images, labels, image_suffix=image_suffix, label_suffix=label_suffix, split=split)
        pairing.refuse_faults(images, labels, suffixes=image_suffix is not None or label_suffix is not None)
        self._listed, self._pairs = pairing.remarks, list(pairing.pairs[:limit])

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`; raises DataError for an id without a class, PictureError for a damaged file or other size."""
        pair = self._pairs[index]
        try:
            image, ids = read_pair(pair)
        except PictureError as error:
            raise PictureError(f"{error}{OR_SKIP}") from error
        return Sample(image=image, label_map=self._classes_in(ids, pair.label_map.name), name=pair.name)

    def _classes_in(self, ids: NDArray[np.int64], map_file: str) -> NDArray[np.int64]:
        """A label map of ids as one of class indices. Raises DataError for an id without a class."""
        last = len(self._indices) - 1
        indices = self._indices[np.where((ids < 0) | (ids > last), last, ids)]
        if (indices < 0).any():
            pixels = count_ids(ids)
            raise self._foreign_ids(pixels, map_file, pixels.keys())
        return indices

    def _foreign_ids(self, pixels: Mapping[int, int], map_file: str, there: Collection[int]) -> DataError:
        """The error for the label map `map_file` with ids that are no class.

        pixels: how many have each id. there: the ids in all label maps that were looked at.
        """
        classes, ids = self.classes, sorted(pixels.keys() - self._known)
        shown = ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
        what = f"id {shown} has no class" if len(ids) == 1 else f"{len(ids)} ids have no class, {shown}"
        known = f"classes have ids {classes.ids[0]} to {classes.ids[-1]}"
        if classes.written and len(classes.ids) <= classes.ids[-1] - classes.ids[0]:
            known += f", {len(classes.ids)} of them"
        share = 100 * sum(pixels[number] for number in ids) / sum(pixels.values())
        unlabelled = ",".join(map(str, sorted({*self.ignored, *ids})))
        moves = []
        if not classes.written and may_lack_names(len(classes.ids), {*there} - self._known, there):
            moves.append("write ids into the class file (7:NAME) if it lacks names in between")
        elif len(ids) < 6:
            moves.append(f"pass --ignore {unlabelled} if they are not labelled")
        if classes.written and not classes.counted:
            moves.append("--label-ids order if label maps count classes from 0")
        elif not classes.written and ids == [len(classes.ids)]:
            moves.append(f"write 1:{classes.vocabulary.names[0]} and so on into the class file if they count from 1")
        moves.append("add the class to the class file")
        return DataError(f"{what} ({share:.2g} % of the pixels; {known}): {map_file}; {', or '.join(moves)}")

    @cached_property
    def _known(self) -> frozenset[int]:
        """The ids that label maps may hold."""
        return frozenset((*self.classes.ids, *self.ignored))

    def probe(self, *, skip_bad: bool) -> Probe:
        """Look at the headers of the pairs and at the ids in some label maps, before long work begins.

        Raises what reading would raise, for the first pair; skip_bad: not what reading would leave out.
        """
        facts = scan(spread(self._pairs, MOST_HEADERS), "sizes")
        sizes = [each.label_map.width * each.label_map.height for each in facts if each.label_map is not None]
        maps = QUICK_PIXELS * len(sizes) // max(1, sum(sizes))
        errors: list[DataError] = [each.error for each in facts if each.error is not None and not skip_bad]
        counts: Counter[int] = Counter()
        looked_at = scan(spread(self._pairs, max(1, maps)), "ids")
        for each in looked_at:
            counts.update(each.pixels)
        strange = [each for each in looked_at if each.pixels.keys() - self._known]
        errors += [self._foreign_ids(each.pixels, each.pair.label_map.name, counts.keys()) for each in strange]
        if errors:
            skip = OR_SKIP if isinstance(errors[0], PictureError) else ""
            more = f" ({len(errors)} such files; `opentrans check` names all)" if len(errors) > 1 else ""
            raise type(errors[0])(f"{errors[0]}{skip}{more}")
        return Probe(
            label_maps=len(looked_at),
            pixels=tuple(counts[number] for number in self.classes.ids),
            unlabelled=sum(counts[number] for number in self.ignored),
            turn_unclear=tuple(each.pair.photo.name for each in facts if each.turn_unclear),
        )

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
        plain = self.classes.counted and len(self.ignored) == 1
        labels = self.ignored[0] if plain else [self.classes.ids, self.ignored]
        content = [self.vocabulary.classes, labels, self.unseen, files]
        return f"sha256:{hashlib.sha256(json.dumps(content).encode()).hexdigest()}"


def open_folder(options: DatasetOptions) -> FolderDataset:
    """The data set that --images, --labels and --classes describe; raises OptionError if one is missing."""
    own = options.labels is None or options.labels == options.images
    # A folder of photos may hold a tar file as well.
    inside = options.images is not None and is_shards(options.images) and (own or not options.images.is_dir())
    if inside and not own:
        raise OptionError(f"tar shards hold their own label maps: --labels {options.labels}; leave it out")
    if options.images is None or (options.labels is None and not inside) or options.classes is None:
        wanted = {"--images": options.images, "--labels": inside or options.labels, "--classes": options.classes}
        missing = " and ".join(name for name, value in wanted.items() if value is None)
        raise OptionError(f"data set 'folder' is not fully described: {missing} missing; add it")
    return FolderDataset(
        options.images,
        None if inside else options.labels,
        class_list(options, options.classes),
        ignore=options.ignore,
        split=options.split_list,
        unseen=options.hold_out,
        limit=options.limit,
        crop=options.size,
        image_suffix=options.image_suffix,
        label_suffix=options.label_suffix,
    )


def class_list(options: DatasetOptions, path: Path) -> ClassList:
    """The classes of the file `path`, with ids as --label-ids says."""
    classes = read_classes(path)
    return classes.in_order() if options.label_ids == "order" else classes


def _index_table(classes: ClassList, ignored: tuple[int, ...], unlabelled: int) -> NDArray[np.int64]:
    """Id -> class index, or `unlabelled` for ignored ids, -1 for others; the last entry stands for all higher ids."""
    table = np.full(max(*classes.ids, *ignored) + 2, -1, np.int64)
    table[list(classes.ids)] = np.arange(len(classes.ids))
    table[list(ignored)] = unlabelled
    return table


def _spelled_as_in(vocabulary: Vocabulary, names: tuple[str, ...]) -> tuple[str, ...]:
    """`names` as the vocabulary spells them, in its order."""
    wanted = {name.strip().casefold(): name for name in names}
    unknown = wanted.keys() - {name.casefold() for name in vocabulary.names}
    if unknown:
        name = wanted[min(unknown)]
        near = did_you_mean(name, vocabulary.names)
        raise DataError(f"held-out class is not in the class list: '{name}'; correct --hold-out{near}")
    return tuple(dict.fromkeys(name for name in vocabulary.names if name.casefold() in wanted))
