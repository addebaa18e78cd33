#!/usr/bin/env bash
# torch.nn.functional.batch_norm on the meta device imports torch's whole compiler, once, before it returns a shape.
#
# torch 2.14.1. The meta device has shapes and no numbers, so programs use it to count costs without computing: a
# convolution there is one call of C++. BatchNorm is taken apart in Python instead, and the first of its parts imports
# torch._dynamo with all that belongs to it, which takes about a second of CPU, more than all layers of a small model.
# `opentrans eval` therefore counts the products of a forward pass that runs anyway, and not on the meta device.
#
# Seen:
#   conv2d: compiler imported False
#   batch_norm: compiler imported True, more than 300 modules
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.2.6
cat > seen.py <<'PY'
import sys

import torch
import torch.nn.functional as F

images, weight, *statistics = (torch.empty(s, device="meta") for s in ((1, 3, 8, 8), (4, 3, 3, 3), (4,), (4,)))
before = len(sys.modules)
features = F.conv2d(images, weight)
print(f"conv2d: compiler imported {'torch._dynamo' in sys.modules}")
F.batch_norm(features, *statistics)
more = "more" if len(sys.modules) - before > 300 else "fewer"
print(f"batch_norm: compiler imported {'torch._dynamo' in sys.modules}, {more} than 300 modules")
PY
venv/bin/python seen.py | tee seen.txt
diff - seen.txt <<'TXT'
conv2d: compiler imported False
batch_norm: compiler imported True, more than 300 modules
TXT
