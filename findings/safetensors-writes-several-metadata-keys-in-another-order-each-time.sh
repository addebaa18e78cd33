#!/usr/bin/env bash
# safetensors writes two or more metadata keys in an order that changes from process to process.
#
# safetensors 0.8.0. The metadata is a Rust HashMap, whose order is random. So saving the same tensors with the same
# metadata twice gives two files with two hashes; with no key or one they are the same. Whoever compares files by their
# hash sees a change where there is none. `opentrans` puts everything under one key as sorted JSON, and writes headers
# that have more keys itself.
#
# Seen (ten processes):
#   1 keys: 1 different files
#   8 keys: more than 1 different files
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.2.6
cat > save.py <<'PY'
import hashlib
import sys

import numpy as np
from safetensors.numpy import save

metadata = {f"key{number}": "value" for number in range(int(sys.argv[1]))}
print(hashlib.sha256(save({"w": np.zeros(2, np.float32)}, metadata=metadata)).hexdigest())
PY
for keys in 1 8; do
  files=$(for _ in 1 2 3 4 5 6 7 8 9 10; do venv/bin/python save.py "$keys"; done | sort -u | wc -l)
  [[ $files == 1 ]] || files="more than 1"
  echo "$keys keys: $files different files"
done | tee seen.txt
diff - seen.txt <<'TXT'
1 keys: 1 different files
8 keys: more than 1 different files
TXT
