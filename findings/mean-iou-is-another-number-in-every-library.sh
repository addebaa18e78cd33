#!/usr/bin/env bash
# "mean IoU" of the same label maps is 67.9 %, 72.2 % or 83.9 %, by the library.
#
# torchmetrics 1.9.0 and segmentation-models-pytorch 0.6.0 with torch 2.14.1, on two label maps of four pixels with two of
# four classes. torchmetrics' MeanIoU takes the mean of every image first and then that over images, whatever batches it
# gets, so a small object counts as much as a whole image; its JaccardIndex adds pixels up. The macro IoU of
# segmentation-models-pytorch gives a class that no pixel has and none was predicted an IoU of 1. `opentrans` adds pixels
# up over the whole data set, as the papers do, and leaves out classes that no pixel has: 67.9.
#
# Seen:
#   pixels of the whole data set, two classes: 67.9
#   torchmetrics JaccardIndex: 67.9
#   torchmetrics MeanIoU: 72.2, in batches of one: 72.2
#   segmentation-models-pytorch, macro: 83.9
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 timm==1.0.31 numpy==2.2.6 \
    torchmetrics==1.9.0 segmentation-models-pytorch==0.6.0
cat > seen.py <<'PY'
import warnings

warnings.simplefilter("ignore")
import segmentation_models_pytorch as smp
import torch
from torchmetrics import JaccardIndex
from torchmetrics.segmentation import MeanIoU

CLASSES = 4  # the last two are in no label map and in no prediction
truth = torch.tensor([[[0, 0, 0, 0]], [[0, 0, 0, 1]]])
predicted = torch.tensor([[[0, 0, 0, 0]], [[0, 0, 1, 1]]])


def iou(number: int) -> float:
    one, other = truth == number, predicted == number
    return float((one & other).sum() / (one | other).sum())


def mean_iou(batch: int) -> float:
    metric = MeanIoU(num_classes=CLASSES, input_format="index")
    for start in range(0, len(truth), batch):
        metric.update(predicted[start : start + batch], truth[start : start + batch])
    return float(metric.compute())


counts = smp.metrics.get_stats(predicted, truth, mode="multiclass", num_classes=CLASSES)
print(f"pixels of the whole data set, two classes: {100 * (iou(0) + iou(1)) / 2:.1f}")
print(f"torchmetrics JaccardIndex: {100 * float(JaccardIndex(task='multiclass', num_classes=CLASSES)(predicted, truth)):.1f}")
print(f"torchmetrics MeanIoU: {100 * mean_iou(2):.1f}, in batches of one: {100 * mean_iou(1):.1f}")
print(f"segmentation-models-pytorch, macro: {100 * float(smp.metrics.iou_score(*counts, reduction='macro')):.1f}")
PY
venv/bin/python seen.py 2>messages.txt | tee seen.txt
diff - seen.txt <<'TXT'
pixels of the whole data set, two classes: 67.9
torchmetrics JaccardIndex: 67.9
torchmetrics MeanIoU: 72.2, in batches of one: 72.2
segmentation-models-pytorch, macro: 83.9
TXT
