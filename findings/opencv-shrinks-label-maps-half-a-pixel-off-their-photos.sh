#!/usr/bin/env bash
# OpenCV's INTER_NEAREST takes the upper left pixel, its INTER_LINEAR looks at the centre: a label map leaves its photo.
#
# opencv-python-headless 5.0.0.93, Pillow 13.0.0. The field's converters shrink photos with INTER_LINEAR and label maps with
# INTER_NEAREST. Where nine pixels become three, the photo shows the second, fifth and eighth, the label map names the
# first, fourth and seventh: it is shifted by almost half a new pixel, which changes one pixel in a hundred of a label map of
# ADE20K. INTER_NEAREST_EXACT and Pillow take the centre. `opentrans datasets prepare ade20k-847` does what the
# converters do, since published scores were measured on their label maps, and says so.
#
# Seen (nine pixels 0, 10, ... 80 shrunk to three):
#   photo, OpenCV INTER_LINEAR: 10 40 70
#   label map, OpenCV INTER_NEAREST: 0 30 60
#   label map, OpenCV INTER_NEAREST_EXACT: 10 40 70
#   label map, Pillow NEAREST: 10 40 70
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check opencv-python-headless==5.0.0.93 numpy==2.4.6 pillow==13.0.0
cat > shrink.py <<'PY'
import cv2
import numpy as np
from PIL import Image

row = np.arange(0, 90, 10, dtype=np.uint8)
picture = np.repeat(row[None], 9, 0)


def show(name, small):
    print(f"{name}:", *small[0].tolist())


for kind, name in (("photo", "LINEAR"), ("label map", "NEAREST"), ("label map", "NEAREST_EXACT")):
    show(f"{kind}, OpenCV INTER_{name}", cv2.resize(picture, (3, 3), interpolation=getattr(cv2, f"INTER_{name}")))
show("label map, Pillow NEAREST", np.asarray(Image.fromarray(picture).resize((3, 3), Image.Resampling.NEAREST)))
PY
venv/bin/python shrink.py | tee seen.txt
diff - seen.txt <<'TXT'
photo, OpenCV INTER_LINEAR: 10 40 70
label map, OpenCV INTER_NEAREST: 0 30 60
label map, OpenCV INTER_NEAREST_EXACT: 10 40 70
label map, Pillow NEAREST: 10 40 70
TXT
