"""Panoptic quality (Kirillov et al. 2019), as panopticapi computes it, in counts that can be added up.

A predicted segment and a true one of the same class match if their IoU is above 1/2; at most one can match another. Per
class, RQ = matches / (matches + half of all unmatched segments of both sides), SQ = mean IoU of the matches, and
PQ = SQ x RQ; the means are over the classes that have a segment on either side.

What the definition leaves to the program is as in panopticapi. True pixels without a segment (void) do not belong to
the union of a predicted segment with a true one. Crowds match nothing and are not missed. A predicted segment that
matches nothing counts unless more than half of it is void or in the crowd of its class; of several such crowds in one
image, the last one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.errors import DataError
from opentrans_cli.metrics.miou import mean_of

NO_SEGMENT = 0
"""The id of pixels that belong to no segment."""

TP, FP, FN, IOU_HIGH, IOU_LOW = range(5)
"""Columns of the counts."""

_ID_BITS = 24  # ids are colours of 3 x 8 bits
_IOU_BITS = 53  # an IoU of at least 1/2 is a whole number of 2 ** -53, so sums of IoUs are exact
_LOW_BITS = 32  # of the two halves that such a number is kept in, so that sums stay below 2 ** 63


@dataclass(frozen=True)
class Quality:
    """Fractions in [0, 1]; None where no segment belongs to the class, or to any of the classes."""

    pq: float | None
    sq: float | None
    rq: float | None
    classes: int  # how many classes have a segment, and so take part in the means


@dataclass(frozen=True)
class ClassQuality(Quality):
    """Quality of one class, and its segments."""

    true_positives: int  # pairs of a predicted and a true segment that match
    false_positives: int  # predicted segments without a match
    false_negatives: int  # true segments without a match


class PanopticCounts:
    """Segments of a whole data set, matched image by image.

    `counts` is int64 (C, 5): true positives, false positives and false negatives of each class, and the sum of IoUs of
    its matches in units of 2 ** -53, in two halves. All are whole numbers: counts of parts of a data set may be added,
    in any order, and give those of the whole, bit for bit.
    """

    def __init__(self, num_classes: int) -> None:
        self.counts = np.zeros((num_classes, 5), np.int64)

    def update(
        self,
        truth: NDArray[np.integer],
        true_segments: Sequence[tuple[int, int, bool]],
        prediction: NDArray[np.integer],
        predicted_segments: Iterable[tuple[int, int]],
    ) -> None:
        """Add one image: maps of segment ids, both (H, W), from 1 to 2 ** 24 - 1 or NO_SEGMENT, and what they are.

        true_segments: id, class and whether it is a crowd, of each. predicted_segments: id and class of each. Raises
        DataError if the sizes differ, and ValueError if segments and ids of a side do not fit. Then nothing has been
        counted.
        """
        if truth.shape != prediction.shape:
            sizes = (f"{side.shape[1]} x {side.shape[0]}" for side in (truth, prediction))
            raise DataError(
                "true and predicted segments differ in size: {} and {}; resize the predicted ones".format(*sizes)
            )
        shared = shared_pixels(truth, prediction)
        true_area, predicted_area = dict[int, int](), dict[int, int]()
        for (true_id, predicted_id), pixels in shared.items():
            true_area[true_id] = true_area.get(true_id, 0) + pixels
            predicted_area[predicted_id] = predicted_area.get(predicted_id, 0) + pixels
        true_class = {number: index for number, index, _ in true_segments}
        predicted_class = dict(predicted_segments)
        for area, classes in ((true_area, true_class), (predicted_area, predicted_class)):
            if area.keys() - {NO_SEGMENT} != classes.keys():
                raise ValueError("the ids of segments must be those of the pixels, apart from NO_SEGMENT")
        crowds = {number for number, _, crowd in true_segments if crowd}
        crowd_of = {index: number for number, index, crowd in true_segments if crowd}
        matched = set[int]()
        for (true_id, predicted_id), pixels in shared.items():
            index = true_class.get(true_id)
            if index is None or true_id in crowds or predicted_class.get(predicted_id) != index:
                continue
            void = shared.get((NO_SEGMENT, predicted_id), 0)
            union = true_area[true_id] + predicted_area[predicted_id] - pixels - void
            if 2 * pixels > union:
                matched |= {true_id, -predicted_id}
                iou = int((pixels / union) * 2.0**_IOU_BITS)
                self.counts[index, [TP, IOU_HIGH, IOU_LOW]] += 1, iou >> _LOW_BITS, iou % (1 << _LOW_BITS)
        for true_id, index in true_class.items():
            if true_id not in matched and true_id not in crowds:
                self.counts[index, FN] += 1
        for predicted_id, index in predicted_class.items():
            if -predicted_id in matched:
                continue
            excused = shared.get((NO_SEGMENT, predicted_id), 0)
            if index in crowd_of:
                excused += shared.get((crowd_of[index], predicted_id), 0)
            if 2 * excused <= predicted_area[predicted_id]:
                self.counts[index, FP] += 1

    def of_class(self, index: int) -> ClassQuality:
        """The quality of one class."""
        tp, fp, fn, high, low = self.counts[index].tolist()
        segments = tp + (fp + fn) / 2
        if not segments:
            return ClassQuality(None, None, None, 0, 0, 0, 0)
        # In this order as in panopticapi, so that not even the last digit differs.
        ious = ((high << _LOW_BITS) + low) / (1 << _IOU_BITS)
        return ClassQuality(ious / segments, ious / tp if tp else 0.0, tp / segments, 1, tp, fp, fn)

    def mean(self, classes: Iterable[int] | None = None) -> Quality:
        """Means over those of `classes` that have a segment; None: all classes."""
        chosen = range(len(self.counts)) if classes is None else classes
        found = [quality for quality in map(self.of_class, chosen) if quality.classes]
        pq, sq, rq = (mean_of([getattr(quality, name) for quality in found]) for name in ("pq", "sq", "rq"))
        return Quality(pq, sq, rq, len(found))


def shared_pixels(truth: NDArray[np.integer], prediction: NDArray[np.integer]) -> dict[tuple[int, int], int]:
    """How many pixels each pair of ids shares, of two maps of one size; ids are below 2 ** 24."""
    ours, theirs = truth.ravel(), prediction.ravel()
    # Segments are regions: runs of one pair of ids are far fewer than pixels, so only runs are sorted.
    ends = np.flatnonzero(np.append((ours[1:] != ours[:-1]) | (theirs[1:] != theirs[:-1]), True))
    pairs, places = np.unique(ours[ends].astype(np.int64) << _ID_BITS | theirs[ends], return_inverse=True)
    pixels = np.bincount(places, weights=np.diff(ends, prepend=-1), minlength=len(pairs))
    last = (1 << _ID_BITS) - 1
    return {
        (pair >> _ID_BITS, pair & last): int(count) for pair, count in zip(pairs.tolist(), pixels.tolist(), strict=True)
    }
