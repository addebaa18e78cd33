"""Small figures that users feel: scenes a second, start of the command line, spectra of a full-size tower.

    python benchmarks/speed.py > benchmarks/results/DATE-speed.md

Everything runs on one thread; each figure is the median of several runs.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from rn50 import RN50

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.layers import convolutions, layer_weight
from opentrans_cli.datasets.scenes import render_scene
from opentrans_cli.datasets.streams import Stream
from opentrans_cli.spectral.esd import eigenvalues
from opentrans_cli.spectral.estimators.xmin_peak import fit_xmin_peak
from opentrans_cli.steps.prune.prune import prune
from opentrans_cli.steps.step_record import environment


def seconds(work: Callable[[], object], *, runs: int) -> float:
    """Median time of `work` after one run that is not counted."""
    work()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return median(times)


def scenes_per_second(size: int) -> float:
    return 200 / seconds(lambda: [render_scene(Stream(1, i), size=size) for i in range(200)], runs=5)


def command_seconds(*arguments: str) -> float:
    command = [sys.executable, "-m", "opentrans_cli", *arguments]
    return seconds(lambda: subprocess.run(command, check=True, capture_output=True), runs=7)


def spectra_seconds() -> float:
    visual = build_clip(RN50).visual
    assert isinstance(visual, torch.nn.Module)
    weights = [layer_weight(visual, layer).numpy() for layer in convolutions(visual)]
    return seconds(lambda: [fit_xmin_peak(eigenvalues(weight)) for weight in weights], runs=3)


def main() -> None:
    torch.set_num_threads(1)
    print(f"# Speed, {time.strftime('%Y-%m-%d')}\n\n{environment(torch.device('cpu'))}\n\n| what | figure |\n|---|---|")
    for size in (64, 96):
        print(f"| scenes of {size} x {size}, one core | {scenes_per_second(size):.0f} a second |")
    with tempfile.TemporaryDirectory() as folder:
        bundle = prune("tiny", out=Path(folder) / "b").path
        print(f"| `opentrans --help` | {command_seconds('--help'):.2f} s |")
        print(f"| `opentrans inspect BUNDLE` | {command_seconds('inspect', str(bundle)):.2f} s |")
        print(f"| `opentrans verify BUNDLE` | {command_seconds('verify', str(bundle)):.2f} s |")
    print(f"| spectra and alphas of RN50's 55 convolutions (random weights) | {spectra_seconds():.2f} s |")


if __name__ == "__main__":
    main()
