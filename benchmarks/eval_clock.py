"""Where the time of `eval` goes: the share inside the forward pass, and memory, of an old build beside a new one.

    python benchmarks/eval_clock.py OLD NEW --photos camvid --work DIR > benchmarks/results/DATE-eval-clock.md

OLD and NEW are folders with the package in them. PHOTOS has `images`, `annotations` and `classes.txt`, as CamVid does;
more pictures than it has are its own once more, under other names. Every run is a process of its own that calls
`evaluate` once; old and new go in turn. Forward is everything from pixels that are normalised to scores of all classes
at the size of the picture, and nothing else: neither reading, nor the best class of each pixel, nor counting.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

SPECIAL = "11"  # CamVid's id of pixels without a label


@dataclass(frozen=True)
class Figures:
    """One run."""

    command: float  # seconds from the call of `evaluate` to its end
    loop: float  # seconds of the loop over the pictures
    forward: float  # seconds inside the model
    loop_cpu: float  # the same of the main thread alone: what it would be with a processor of its own
    forward_cpu: float
    mib: float  # of memory at the peak, together with what was loaded before
    miou: float

    def share(self, *, of: str) -> float:
        """Share of a time that is spent in the model."""
        spent = {"command": self.command, "loop": self.loop, "loop_cpu": self.loop_cpu}[of]
        return (self.forward_cpu if of == "loop_cpu" else self.forward) / spent


def child(source: str, folder: Path, limit: int, out: Path) -> None:
    """Score pictures in this process; the figures go to stdout as JSON. Works with old builds as well."""
    from resource import RUSAGE_SELF, getrusage

    from opentrans_cli.reporter import Silent
    from opentrans_cli.steps.eval.evaluate import evaluate

    predictor: Any = import_module("opentrans_cli.steps.segmentors.predictor")
    forward, loop = [0.0, 0.0], [0.0, 0.0]

    def now() -> tuple[float, float]:
        return time.perf_counter(), time.thread_time()

    def add(spent: list[float], since: tuple[float, float]) -> None:
        for place, (begin, end) in enumerate(zip(since, now(), strict=True)):
            spent[place] += end - begin

    chunks: Callable[..., Iterator[Any]] = predictor.score_chunks

    def timed(*arguments: Any, **more: Any) -> Iterator[Any]:
        parts = iter(chunks(*arguments, **more))
        while True:
            began = now()
            part = next(parts, None)
            add(forward, began)
            if part is None:
                return
            yield part

    class Timed(Silent):
        @contextmanager
        def bar(self, title: str, total: int, **more: Any) -> Iterator[Callable[[str], None]]:
            began = now()
            yield lambda status: None
            if title == "scoring":
                add(loop, began)

    predictor.score_chunks = timed
    began = time.perf_counter()
    data: dict[str, Any] = {"images": folder / "images", "labels": folder / "labels", "classes": folder / "classes.txt"}
    report = evaluate(
        source, **data, ignore=(int(SPECIAL),), limit=limit, out=out, device="cpu", force=True, reporter=Timed()
    ).report
    seconds = time.perf_counter() - began
    mib = getrusage(RUSAGE_SELF).ru_maxrss / 1024
    figures = Figures(seconds, loop[0], forward[0], loop[1], forward[1], mib, report["miou"])
    print(json.dumps(vars(figures)), flush=True)


def run(build: Path, threads: int, source: str, folder: Path, limit: int, *, processes: int = 1) -> list[Figures]:
    """One run of a build, in processes of `threads` threads each: the figures of each."""
    line = [sys.executable]
    if processes > 1:
        line += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
        line += ["--local-addr=127.0.0.1"]
    line += [__file__, "--child", source, str(folder), str(limit)]
    env = {**os.environ, "PYTHONPATH": str(build.resolve()), "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    env |= {"OMP_WAIT_POLICY": "passive", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(line, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return [Figures(**json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")]


def photos(source: Path, work: Path, count: int) -> Path:
    """A folder of so many pairs."""
    folder = work / f"pairs-{count}"
    if not folder.exists():
        pairs = sorted(path.relative_to(source / "images") for path in (source / "images").rglob("*.jpg"))
        for place in ("images", "labels"):
            (folder / place).mkdir(parents=True)
        for number in range(count):
            pair = pairs[number % len(pairs)]
            (folder / "images" / f"{number:05d}.jpg").symlink_to((source / "images" / pair).resolve())
            label = (source / "annotations" / pair).with_suffix(".png")
            (folder / "labels" / f"{number:05d}.png").symlink_to(label.resolve())
        (folder / "classes.txt").write_bytes((source / "classes.txt").read_bytes())
    return folder


def percents(values: list[float]) -> str:
    """Median, and in brackets each one."""
    return f"{100 * median(values):.1f} ({', '.join(f'{100 * value:.1f}' for value in values)})"


def shares(builds: dict[str, Path], sources: dict[str, tuple[str, int]], folder: Path, pairs: int) -> None:
    """Print the share of time inside the model."""
    print("## Share of time inside the forward pass, %\n")
    print("Median of the runs, and each one. `alone`: of the main thread's CPU time in the loop.\n")
    print("| source | threads | build | of the loop | of the command after start-up | alone | images a second |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name, (source, count) in sources.items():
        for threads in (1, 2):
            found: dict[str, list[Figures]] = {build: [] for build in builds}
            for _ in range(pairs):
                for build, path in builds.items():
                    found[build] += run(path, threads, source, folder, count)
            for build, runs in found.items():
                each = [percents([figures.share(of=of) for figures in runs]) for of in ("loop", "command", "loop_cpu")]
                speed = median(count / figures.loop for figures in runs)
                print(f"| {name} | {threads} | {build} | {' | '.join(each)} | {speed:.2f} |", flush=True)
            ratios = [old.loop / new.loop for old, new in zip(found["old"], found["new"], strict=True)]
            cpu = [old.loop_cpu / new.loop_cpu for old, new in zip(found["old"], found["new"], strict=True)]
            assert len({figures.miou for runs in found.values() for figures in runs}) == 1, "builds disagree"
            print(
                f"| {name} | {threads} | old / new, in turn | time {median(ratios):.2f}, "
                f"main thread's CPU {median(cpu):.2f} | | | |",
                flush=True,
            )


def memory(builds: dict[str, Path], source: Path, work: Path) -> None:
    """Print the peak by number of pictures, in one process and in two."""
    print("\n## Memory at the peak, MiB\n")
    print(
        "| source | processes | build | 10 images | 100 images | 1,000 images |\n|---|---|---|---|---|---|", flush=True
    )
    for processes, build in ((1, "old"), (1, "new"), (2, "new")):
        cells = []
        for count in (10, 100, 1000):
            found = run(builds[build], 1, "tiny", photos(source, work, count), count, processes=processes)
            cells.append(", ".join(f"{figures.mib:.0f}" for figures in found))
        print(f"| tiny | {processes} | {build} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        source, folder, limit = sys.argv[2:]
        child(source, Path(folder), int(limit), Path(folder, "report.json"))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rn50", type=Path, help="folder that random_rn50.py wrote")
    parser.add_argument("--tiny-images", type=int, default=200)
    parser.add_argument("--rn50-images", type=int, default=12)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--part", choices=["shares", "memory"])
    args = parser.parse_args()
    import torch

    from opentrans_cli.steps.step_record import environment

    builds = {"old": args.old, "new": args.new}
    for build in builds.values():
        if not (build / "opentrans_cli").is_dir():  # else the installed package would be measured in its place
            parser.error(f"no package in it: {build}; give the folder that holds opentrans_cli")
    print(f"# Time and memory of eval, {time.strftime('%Y-%m-%d')}\n\n{environment(torch.device('cpu'))}\n")
    print(f"Pictures of 320 x 240 pixels, 11 classes; load of the machine: {os.getloadavg()[0]:.1f}.\n")
    sources = {"tiny": ("tiny", args.tiny_images)}
    if args.rn50 is not None:
        sources["RN50"] = (str(args.rn50), args.rn50_images)
    if args.part != "memory":
        shares(builds, sources, photos(args.photos, args.work, max(args.tiny_images, args.rn50_images)), args.pairs)
    if args.part != "shares":
        memory(builds, args.photos, args.work)


if __name__ == "__main__":
    main()
