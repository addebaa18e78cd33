#!/usr/bin/env bash
# safetensors.numpy writes a transposed or sliced array in the order of its memory, under its own shape: other values.
#
# safetensors 0.8.0. `save` takes the bytes of the array's buffer and does not ask for its strides, so that a transposed
# array comes back with its values at other places, without an error. 0.7.0 copied such arrays first, and
# safetensors.torch refuses them. `opentrans` writes its files itself, every array in C order.
#
# Seen:
#   0.7.0 transposed: same values
#   0.8.0 transposed: other values
#   0.8.0 in C order: same values
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
cat > seen.py <<'PY'
import sys

import numpy as np
import safetensors
from safetensors.numpy import load, save

array = np.arange(6, dtype=np.float32).reshape(2, 3).T
for name, given in (("transposed", array), ("in C order", np.ascontiguousarray(array)))[: int(sys.argv[1])]:
    same = np.array_equal(load(save({"w": given}))["w"], array)
    print(f"{safetensors.__version__} {name}: {'same' if same else 'other'} values")
PY
for release in 0.7.0 0.8.0; do
  venv/bin/pip install --quiet --disable-pip-version-check "safetensors==$release" numpy==2.2.6
  venv/bin/python seen.py "$([[ $release == 0.8.0 ]] && echo 2 || echo 1)"
done | tee seen.txt
diff - seen.txt <<'TXT'
0.7.0 transposed: same values
0.8.0 transposed: other values
0.8.0 in C order: same values
TXT
