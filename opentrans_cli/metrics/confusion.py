"""Counts of (true class, predicted class) over pixels; every mIoU figure follows from them."""

from __future__ import annotations

import torch
from torch import Tensor

from opentrans_cli.errors import DataError


class ConfusionMatrix:
    """Pixel counts of a whole data set.

    `counts` is int64 (num_classes, num_classes) on the CPU: row = class in the label map, column =
    predicted class. Pixels labelled `ignore_index` are not counted, whatever was predicted there; `ignored` is
    their number. Matrices of parts of a data set may be added.
    """

    def __init__(self, num_classes: int, ignore_index: int) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.ignored = 0

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Add one image: predicted classes and label map, both (H, W), any integer dtype, any device.

        Raises DataError if the sizes differ or the label map holds ids that are neither a class nor
        `ignore_index`, ValueError if a prediction on a counted pixel is not a class. Then nothing has been
        counted.
        """
        if prediction.shape != label.shape:
            raise DataError(
                f"label map and prediction differ in size: {_size(label)} and {_size(prediction)}; "
                "resize the class scores to the label map before taking the best class"
            )
        wide_label = label.to("cpu", torch.int64)
        counted = wide_label != self.ignore_index
        true_P = wide_label[counted]
        predicted_P = prediction.to("cpu", torch.int64)[counted]
        self._check_labels(true_P)
        if bool(((predicted_P < 0) | (predicted_P >= self.num_classes)).any()):
            raise ValueError(f"predicted classes must lie in [0, {self.num_classes})")
        pairs = torch.bincount(true_P * self.num_classes + predicted_P, minlength=self.num_classes**2)
        self.ignored += int(counted.numel() - counted.sum())
        self.counts += pairs.reshape(self.num_classes, self.num_classes)

    def _check_labels(self, true_P: Tensor) -> None:
        foreign = torch.unique(true_P[(true_P < 0) | (true_P >= self.num_classes)]).tolist()
        if foreign:
            shown = ", ".join(map(str, foreign[:5])) + (", ..." if len(foreign) > 5 else "")
            raise DataError(
                f"label ids outside the class list: {shown} (classes are 0 to {self.num_classes - 1}, "
                f"{self.ignore_index} is ignored); check the class list and the encoding of the label maps"
            )


def _size(label_map: Tensor) -> str:
    return " x ".join(map(str, label_map.shape))
