"""The photos and label maps of a benchmark as a data set."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.assets import class_list_file
from opentrans_cli.datasets.base import PanopticTruth
from opentrans_cli.datasets.benchmarks.base import BenchmarkFacts, DiskLayout, IdCoding
from opentrans_cli.datasets.benchmarks.on_disk import SplitOnDisk, data_root, find_split
from opentrans_cli.datasets.class_file import UNLABELLED, ClassList, read_classes
from opentrans_cli.datasets.coco_json import ImageId
from opentrans_cli.datasets.coco_panoptic import PanopticFile, class_map
from opentrans_cli.datasets.images import decode_label_map, open_picture
from opentrans_cli.datasets.labelled import LabelledPairs
from opentrans_cli.datasets.listing import list_label_maps
from opentrans_cli.datasets.matlab import MATLAB_SUFFIX, read_matlab_labels
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.datasets.pairs import Pair, Pairing, pair_pictures
from opentrans_cli.datasets.panoptic_photos import upright
from opentrans_cli.datasets.picture_source import IdDecoder
from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.errors import DataError, PictureError


class BenchmarkPairs(LabelledPairs):
    """A split of a benchmark, in the layout that was found under the root.

    Class i is class i of the benchmark's list, whatever ids the label maps of the layout hold.
    """

    def __init__(
        self,
        benchmark: BenchmarkFacts,
        place: SplitOnDisk,
        *,
        classes: Path | None = None,
        split_list: Path | None = None,
        unseen: tuple[str, ...] = (),
        limit: int | None = None,
        crop: int | None = None,
    ) -> None:
        """classes: a class file with other words for the same classes. split_list: names of the images to use."""
        layout = told_apart(benchmark, place)
        self.benchmark, self.place = benchmark, replace(place, layout=layout)
        known = coded_classes(benchmark, layout.coding)
        if classes is not None:
            words = read_classes(classes)
            known = replace(known, vocabulary=same_classes(benchmark, words.vocabulary, classes), remarks=words.remarks)
        segments = _segments(benchmark, place)
        things = benchmark.things if segments is not None else None
        self.things = None if things is None else tuple(number in things for number in class_list_of(benchmark).ids)
        pairing = _pairing(benchmark, place, segments, split_list)
        pairs = _decoded(pairing.pairs[:limit], benchmark, layout, segments)
        where = f"{benchmark.name} ({place.split}): {layout.name}, in {place.home}"
        listed = (where, *pairing.remarks)
        super().__init__(known, pairs, ignored=known.void, unseen=unseen, crop=crop, listed=listed)

    def _next_move(self, foreign: Sequence[int], there: Collection[int]) -> str:
        return f"make sure that these are label maps of {self.benchmark.name}, as {self.place.layout.name}"

    def panoptic(self, index: int) -> PanopticTruth:
        """The segments of sample `index`, at the size of its image; raises as reading the sample does.

        Only where `things` is not None.
        """
        _, photo, png = self._pairs[index]
        assert isinstance(png.decode, PanopticIds)
        return upright(png.decode.truth(), photo.path, png.path)

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The id of each class in the JSON file, where there is one."""
        return class_list_of(self.benchmark).ids

    def image_id(self, index: int) -> ImageId:
        """The id of sample `index` in the JSON file, where there is one."""
        decode = self._pairs[index].label_map.decode
        assert isinstance(decode, PanopticIds)
        return decode.image

    @property
    def _also_decides(self) -> tuple[Any, ...]:
        decoders = [pair.label_map.decode for pair in self._pairs]
        return tuple(each.listed() for each in decoders if isinstance(each, PanopticIds))


def class_list_of(benchmark: BenchmarkFacts) -> ClassList:
    """The class list of a benchmark with the ids of its own files; classes that it leaves unlabelled are void."""
    return _class_list(benchmark.class_list or benchmark.name, benchmark.without)


