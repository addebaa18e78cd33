"""`opentrans transfer --checkpoint` of an RN50 bundle into a checkpoint of FC-CLIP's size, as a user runs it.

    python benchmarks/transfer_checkpoint.py --work runs --shared ../shared > benchmarks/results/DATE-transfer.md

The checkpoint has the 792 names and shapes of FC-CLIP R50 with random float32 values, as .safetensors and as .pth with
an optimizer's counter beside it. The bundle is a random RN50 (benchmarks/random_rn50.py), pruned to 90 %. Each row is a
process of its own, from start to files that were written and read again. Peak memory is the process's largest resident
set; for scale there is a row for `import torch` alone, and one for copying the file to the disk. This script itself
loads no torch: Linux counts what a process was before it began to run another program.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

RUNS = 3
COPY = (
    "import os, sys\n"
    "with open(sys.argv[1], 'rb') as one, open(sys.argv[2], 'wb') as other:\n"
    "    while piece := one.read(1 << 22):\n"
    "        other.write(piece)\n"
    "    other.flush()\n"
    "    os.fsync(other.fileno())\n"
)
WHERE = (
    "import torch\nfrom opentrans_cli.steps.step_record import environment\nprint(environment(torch.device('cpu')))\n"
)


def write_checkpoints(work: Path, shared: Path) -> None:
    """Random values; running variances are positive, as in any trained network."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    state = {}
    for key, shape in json.loads((shared / "reference" / "fcclip_r50_full.json").read_text()).items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(100)
        elif key.endswith("running_var"):
            state[key] = torch.rand(shape) + 0.5
        else:
            state[key] = torch.randn(shape) * 0.05
    save_file(state, work / "fcclip.safetensors")
    torch.save({"model": state, "optimizer": {"step": 7}, "iteration": 7}, work / "fcclip.pth")


def prepare(work: Path, shared: Path) -> dict[str, Path]:
    """Write the bundle and both checkpoints, unless they are there."""
    paths = {name: work / name for name in ("rn50", "bundle", "fcclip.safetensors", "fcclip.pth")}
    script = str(Path(__file__).with_name("random_rn50.py"))
    line = ("prune", str(paths["rn50"]), "-s", "0.9", "-o", str(paths["bundle"]), "--device", "cpu", "--quiet")
    here = ("--work", str(work), "--shared", str(shared), "--prepare")
    for name, command in (
        ("rn50", (script, str(paths["rn50"]))),
        ("bundle", ("-m", "opentrans_cli", *line)),
        ("fcclip.pth", (__file__, *here)),
    ):
        if not paths[name].exists():
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return paths


def timed(*command: str) -> tuple[float, float, float]:
    """Seconds, seconds of the processor, and peak resident megabytes of one process. Raises if it fails."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    seconds = time.perf_counter() - started
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6


def row(name: str, size: int, command: tuple[str, ...]) -> None:
    taken, busy, memory = zip(*(timed(*command) for _ in range(RUNS)), strict=True)
    each = ", ".join(f"{seconds:.1f}" for seconds in taken)
    cells = [name, f"{median(taken):.1f} ({each})", f"{median(busy):.1f}", f"{max(memory):.0f}"]
    print("|", " | ".join([*cells, f"{max(memory) * 1e6 / size:.2f}"]), "|", flush=True)


def transfers(paths: dict[str, Path], work: Path) -> None:
    size = paths["fcclip.safetensors"].stat().st_size
    print("\n| what | seconds | processor, s | peak MB | peak / file |\n|---|---|---|---|---|")
    receipts: dict[str, dict[str, Any]] = {}
    for source, target in ((".safetensors",) * 2, (".pth",) * 2, (".pth", ".safetensors")):
        for what in ("mask", "weights"):
            out, given = work / f"out{target}", paths[f"fcclip{source}"]
            line = ["-m", "opentrans_cli", "transfer", str(paths["bundle"]), "--checkpoint", str(given)]
            line += ["--what", what, "-o", str(out), "--force", "--quiet"]
            row(f"{source} to {target}, {what}", given.stat().st_size, tuple(line))
            receipts[f"{source} to {target}, {what}"] = json.loads(Path(f"{out}.receipt.json").read_text())
    row("`import torch` alone", size, ("-c", "import torch"))
    row("the file copied and flushed", size, ("-c", COPY, str(paths["fcclip.safetensors"]), str(work / "copy")))
    print("\n| what | table | changed | bit for bit | parity of the trunk's features | largest feature |")
    print("|---|---|---|---|---|---|")
    for name, receipt in receipts.items():
        output, parity = receipt["output"], receipt["parity"]
        cells = [name, receipt["framework"], output["changed"], output["unchanged"], f"{parity['difference']:.1e}"]
        print("|", " | ".join(map(str, [*cells, f"{parity['largest']:.3g}"])), "|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--shared", type=Path, required=True, help="folder with reference/fcclip_r50_full.json")
    parser.add_argument("--prepare", action="store_true", help="write the checkpoints and measure nothing")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.prepare:
        write_checkpoints(args.work, args.shared)
        return
    paths = prepare(args.work, args.shared)
    size = paths["fcclip.safetensors"].stat().st_size
    environment = subprocess.run(
        [sys.executable, "-c", WHERE], check=True, capture_output=True, text=True
    ).stdout.strip()
    print(f"# A subnet put into FC-CLIP R50, {time.strftime('%Y-%m-%d')}\n\n{environment}\n")
    print(f"Checkpoint: 792 tensors, {size / 1e6:.0f} MB. Median of {RUNS} runs (each run); the page cache is warm.")
    transfers(paths, args.work)


if __name__ == "__main__":
    main()
