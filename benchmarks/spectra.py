"""Spectra and alphas of full-size towers: seconds beside WeightWatcher's, and peak memory.

    python benchmarks/spectra.py > benchmarks/results/DATE-spectra.md

Needs weightwatcher. All on two threads, random weights. Times are paired: ours and WeightWatcher's run in turn in one
process on the same module. Ours is `measure` with all three estimators; WeightWatcher's is
`WeightWatcher(model).analyze()` with its defaults, which fits one. Memory is measured in a process of its own for each,
as the growth of its peak (Linux only) over what it held with the model loaded, or before the file was opened.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import open_clip
import torch
from rn50 import RN50
from torch import nn

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.layers import candidates, layer_weight
from opentrans_cli.spectral.estimators import ESTIMATORS, estimator
from opentrans_cli.spectral.measure import measure
from opentrans_cli.steps.analyze.analyze import analyze
from opentrans_cli.steps.analyze.options import AnalyzeOptions
from opentrans_cli.steps.step_record import environment

PAIRS = 5
THREADS = 2


def tower(name: str) -> nn.Module:
    """A tower with random weights: RN50 whole, RN50 without its attention pool, or ViT-L/14."""
    torch.manual_seed(0)
    visual: Any = build_clip(RN50 if name != "ViT-L-14" else open_clip.get_model_config(name)).visual
    if name == "RN50 convolutions":
        visual.attnpool = nn.Identity()
    assert isinstance(visual, nn.Module)
    return visual


def layers(visual: nn.Module) -> tuple[str, ...]:
    """What `analyze` takes by default."""
    return tuple(found.name for found in candidates(visual) if found.reason != "output head")


def ours(visual: nn.Module) -> int:
    """Spectra and all three alphas of every layer; how many there were."""
    fits = {name: estimator(name) for name in ESTIMATORS.names()}
    first = fits.pop("xmin_peak")
    return len(measure(layers(visual), lambda name: layer_weight(visual, name).numpy(), first, others=fits))


def theirs(visual: nn.Module) -> int:
    """WeightWatcher's own analysis; how many layers it had."""
    import weightwatcher  # type: ignore[import-untyped]

    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return len(weightwatcher.WeightWatcher(model=visual).analyze())


def seconds(work: object, visual: nn.Module) -> tuple[float, int]:
    started = time.perf_counter()
    count = work(visual)  # type: ignore[operator]
    return time.perf_counter() - started, count


def race(name: str) -> None:
    visual = tower(name)
    ours(visual), theirs(visual)
    times: dict[str, list[float]] = {"ours, three estimators": [], "WeightWatcher, one": []}
    counts = {}
    for pair in range(PAIRS):
        turns = list(zip(times, (ours, theirs), strict=True))
        for label, work in turns if pair % 2 else reversed(turns):
            taken, counts[label] = seconds(work, visual)
            times[label].append(taken)
    print(f"\n## {name}\n\n| | layers | seconds, median | every pair |\n|---|---|---|---|")
    for label, values in times.items():
        print(f"| {label} | {counts[label]} | {median(values):.2f} | {' '.join(f'{value:.2f}' for value in values)} |")
    first, second = times.values()
    ratios = [slow / quick for quick, slow in zip(first, second, strict=True)]
    print(f"\nFaster by {median(ratios):.1f} x (median of pairs; lowest {min(ratios):.1f} x).")


def held(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def memory(what: str, name: str) -> dict[str, float]:
    """Peak growth in MB and seconds of one analysis in this process, after the embedded model's."""
    torch.set_num_threads(THREADS)
    analyze("tiny")
    work: Callable[[], object]
    if what == "file":
        work = lambda: analyze(name)  # noqa: E731
        model = Path(name).stat().st_size
    else:
        visual = tower(name)
        work = lambda: ours(visual)  # noqa: E731
        model = sum(parameter.nbytes for parameter in visual.parameters())
    before = held("VmRSS")
    # Writing 5 sets the peak back to what is held now.
    Path("/proc/self/clear_refs").write_text("5")
    started = time.perf_counter()
    work()
    return {"seconds": time.perf_counter() - started, "grown": (held("VmHWM") - before) / 1e6, "model": model / 1e6}


def elsewhere(what: str, name: str) -> dict[str, float]:
    run = subprocess.run([sys.executable, __file__, what, name], check=True, capture_output=True, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def memory_table() -> None:
    print("\n## Memory, in a process each\n\n| source | MB of weights | seconds | peak growth, MB |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("RN50", "ViT-L-14"):
            row = elsewhere("module", name)
            print(f"| {name}, in memory | {row['model']:.0f} | {row['seconds']:.1f} | {row['grown']:.0f} |")
            file = os.path.join(folder, f"{name}.pth")
            torch.save(tower(name).state_dict(), file)
            row = elsewhere("file", file)
            print(f"| {name}, from a .pth file | {row['model']:.0f} | {row['seconds']:.1f} | {row['grown']:.0f} |")


def trust_table() -> None:
    """What the further questions cost, on the convolutions of RN50."""
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "rn50.pth")
        torch.save(tower("RN50").state_dict(), file)
        print("\n## The whole command's step on RN50, from a file\n\n| options | seconds |\n|---|---|")
        for label, options in {
            "none": AnalyzeOptions(),
            "--bootstrap 200": AnalyzeOptions(bootstrap=200),
            "--bootstrap 200 --estimator xmin_ks": AnalyzeOptions(bootstrap=200, estimator="xmin_ks"),
            "--null": AnalyzeOptions(null=True),
        }.items():
            started = time.perf_counter()
            analyze(file, **vars(options))
            print(f"| {label} | {time.perf_counter() - started:.1f} |")


def main() -> None:
    torch.set_num_threads(THREADS)
    if len(sys.argv) > 1:
        print(json.dumps(memory(sys.argv[1], sys.argv[2])))
        return
    print(f"# Spectra of full-size towers, {time.strftime('%Y-%m-%d')}\n\n{environment(torch.device('cpu'))}")
    for name in ("RN50 convolutions", "RN50"):
        race(name)
    trust_table()
    memory_table()


if __name__ == "__main__":
    main()
