"""One of our commands as a user starts it, for the scripts that compare whole runs."""

from __future__ import annotations

import os
import subprocess
import sys


def run(*arguments: object) -> str:
    """One command of ours in a process of its own, on one thread; its standard output. Raises if it fails."""
    line = [sys.executable, "-m", "opentrans_cli", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise RuntimeError(f"{' '.join(line)}: {done.stderr}")
    return done.stdout
