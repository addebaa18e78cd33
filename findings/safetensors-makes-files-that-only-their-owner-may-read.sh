#!/usr/bin/env bash
# safetensors writes files that only their owner may read.
#
# safetensors 0.8.0. save_file makes a file of mode 0600 whatever the umask is, for it writes a temporary file and renames
# it; torch.save and open() make one of mode 0644. A checkpoint on a shared disk, in a container image or behind a web
# server cannot be read by others, who are told that they have no permission. `opentrans` gives its files the usual mode.
#
# Seen:
#   umask 022: open() makes 0o644, save_file makes 0o600
#   umask 002: open() makes 0o664, save_file makes 0o600
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.2.6
cat > seen.py <<'PY'
import os

import numpy as np
from safetensors.numpy import save_file


def mode(name: str) -> str:
    found = oct(os.stat(name).st_mode & 0o777)
    os.unlink(name)
    return found


for umask in (0o022, 0o002):
    os.umask(umask)
    open("opened", "w").close()
    save_file({"a": np.zeros(2, np.float32)}, "saved.safetensors")
    print(f"umask {umask:03o}: open() makes {mode('opened')}, save_file makes {mode('saved.safetensors')}")
PY
venv/bin/python seen.py | tee seen.txt
diff - seen.txt <<'TXT'
umask 022: open() makes 0o644, save_file makes 0o600
umask 002: open() makes 0o664, save_file makes 0o600
TXT
