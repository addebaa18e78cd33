"""Peak memory and CPU time of `segment` by number of words and size of the photo, of an old build beside a new one.

    python benchmarks/words_memory.py OLD NEW > benchmarks/results/DATE-words-memory.md

OLD and NEW are folders with the package in them. Every figure is of a process of its own, as the system counted it. The
last column is the share of pixels that get another class.
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

SIZES = ((750, 1000), (1125, 1500), (3000, 4000))
WORDS = (2, 150, 847)


def measured(build: Path, photo: Path, classes: Path, out: Path) -> tuple[float, float] | None:
    """MiB at the peak and seconds of CPU; None if the system ended the process."""
    line = [sys.executable, "-m", "opentrans_cli", "segment", "tiny", str(photo), "--classes", str(classes)]
    env = {**os.environ, "PYTHONPATH": str(build), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen([*line, "--out", str(out)], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return None if process.returncode else (usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--most", type=float, default=10, help="GiB of scores up to which the old build is run")
    builds = vars(parser.parse_args())
    most = builds.pop("most")
    print("# Memory of words and pixels\n")
    print(f"{environment(torch.device('cpu'))}\n")
    print("| pixels | words | all scores, MiB | old, MiB | new, MiB | old, s | new, s | other pixels |")
    print("|---|---|---|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        for height, width in SIZES:
            small = rng.integers(0, 255, (height // 25, width // 25, 3), dtype=np.uint8)
            Image.fromarray(small).resize((width, height)).save(here / "photo.png")
            for words in WORDS:
                (here / "words.txt").write_text("".join(f"thing number {number}\n" for number in range(words)))
                scores = words * height * width * 4 / 2**20
                peaks, times, maps = list[str](), list[str](), list[np.ndarray]()
                for name, build in builds.items():
                    out = here / f"{name}-{words}-{height}"
                    skipped = name == "old" and scores > most * 1024
                    found = None if skipped else measured(build, here / "photo.png", here / "words.txt", out)
                    peaks.append(f"{found[0]:.0f}" if found else "not run")
                    times.append(f"{found[1]:.1f}" if found else "")
                    maps += [np.asarray(Image.open(out / "photo.png"))] if found else []
                same = "" if len(maps) < 2 else f"{(maps[0] != maps[1]).mean():.6f}"
                cells = [f"{width} x {height}", str(words), f"{scores:.0f}", *peaks, *times, same]
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
