"""One-shot `opentrans prune` of a full-size RN50, as a user runs it: seconds, peak memory, and bytes of every part.

    python benchmarks/prune_rn50.py --work rn50-runs > benchmarks/results/DATE-prune-rn50.md

A checkpoint with random weights is written first (benchmarks/random_rn50.py). Each row is a process of its own, from
start to a bundle that is written and opened; `verify` follows in another. Peak memory is the process's largest resident
set, which counts the memory-mapped checkpoint.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.files.tensorfile import tensor_headers
from opentrans_cli.steps.step_record import environment

RUNS = 3
ROWS: dict[str, tuple[str, ...]] = {
    "float32": (),
    "float16": ("--dtype", "float16"),
    "mask only": ("--mask-only",),
    "nested masks of 22 rounds": ("--keep-rounds", "masks"),
    "2:4": ("--pattern", "2:4"),
    "layerwise": ("--pattern", "layerwise"),
}


def timed(*command: str) -> tuple[float, float]:
    """Seconds and peak resident megabytes of one process. Raises if it fails."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "opentrans_cli", *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def prunable_bytes(bundle: Path) -> tuple[int, int]:
    """Bytes of masks and kept values, and of the same weights dense as float32."""
    opened = open_bundle(bundle)
    layers = opened.manifest.layers
    mask = (bundle / "mask.safetensors").stat().st_size
    weights = bundle / "weights.safetensors"
    headers = tensor_headers(weights) if weights.exists() else {}
    width = {"float32": 4, "float16": 2, "bfloat16": 2}
    values = sum(layer.kept * width[headers[f"{layer.name}.weight"].dtype] for layer in layers) if headers else 0
    return mask + values, 4 * opened.manifest.total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sparsity", default="0.9")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    folder = args.work / "rn50"
    if not folder.exists():
        script = Path(__file__).with_name("random_rn50.py")
        subprocess.run([sys.executable, str(script), str(folder)], check=True, stdout=subprocess.DEVNULL)
    checkpoint = folder / "open_clip_model.safetensors"
    source = f"RN50-quickgelu:{checkpoint}"
    print(f"# One-shot pruning of RN50, {time.strftime('%Y-%m-%d')}\n\n{environment(torch.device('cpu'))}\n")
    print(f"`opentrans prune RN50-quickgelu:FILE -s {args.sparsity}`, median of {RUNS} runs (each run).\n")
    print("| bundle | seconds | peak MB | verify, s | bundle bytes | prunable part / dense float32 |")
    print("|---|---|---|---|---|---|")
    for name, options in ROWS.items():
        out = args.work / "bundle"
        taken, memory = [], []
        for _ in range(RUNS):
            shutil.rmtree(out, ignore_errors=True)
            wanted = () if "2:4" in options else ("-s", args.sparsity)
            seconds, peak = timed("prune", source, *wanted, *options, "-o", str(out), "--device", "cpu", "--quiet")
            taken.append(seconds)
            memory.append(peak)
        checked, _ = timed("verify", str(out))
        part, dense = prunable_bytes(out)
        each = ", ".join(f"{seconds:.1f}" for seconds in taken)
        cells = [name, f"{median(taken):.1f} ({each})", f"{max(memory):.0f}", f"{checked:.1f}"]
        print("|", " | ".join([*cells, f"{open_bundle(out).size_bytes:,}", f"{part / dense:.4f}"]), "|", flush=True)
        shutil.rmtree(out)


if __name__ == "__main__":
    main()
