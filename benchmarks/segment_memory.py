"""Peak memory and CPU time of `segment` on photos of 12 and 50 megapixels, as a whole and in windows.

    python benchmarks/segment_memory.py > benchmarks/results/DATE-segment-memory.md

Every figure is of a process of its own, as the system counted it. The last column is the share of pixels that get
another class than in the whole picture.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from opentrans_cli.steps.step_record import environment

SIZES = ((3000, 4000), (5774, 8660))
WORDS = (3, 150)


def measured(photo: Path, classes: Path, out: Path, *more: str) -> tuple[float, float]:
    """MiB at the peak and seconds of CPU."""
    line = [sys.executable, "-m", "opentrans_cli", "segment", "tiny", str(photo), "--classes", str(classes), *more]
    process = subprocess.Popen([*line, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    told = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"segment ended with {process.returncode}: {told}")
    return usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, nargs="+", default=[1024])
    parser.add_argument("--most", type=float, default=20, help="megapixels up to which a picture is done as a whole")
    asked = parser.parse_args()
    Image.MAX_IMAGE_PIXELS = None
    print("# Memory of big pictures\n")
    print(f"{environment(torch.device('cpu'))}\n")
    print("| pixels | words | all scores, MiB | window | peak, MiB | CPU, s | other pixels |")
    print("|---|---|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        for height, width in SIZES:
            small = rng.integers(0, 255, (height // 50, width // 50, 3), dtype=np.uint8)
            Image.fromarray(small).resize((width, height)).save(here / "photo.png", compress_level=1)
            for words in WORDS:
                (here / "words.txt").write_text("".join(f"thing number {number}\n" for number in range(words)))
                scores, whole = words * height * width * 4 / 2**20, None
                for window in (None, *asked.windows):
                    if window is None and height * width > asked.most * 1e6:
                        continue
                    out, more = here / f"{height}-{words}-{window}", ("--window", str(window)) if window else ()
                    peak, seconds = measured(here / "photo.png", here / "words.txt", out, *more)
                    found = np.asarray(Image.open(out / "photo.png"))
                    whole = found if window is None else whole
                    other = "" if window is None or whole is None else f"{(found != whole).mean():.4f}"
                    cells = (f"{width} x {height}", words, f"{scores:.0f}", window or "none", f"{peak:.0f}")
                    print(f"| {' | '.join(map(str, (*cells, f'{seconds:.1f}', other)))} |", flush=True)


if __name__ == "__main__":
    main()
