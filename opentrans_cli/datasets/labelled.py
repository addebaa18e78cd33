"""Photos with label maps as a data set: lazy reading, ids as class indices, and a look beforehand at what is there."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.base import Sample
from opentrans_cli.datasets.class_file import LARGEST_ID, UNLABELLED, ClassList
from opentrans_cli.datasets.options import SMALLEST_SIZE
from opentrans_cli.datasets.pairs import Pair, read_pair
from opentrans_cli.datasets.picture_source import Picture, read_ids, read_picture
from opentrans_cli.datasets.scan import count_ids, scan, spread
from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.errors import DataError, PictureError, did_you_mean

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


class LabelledPairs(ABC):
    """Pairs of a photo and a label map, in the order of `pairs`; a sample's label map holds class indices.

    A photo is read upright, as its EXIF orientation says. Where this is a quarter turn and the label map has the size
    of the stored photo, the label map was drawn on that and is turned in the same way.

    Label maps hold the ids of `classes`, or one of `ignored`, which become `ignore_index`. `unseen` names classes
    without labels in training, `crop` replaces the default training crop. Names are checked at once (DataError), files
    when they are read.
    """

    _where_all = ""  # what names all bad files, for messages

    def __init__(
        self,
        classes: ClassList,
        pairs: Sequence[Pair],
        *,
        ignored: tuple[int, ...],
        unseen: tuple[str, ...] = (),
        crop: int | None = None,
        listed: tuple[str, ...] = (),
    ) -> None:
        """listed: what a user should know of how the pairs were listed."""
        self.classes = classes
        self.vocabulary = classes.vocabulary
        self.ignored = ignored
        self.ignore_index = UNLABELLED if len(self.vocabulary) <= UNLABELLED else LARGEST_ID
        self._indices = _index_table(classes, ignored, self.ignore_index)
        self.unseen = _spelled_as_in(self.vocabulary, unseen)
        self._crop = crop
        self.left_out: tuple[str, ...] = ()  # pictures that `leave_out` was told of
        self._listed, self._pairs = listed, list(pairs)

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

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The photo and the label map of each sample."""
        return tuple(self._pairs)

    def stored_classes(self, index: int) -> NDArray[np.int64]:
        """The label map of sample `index` alone, as class indices (H, W), not turned with its photo.

        Raises DataError for an id without a class, PictureError for a damaged file.
        """
        label_map = self._pairs[index].label_map
        return self._classes_in(read_ids(label_map), label_map.name)

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
        ids = sorted(pixels.keys() - self._known)
        return DataError(f"{without_class(ids, pixels, self.classes)}: {map_file}; {self._next_move(ids, there)}")

    @abstractmethod
    def _next_move(self, foreign: Sequence[int], there: Collection[int]) -> str:
        """What a user may do about ids without a class; there: the ids in all label maps that were looked at."""

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
        counts: Counter[int] = Counter()
        looked_at = scan(spread(self._pairs, max(1, maps)), "ids")
        for each in looked_at:
            counts.update(each.pixels)
        errors: dict[str, DataError] = {}  # by label map
        for each in (*facts, *looked_at):
            if each.error is not None and not skip_bad:
                errors.setdefault(each.pair.label_map.name, each.error)
        for each in looked_at:
            if each.pixels.keys() - self._known:
                name = each.pair.label_map.name
                errors.setdefault(name, self._foreign_ids(each.pixels, name, counts.keys()))
        if errors:
            first = next(iter(errors.values()))
            skip = OR_SKIP if isinstance(first, PictureError) else ""
            more = f" ({len(errors)} such files{self._where_all})" if len(errors) > 1 else ""
            raise type(first)(f"{first}{skip}{more}")
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

    @property
    def photos(self) -> tuple[Picture, ...]:
        """The photos alone, in the order of the pairs."""
        return tuple(pair.photo for pair in self._pairs)

    def name(self, index: int) -> str:
        """The stem of sample `index`."""
        return self._pairs[index][0]

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was left out, and how the class file was read."""
        return (*self._listed, *self.classes.remarks)

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

    @property
    def _also_decides(self) -> tuple[Any, ...]:
        """What decides the labels beside the files of the pairs, as JSON values."""
        return ()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names and sizes of all files, in order, and over the options that change labels."""
        files = [[stem, picture.bytes, map_file.bytes] for stem, picture, map_file in self._pairs]
        plain = self.classes.counted and len(self.ignored) == 1
        labels = self.ignored[0] if plain else [self.classes.ids, self.ignored]
        content = [self.vocabulary.classes, labels, self.unseen, files, *self._also_decides]
        return f"sha256:{hashlib.sha256(json.dumps(content).encode()).hexdigest()}"


def without_class(ids: Sequence[int], pixels: Mapping[int, int], classes: ClassList) -> str:
    """What is wrong with ids, ascending, that are not those of `classes`; pixels: how many have each id of a map."""
    shown = ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
    what = f"id {shown} has no class" if len(ids) == 1 else f"{len(ids)} ids have no class, {shown}"
    known = f"classes have ids {classes.ids[0]} to {classes.ids[-1]}"
    if classes.written and len(classes.ids) <= classes.ids[-1] - classes.ids[0]:
        known += f", {len(classes.ids)} of them"
    share = 100 * sum(pixels[number] for number in ids) / sum(pixels.values())
    shown = f"{share:.2g}" if share < 99.5 else "100"
    return f"{what} ({shown} % of the pixels; {known})"


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
