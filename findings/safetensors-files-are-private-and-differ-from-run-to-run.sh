#!/usr/bin/env bash
# safetensors writes files that only their owner may read, and the same content as different bytes.
#
# safetensors 0.8.0. save_file makes a file of mode 0600 whatever the umask is, so a checkpoint on a shared disk or in a
# container image cannot be read by others. With several keys in `metadata` their order in the header is drawn anew in
# every process: two runs of one program give files with different hashes. `opentrans` gives its files the usual mode,
# and writes one key of metadata with sorted JSON, so that a bundle has one digest.
#
# Seen:
#   open() makes 0o644, save_file makes 0o600
#   one key in metadata: 1 content of 16 runs
#   three keys in metadata: several contents of 16 runs
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.2.6
cat > seen.py <<'PY'
import os
import subprocess
import sys

import numpy as np
from safetensors.numpy import save_file

RUN = """
import hashlib, json, sys
import numpy as np
from safetensors.numpy import save
data = save({"a": np.zeros(2, np.float32)}, metadata=json.loads(sys.argv[1]))
print(hashlib.sha256(data).hexdigest())
"""


def contents(metadata: str) -> int:
    """How many different files 16 processes make of the same tensors and metadata."""
    return len({subprocess.check_output([sys.executable, "-c", RUN, metadata]) for _ in range(16)})


os.umask(0o022)
open("opened", "w").close()
save_file({"a": np.zeros(2, np.float32)}, "saved.safetensors")
modes = [oct(os.stat(name).st_mode & 0o777) for name in ("opened", "saved.safetensors")]
print(f"open() makes {modes[0]}, save_file makes {modes[1]}")
single, several = contents('{"one": "1"}'), contents('{"one": "1", "two": "2", "three": "3"}')
print(f"one key in metadata: {single} content of 16 runs")
print(f"three keys in metadata: {'several contents' if several > 1 else 'one content'} of 16 runs")
PY
venv/bin/python seen.py | tee seen.txt
diff - seen.txt <<'TXT'
open() makes 0o644, save_file makes 0o600
one key in metadata: 1 content of 16 runs
three keys in metadata: several contents of 16 runs
TXT
