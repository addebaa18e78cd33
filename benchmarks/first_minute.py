"""CPU time of the default demo beside the quick demo of an old build, and its clock while the cores have other work.

    python benchmarks/first_minute.py OLD NEW --seeds 0 1 > first-minute.txt
    python benchmarks/first_minute.py OLD NEW --rivals 2

OLD and NEW are folders with the package in them. For each seed both demos run in turn, each as a process of its own;
the time is what the system counted for it, user and system. With --rivals only the new demo runs, alone and beside so
many processes that never wait.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple


class Run(NamedTuple):
    """One demo."""

    cpu: float  # seconds, user and system
    wall: float  # seconds
    mious: dict[str, float]  # by tower


def run(build: Path, arguments: list[str]) -> Run:
    """A demo of one build, in an empty folder and with as many threads as it takes by itself."""
    chosen = {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY"}
    env = {name: value for name, value in os.environ.items() if name not in chosen}
    env |= {"PYTHONPATH": str(build), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "opentrans_cli", "demo", *arguments, "--quiet", "-o", "demo"]
        started = time.perf_counter()
        process = subprocess.Popen(line, cwd=folder, env=env, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(line)} failed")
        rows = json.loads((Path(folder) / "demo" / "report.json").read_text())["rows"]
        wall = time.perf_counter() - started
    return Run(usage.ru_utime + usage.ru_stime, wall, {row["name"]: row["miou"] for row in rows})


def shown(run: Run) -> str:
    """Seconds and mIoU of one demo."""
    mious = ", ".join(f"{name} {100 * miou:.1f}" for name, miou in run.mious.items())
    return f"{run.cpu:.1f} s of CPU, {run.wall:.1f} s on the clock; {mious}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rivals", type=int, default=0)
    args = parser.parse_args()
    for seed in args.seeds:
        chosen = ["--seed", str(seed)]
        new = run(args.new.resolve(), chosen)
        print(f"seed {seed}, load {os.getloadavg()[0]:.1f}: new {shown(new)}", flush=True)
        if args.rivals:
            rivals = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(args.rivals)]
            try:
                beside = run(args.new.resolve(), chosen)
            finally:
                for rival in rivals:
                    rival.kill()
            print(f"  beside {args.rivals}: {shown(beside)}; clock {beside.wall / new.wall:.2f} of alone", flush=True)
        else:
            old = run(args.old.resolve(), ["--quick", *chosen])
            print(f"  old {shown(old)}; CPU new / old {new.cpu / old.cpu:.3f}", flush=True)


if __name__ == "__main__":
    main()
