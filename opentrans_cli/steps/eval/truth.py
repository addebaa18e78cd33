"""The true label maps that predictions are compared with: a folder of them with a class file, or a data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.base import SegDataset
from opentrans_cli.datasets.class_file import LARGEST_ID, UNLABELLED, ClassList
from opentrans_cli.datasets.folder import class_list
from opentrans_cli.datasets.images import IdHeader
from opentrans_cli.datasets.label_maps import IdTable, MapFiles
from opentrans_cli.datasets.labelled import LabelledPairs
from opentrans_cli.datasets.options import DatasetOptions, dataset_name
from opentrans_cli.datasets.pairs import names_in
from opentrans_cli.errors import DataError, OptionError, PictureError
from opentrans_cli.reporter import Reporter
from opentrans_cli.steps.samples import open_samples

TO_IGNORE = "pass --ignore if these pixels are not labelled, or add the class to the class file"
"""The next move for an id in true label maps that has no class."""

TO_ENCODE = (
    "make sure that predictions have the ids of the class file, and that the class file lists all classes, or say "
    "--prediction-ids order if they are counted from 0"
)
"""The next move for an id in predictions that has no class."""


class Truth(Protocol):
    """Label maps by row. In what it gives, the number of classes stands for unlabelled pixels."""

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each, as its prediction is to be called."""

    @property
    def every(self) -> bool:
        """Whether a prediction of another name is a fault: the label maps are all that are there."""

    @property
    def classes(self) -> ClassList:
        """The classes, and the ids that label maps hold for them."""

    def predicted(self, ids: str | None) -> IdTable:
        """What predictions hold: `ids` of the option --prediction-ids, or None for what is usual."""

    def header(self, row: int) -> IdHeader | None:
        """What a label map is, if its file tells it before it is read. Raises PictureError for what is none."""

    def check_bits(self, headers: Mapping[str, IdHeader]) -> None:
        """Raises DataError if no label map can hold the ids of the last classes."""

    def label_map(self, row: int) -> NDArray[np.integer]:
        """The class of each pixel (H, W). Raises PictureError or DataError."""

    def where(self, row: int) -> str:
        """A label map in messages."""


class FolderTruth:
    """The label maps of a folder, with the classes of a file."""

    def __init__(self, labels: Path, data: DatasetOptions, reporter: Reporter) -> None:
        """Raises DataError for a folder, list or class file that cannot be used, OptionError without one."""
        if data.classes is None:
            raise OptionError(f"what do the ids mean? --labels {labels}; add --classes FILE")
        self.classes = class_list(data, data.classes)
        self._ignored = data.ignore or self.classes.default_ignored
        self._maps = MapFiles.listed("label map", labels, suffix=data.label_suffix, say=reporter.say)
        for remark in self.classes.remarks:
            reporter.say(remark)
        names, listed = [*self._maps.files], data.split_list
        if listed is not None:
            names = names_in(listed, self._maps.files, data.label_suffix, option="--labels")
        self.names = tuple(names[: data.limit])
        self.every = listed is None and data.limit is None
        self._table = IdTable(self.classes, self._ignored, TO_IGNORE)

    def predicted(self, ids: str | None) -> IdTable:
        """The ids of the label maps, unless classes are counted."""
        if ids == "order":
            return counted_ids(self.classes)
        return IdTable(self.classes, self._ignored, TO_ENCODE)

    def header(self, row: int) -> IdHeader:
        """Size and bits of a file."""
        return self._maps.header(self.names[row])

    def check_bits(self, headers: Mapping[str, IdHeader]) -> None:
        """Whether ids fit into the files."""
        self._maps.check_bits(headers, self.classes)

    def label_map(self, row: int) -> NDArray[np.integer]:
        """The class of each pixel."""
        return self._table.read(self._maps, self.names[row])

    def where(self, row: int) -> str:
        """The file."""
        return str(self._maps.files[self.names[row]])


class SampleTruth:
    """The label maps of a data set, in the form in which it gives them."""

    every = False

    def __init__(self, samples: SegDataset) -> None:
        self._samples = samples
        self.names = tuple(samples.name(row) for row in range(len(samples)))
        labelled = samples if isinstance(samples, LabelledPairs) else None
        self.classes = labelled.classes if labelled else ClassList.of(samples.vocabulary)
        self._ignored = labelled.ignored if labelled else (samples.ignore_index,)

    def predicted(self, ids: str | None) -> IdTable:
        """Classes are counted, unless the ids of the label maps are asked for."""
        return IdTable(self.classes, self._ignored, TO_ENCODE) if ids == "labels" else counted_ids(self.classes)

    def header(self, row: int) -> None:
        """Not known before the photo is read, which may be turned."""

    def check_bits(self, headers: Mapping[str, IdHeader]) -> None:
        """The data set checks them where it is read."""

    def label_map(self, row: int) -> NDArray[np.integer]:
        """The class of each pixel."""
        label_map = self._samples[row].label_map
        if label_map is None:
            raise DataError(f"image has no label map to score against: '{self.names[row]}'; add it")
        count = len(self._samples.vocabulary)
        classes = np.where(label_map == self._samples.ignore_index, count, label_map)
        return classes.astype(np.min_scalar_type(count))

    def where(self, row: int) -> str:
        """The sample."""
        return f"sample '{self.names[row]}'"


def counted_ids(classes: ClassList) -> IdTable:
    """0, 1, ... in the order of the classes; 255, or 65535 with more classes, is no class."""
    counted = classes.in_order()
    none = UNLABELLED if len(counted.ids) <= UNLABELLED else LARGEST_ID
    return IdTable(
        counted,
        (none,),
        "write 0, 1, ... in the order of the classes, or say --prediction-ids labels for the ids of the label maps",
    )


def open_truth(dataset: str | None, data: DatasetOptions, reporter: Reporter) -> Truth:
    """What predictions are compared with. Raises OptionError if it is not said, and what opening it raises."""
    if dataset is None and data.images is None:
        if data.labels is None:
            raise OptionError("the truth is missing: add --labels and --classes, or --dataset NAME")
        return FolderTruth(data.labels, data, reporter)
    samples = open_samples(dataset_name(dataset, data), data, reporter)
    if not len(samples):
        raise DataError("no images to score: the data set is empty; check its folders and --split-list")
    return SampleTruth(samples)


def misfit_size(prediction: Path, found: tuple[int, int], wanted: tuple[int, int], where: str) -> PictureError:
    """The error for a prediction of another size, (width, height), than its label map."""
    return PictureError(
        f"prediction is {found[0]} x {found[1]} but its label map {wanted[0]} x {wanted[1]}: {prediction} ({where}); "
        "resize the class scores, or the prediction (nearest)"
    )