@cache  # it is asked for many times, also for single pictures
def _class_list(name: str, without: tuple[str, ...]) -> ClassList:
    listed = read_classes(class_list_file(name))
    rows = list(zip(listed.ids, listed.vocabulary.classes, strict=True))
    kept = [(number, words) for number, words in rows if words[0] not in without]
    void = tuple(number for number, words in rows if words[0] in without)
    return ClassList(Vocabulary(tuple(words for _, words in kept)), tuple(number for number, _ in kept), void, True)


def coded_classes(benchmark: BenchmarkFacts, coding: IdCoding) -> ClassList:
    """The classes with the ids that label maps of this coding hold; void: the ids of unlabelled pixels."""
    listed = class_list_of(benchmark)
    if coding.ids == "counted":
        ids, void = tuple(range(len(listed.ids))), coding.ignored
    elif isinstance(coding.ids, tuple):
        ids, void = coding.ids, coding.ignored
    else:
        ids = tuple(number + coding.shift for number in listed.ids)
        void = (*(number + coding.shift for number in listed.void), *coding.ignored)
    return replace(listed, ids=ids, void=void)


def same_classes(benchmark: BenchmarkFacts, words: Vocabulary, file: Path) -> Vocabulary:
    """The words of a class file for the classes of a benchmark, in its order. Raises DataError for another length.

    Class files of a benchmark are used for its variants as well, so a line for what is unlabelled here is left out.
    """
    wanted, kept = len(class_list_of(benchmark).ids), words.without(benchmark.without)
    if len(kept) != wanted:
        raise DataError(
            f"class list of the wrong length: {file} has {len(kept)} classes, {benchmark.name} has {wanted}; "
            "give a line for each of its classes, in its order"
        )
    return kept


@dataclass(frozen=True, slots=True)
class DeepIds:
    """Reads label maps of 16 bits, and refuses those of 8, in which ids above 255 were lost."""

    benchmark: str

    def __call__(self, source: Path | io.BytesIO, name: str) -> NDArray[np.int64]:
        """int64 (H, W). Raises PictureError."""
        with open_picture(source, name, "label map") as opened:
            if opened.mode in ("1", "L", "P"):
                raise PictureError(
                    f"label map has 8 bits, but ids of {self.benchmark} need 16: {name}; "
                    f"make it again with `opentrans datasets prepare {self.benchmark}`"
                )
        return decode_label_map(source, name)


class Segments(NamedTuple):
    """COCO's panoptic files of a split."""

    file: PanopticFile
    class_of: dict[int, int]  # category id -> class index
    by_name: dict[str, ImageId]  # the images by name, without suffix


@dataclass(frozen=True, slots=True, eq=False)
class PanopticIds:
    """Reads the class indices of a panoptic PNG; pixels without a segment are UNLABELLED."""

    segments: Segments
    image: ImageId

    def __call__(self, source: Path | io.BytesIO, name: str) -> NDArray[np.int64]:
        """int64 (H, W). Raises PictureError for a damaged PNG, and for one that does not fit the JSON file."""
        return class_map(self.truth(), UNLABELLED)

    def truth(self) -> PanopticTruth:
        """The segments, at the size of the PNG."""
        return self.segments.file.read(self.image, self.segments.class_of)

    def listed(self) -> list[Any]:
        """What the JSON file says of the image, as JSON values."""
        return list(self.segments.file.segments(self.image, self.segments.class_of))


def label_decoder(benchmark: BenchmarkFacts, layout: DiskLayout) -> IdDecoder:
    """What reads the ids in a label map of a layout without panoptic PNGs."""
    if layout.label_suffix == MATLAB_SUFFIX:
        return read_matlab_labels
    return DeepIds(benchmark.name) if layout.coding.bits == 16 else decode_label_map


def told_apart(benchmark: BenchmarkFacts, place: SplitOnDisk) -> DiskLayout:
    """The layout of a place, or its twin if only that has all the ids in the label maps.

    They are read one after the other until it is clear. Where all of them would fit both, it is not the twin.
    """
    layout = place.layout
    if layout.twin is None:
        return layout
    known = [
        {*coded.ids, *coded.void} for coded in (coded_classes(benchmark, each.coding) for each in (layout, layout.twin))
    ]
    decode = label_decoder(benchmark, layout)
    for path in list_label_maps(place.path(layout.labels), suffix=layout.label_suffix):
        try:
            ids = {*np.unique(decode(path, str(path))).tolist()}
        except PictureError:
            continue  # it is named when it is read
        fits = [ids <= each for each in known]
        if fits[0] != fits[1]:
            return layout if fits[0] else layout.twin
    return layout


