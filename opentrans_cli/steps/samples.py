"""Labelled images for a verb, opened by name, with what a user should know of them."""

from __future__ import annotations

from collections.abc import Sequence

from opentrans_cli.datasets import DATASETS
from opentrans_cli.datasets.base import SegDataset
from opentrans_cli.datasets.class_file import UNLABELLED, ClassList, from_one
from opentrans_cli.datasets.folder import FolderDataset
from opentrans_cli.datasets.labelled import LabelledPairs, Probe
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.errors import DataError, PictureError, without_move
from opentrans_cli.reporter import SILENT, Reporter

NAMED = 8
"""So many classes without pixels are named; the rest is counted."""


def open_samples(dataset: str, data: DatasetOptions, reporter: Reporter = SILENT, *, sound: bool = False) -> SegDataset:
    """The data set of this name; how its files were read is reported, and that they fit is made sure of.

    sound: a training must know beforehand how many pairs there are, so with `skip_bad` read all now and leave out those
    that are damaged or do not fit; these, and classes without pixels, are reported. Raises DataError or OptionError.
    """
    samples: SegDataset = DATASETS.load(dataset)(data)
    for remark in samples.remarks:
        reporter.say(remark)
    if isinstance(samples, LabelledPairs):
        probe = samples.probe(skip_bad=data.skip_bad)
        _tell_doubts(samples.classes, probe, reporter)
        if sound:
            if data.skip_bad:
                leave_out_bad(samples, reporter)
            some = f" in the {probe.label_maps} looked at" if probe.label_maps < len(samples) else ""
            tell_empty(samples, probe.pixels, probe.unlabelled, reporter, some=some)
    return samples


def _tell_doubts(classes: ClassList, probe: Probe, reporter: Reporter) -> None:
    """Report what only a look at pictures or at the origin of the label maps can decide."""
    if probe.turn_unclear:
        count = len(probe.turn_unclear)
        what = "1 photo is" if count == 1 else f"{count} photos are"
        reporter.say(
            f"{what} turned by EXIF, and sizes do not say if label maps are, first: {probe.turn_unclear[0]}; "
            "look at samples with `opentrans check PHOTOS LABELS CLASSES --out DIR`"
        )
    if classes.counted and not classes.written and not probe.pixels[0] and any(probe.pixels):
        written = from_one(classes.vocabulary.names)
        reporter.say(f"id 0 is not in the label maps: if ids count from 1, write {written} into the class file")


def leave_out_bad(samples: LabelledPairs, reporter: Reporter) -> None:
    """Leave the pairs out that are damaged or do not fit, and report them. Raises DataError if none is left."""
    bad: dict[int, str] = {}
    total = len(samples)
    with reporter.bar("reading pictures", total) as advance:
        for index in range(total):
            try:
                samples[index]
            except PictureError as error:
                bad[index] = without_move(error)
            advance("")
    if len(bad) == total:
        raise DataError(f"no image is left: {total} are bad, first: {bad[0]}; give others")
    samples.leave_out(bad)
    tell_skipped(tuple(bad.values()), total, reporter)


def tell_skipped(skipped: Sequence[str], total: int, reporter: Reporter) -> None:
    """Report pictures that were left out: each one, and their number."""
    for text in skipped:
        reporter.say(f"skipped: {text}")
    if skipped:
        reporter.say(f"skipped {len(skipped)} of {total} pictures")


def tell_empty(samples: SegDataset, pixels: Sequence[int], ignored: int, reporter: Reporter, *, some: str = "") -> None:
    """Report classes without labelled pixels; `pixels`: by class, `ignored`: how many are not labelled.

    some: in which label maps, if these are not all.
    """
    empty = [name for name, count in zip(samples.vocabulary.names, pixels, strict=True) if not count]
    if not empty:
        return
    shown = ", ".join(empty[:NAMED]) + (f" and {len(empty) - NAMED} more" if len(empty) > NAMED else "")
    share = 100 * ignored / max(1, ignored + sum(pixels))
    text = f"no pixel of the label maps{some} is: {shown}; {share:.3g} % of the pixels have an ignored id"
    usual = isinstance(samples, FolderDataset) and samples.ignored == (UNLABELLED,)
    if len(empty) >= len(pixels) - 1 and ignored and usual:
        text += " (masks of 0 and 255 need the ids in the class file: 0:NAME, 255:NAME)"
    reporter.say(text)
