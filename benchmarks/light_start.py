"""CPU time of whole commands, user and system, of an old build beside a new one.

    python benchmarks/light_start.py OLD NEW --model RN50.safetensors > benchmarks/results/DATE-light-start.md

OLD and NEW are folders with the package in them, MODEL is a checkpoint of RN50's size (see `random_rn50.py`). The two
builds take turns, command by command, each in a process of its own and in an empty folder; figures are medians. The
time is what the system counted for a process and all it started, so that a busy machine changes it little, and waiting
costs nothing unless it is done by spinning. `demo` also runs twice at once.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from opentrans_cli.steps.step_record import environment

HEAVY = ("torch", "open_clip", "transformers", "torchvision", "timm", "torch._dynamo", "matplotlib", "PIL", "scipy")
QUICK = ["demo", "--quick", "--quiet", "-o", "demo"]
LISTED = """\
import atexit, sys
from opentrans_cli.cli.app import main
atexit.register(lambda: print("\\0", *sys.modules))
main()
"""


def commands(model: Path) -> dict[str, tuple[list[str], float | None]]:
    """By title the arguments, and the ratio of new to old that is aimed at; None: no aim."""
    return {
        "prune tiny --sparsity 0.5": (["prune", "tiny", "--sparsity", "0.5", "-o", "new"], 0.15),
        "analyze RN50.safetensors": (["analyze", str(model)], 0.4),
        "eval tiny, ten scenes": (["eval", "tiny", "--dataset", "shapes", "--limit", "10"], 0.6),
        "inspect BUNDLE": (["inspect", "../bundle"], None),
        "verify BUNDLE": (["verify", "../bundle"], None),
        "diff BUNDLE BUNDLE": (["diff", "../bundle", "../other"], None),
        "--help": (["--help"], None),
    }


class Build:
    """One build of the package."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.env = {**os.environ, "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1"}
        self.scratch = scratch

    def start(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        """The command in an empty folder."""
        folder = tempfile.mkdtemp(dir=self.scratch)
        line = [sys.executable, "-m", "opentrans_cli", *arguments]
        return subprocess.Popen(line, env=self.env, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def seconds(self, *runs: list[str]) -> float:
        """CPU seconds of commands that are started at once, of each in the mean."""
        started = [self.start(run) for run in runs]
        return sum(_waited(process) for process in started) / len(started)

    def loaded(self, arguments: list[str]) -> list[str]:
        """Which of the heavy libraries a command imports."""
        line = [sys.executable, "-c", LISTED, *arguments]
        folder = tempfile.mkdtemp(dir=self.scratch)
        done = subprocess.run(line, env=self.env, cwd=folder, capture_output=True, text=True, check=True)
        modules = set(done.stdout.rpartition("\0")[2].split())  # behind what the command itself prints
        return [name for name in HEAVY if name in modules]


def _waited(process: subprocess.Popen[bytes]) -> float:
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{process.args!r}: {said.decode()}")
    return usage.ru_utime + usage.ru_stime


def row(title: str, times: dict[str, list[float]], aim: float | None, beside: str) -> str:
    """A row of the report: old and new, the lowest and the highest of each, and their ratio."""
    old, new = (f"{median(some):.2f} ({min(some):.2f}, {max(some):.2f})" for some in (times["old"], times["new"]))
    ratio = median(times["new"]) / median(times["old"])
    return f"| {title} | {old} | {new} | {ratio:.3f} | {'' if aim is None else f'{aim:g}'} | {beside} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--demos", type=int, default=3, help="runs of the demo, alone and two at once")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        builds = {name: Build(getattr(args, name).resolve(), Path(scratch)) for name in ("old", "new")}
        for name, sparsity in (("bundle", "0.5"), ("other", "0.6")):
            builds["old"].seconds(["prune", "tiny", "--sparsity", sparsity, "-o", f"../{name}"])
        print(f"# CPU time of whole commands, {time.strftime('%Y-%m-%d')}\n\n{environment(torch.device('cpu'))}\n")
        print(f"Medians of {args.runs} runs (lowest, highest), seconds of CPU, user and system, in turn.\n")
        print("| command | old | new | new / old | aim | heavy imports, old -> new |\n|---|---|---|---|---|---|")
        for title, (arguments, aim) in commands(args.model.resolve()).items():
            times: dict[str, list[float]] = {name: [] for name in builds}
            for _ in range(args.runs):
                for name, build in builds.items():
                    times[name].append(build.seconds(arguments))
            old, new = (", ".join(build.loaded(arguments)) or "none" for build in builds.values())
            print(row(title, times, aim, f"{old} -> {new}"), flush=True)
        print("\n| quick demo, CPU of each | alone | two at once | at once / alone | aim |\n|---|---|---|---|---|")
        for name, build in builds.items():
            alone, both = [], []
            for _ in range(args.demos):
                alone.append(build.seconds(QUICK))
                both.append(build.seconds(QUICK, QUICK))
            figures = (f"{median(some):.1f} ({min(some):.1f}, {max(some):.1f})" for some in (alone, both))
            print(f"| {name} | {' | '.join(figures)} | {median(both) / median(alone):.2f} | 1.3 |", flush=True)


if __name__ == "__main__":
    main()
