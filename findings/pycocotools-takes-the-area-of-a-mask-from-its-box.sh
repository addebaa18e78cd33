#!/usr/bin/env bash
# The mask AP of small, medium and large objects changes when the same results also have boxes.
#
# pycocotools 2.0.11 and faster-coco-eval 1.8.0, with results that have a mask and, beside it, its own exact box.
# `loadRes` then takes width times height of the box for the area of the object, also where masks are scored. The area
# decides in which of the ranges a prediction without a match is wrong. A wrong prediction along a diagonal has 116
# pixels, so it is small and no fault of the medium ones; with its box it counts as 59 x 58 pixels, medium, and APm falls
# from 100 to 50. AP over all sizes stays. detectron2 and mmdetection remove the boxes first, so their APs, APm and APl of
# one file are others than those of the bare library. `opentrans` takes the areas of masks, and says where boxes are left.
#
# Seen:
#   pycocotools, masks alone: AP 50, APm 100
#   pycocotools, masks with their boxes: AP 50, APm 50
#   faster-coco-eval, masks alone: AP 50, APm 100
#   faster-coco-eval, masks with their boxes: AP 50, APm 50
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.2.6 pycocotools==2.0.11 faster-coco-eval==1.8.0
cat > seen.py <<'PY'
import contextlib
import copy
import io

import faster_coco_eval
import numpy as np
import pycocotools.mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIDE = 60


def region(pixels):
    packed = pycocotools.mask.encode(np.asfortranarray(pixels))
    return {"size": packed["size"], "counts": packed["counts"].decode()}


square = np.zeros((SIDE, SIDE), np.uint8)
square[5:40, 5:40] = 1
diagonal = np.zeros((SIDE, SIDE), np.uint8)
for place in range(58):
    diagonal[place, place : place + 2] = 1
true = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [5, 5, 35, 35]}
truth = {
    "info": {},
    "images": [{"id": 1, "height": SIDE, "width": SIDE}],
    "categories": [{"id": 1, "name": "thing"}],
    "annotations": [{**true, "segmentation": region(square), "area": int(square.sum())}],
}


def results(boxes):
    found = []
    for pixels, score in ((diagonal, 0.9), (square, 0.8)):
        mask = region(pixels)
        box = {"bbox": pycocotools.mask.toBbox(mask).tolist()} if boxes else {}
        found.append({"image_id": 1, "category_id": 1, "segmentation": mask, "score": score, **box})
    return found


def pycocotools_stats(found):
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = copy.deepcopy(truth)
        known.createIndex()
        judged = COCOeval(known, known.loadRes(found), "segm")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return judged.stats


def faster_stats(found):
    known = faster_coco_eval.COCO(copy.deepcopy(truth))
    judged = faster_coco_eval.COCOeval_faster(known, known.loadRes(found), "segm")
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    return judged.stats


for name, stats in (("pycocotools", pycocotools_stats), ("faster-coco-eval", faster_stats)):
    for boxes, called in ((False, "masks alone"), (True, "masks with their boxes")):
        found = stats(results(boxes))
        print(f"{name}, {called}: AP {100 * found[0]:.0f}, APm {100 * found[4]:.0f}")
PY
venv/bin/python seen.py 2>messages.txt | tee seen.txt
diff - seen.txt <<'TXT'
pycocotools, masks alone: AP 50, APm 100
pycocotools, masks with their boxes: AP 50, APm 50
faster-coco-eval, masks alone: AP 50, APm 100
faster-coco-eval, masks with their boxes: AP 50, APm 50
TXT