def _segments(benchmark: BenchmarkFacts, place: SplitOnDisk) -> Segments | None:
    layout = place.layout
    if layout.panoptic is None:
        return None
    file = PanopticFile(place.path(layout.panoptic), folder=place.path(layout.labels))
    class_of = {number: index for index, number in enumerate(class_list_of(benchmark).ids)}
    return Segments(file, class_of, {file.png(image).stem: image for image in file.image_ids})


def _pairing(
    benchmark: BenchmarkFacts, place: SplitOnDisk, segments: Segments | None, split_list: Path | None
) -> Pairing:
    """The pairs of a split: of all photos, of those that its list names, or of those that the JSON file describes.

    Raises DataError for a photo or a label map that is missing, and for two of one name.
    """
    layout = place.layout
    images, labels = place.path(layout.images), place.path(layout.labels)
    listed = None if layout.listed is None else place.path(layout.listed)
    pairing = pair_pictures(
        images,
        labels,
        image_suffix=layout.image_suffix,
        label_suffix=layout.label_suffix,
        split=split_list or listed,
    )
    if segments is not None and split_list is None:
        described = segments.by_name.keys()
        if absent := described - {pair.name for pair in pairing.pairs} - pairing.photos_alone.keys():
            raise DataError(
                f"{len(absent)} images of {segments.file.path} have no photo: first '{min(absent)}'; add it to {images}"
            )
        pairing = replace(
            pairing,
            pairs=tuple(pair for pair in pairing.pairs if pair.name in described),
            photos_alone={name: photo for name, photo in pairing.photos_alone.items() if name in described},
            label_maps_alone={},
        )
    if pairing.photos_alone and any(conversion.target == layout for conversion in benchmark.conversions):
        raise DataError(
            f"{len(pairing.photos_alone)} images have no label map in {labels}: first '{min(pairing.photos_alone)}'; "
            f"run `opentrans datasets prepare {benchmark.name}`, which goes on where it was stopped"
        )
    pairing.refuse_faults(images, labels, suffixes=layout.image_suffix is not None)
    return pairing


def _decoded(
    pairs: Sequence[Pair], benchmark: BenchmarkFacts, layout: DiskLayout, segments: Segments | None
) -> list[Pair]:
    """The pairs with label maps that are read as the layout says. Raises DataError for one that the JSON file lacks."""
    of_layout = label_decoder(benchmark, layout)
    decoded = []
    for pair in pairs:
        decode = of_layout
        if segments is not None:
            if pair.name not in segments.by_name:
                raise DataError(
                    f"panoptic PNG and JSON do not fit: {segments.file.path} has no segments of '{pair.name}'; "
                    "give those that belong together"
                )
            decode = PanopticIds(segments, segments.by_name[pair.name])
        decoded.append(pair._replace(label_map=replace(pair.label_map, decode=decode)))
    return decoded


@dataclass(frozen=True, kw_only=True)
class BenchmarkSet(BenchmarkFacts):
    """A published data set that can be opened, as every entry of `DATASETS`: called with DatasetOptions."""

    def __call__(self, options: DatasetOptions) -> BenchmarkPairs:
        """The split of the options. Raises OptionError for options it cannot use, DataError for missing files."""
        options.refuse(
            f"data set '{self.name}' knows its own files and has",
            *("images", "labels", "ignore", "image_suffix", "label_suffix", "label_ids"),
        )
        return BenchmarkPairs(
            self,
            find_split(self, data_root(options.root), options.split),
            classes=options.classes,
            split_list=options.split_list,
            unseen=options.hold_out,
            limit=options.limit,
            crop=options.size,
        )
