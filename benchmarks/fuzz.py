"""Coverage-guided fuzzing of the bundle's reader: manifest, tensor files, mask codec, whole bundles.

    python benchmarks/fuzz.py > benchmarks/results/DATE-fuzz.md

Sound inputs are changed blindly and by structure (`fuzz_mutations.py`), and whatever reaches a new step from line to
line in `opentrans_cli/bundle/` is kept and changed further. A failure is any exception but our own, a message that is
not one clean line, a disagreement (`fuzz_targets.py` says of what), more than 2 seconds twice, or more memory than the
limit. Failures are written to --keep. Runs are on one thread with a fixed seed, two at a time, in memory where the
system has such a folder. Tracing slows an execution down, so of whole bundles every third is traced.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import nullcontext
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy
from fuzz_mutations import Files, mutate
from fuzz_targets import TARGETS, Target

import opentrans_cli

PACKAGE = str(Path(opentrans_cli.__file__).parent / "bundle")
SECONDS_EACH, MEMORY = 2.0, 1 << 30  # of one execution; bytes beyond what the process needs to start
EXECUTIONS = {"manifest": 60_000, "tensor file": 120_000, "mask codec": 120_000, "bundle": 15_000}


class Hang(BaseException):
    """An execution took too long."""


class Coverage:
    """Steps from line to line inside the package, as they are taken."""

    def __init__(self) -> None:
        self.seen: set[tuple[CodeType, int, int]] = set()
        self._now: set[tuple[CodeType, int, int]] = set()

    def __enter__(self) -> None:
        self._now = set()
        sys.settrace(self._call)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE):
            return None
        last, now = 0, self._now

        def line(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal last
            if event == "line":
                now.add((code, last, frame.f_lineno))
                last = frame.f_lineno
            return line

        return line

    def new(self) -> bool:
        """Whether the last execution took a step that none took before."""
        fresh = bool(self._now - self.seen)
        self.seen |= self._now
        return fresh

    def lines(self) -> dict[str, set[int]]:
        """Lines run, by file."""
        found: dict[str, set[int]] = {}
        for code, _, line in self.seen:
            found.setdefault(code.co_filename, set()).add(line)
        return found


def execute(target: Target, files: Files) -> tuple[bool, str | None]:
    """Whether the input was accepted, and the traceback if something happened that must not."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS_EACH)
    try:
        return target.run(files), None
    except (Exception, Hang):
        return False, traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def fuzz(name: str, executions: int, seed: int, keep: Path) -> dict[str, Any]:
    """One target; figures for the report."""
    target, rng, coverage = TARGETS[name](), random.Random(seed), Coverage()
    corpus: list[Files] = []
    failures: dict[str, int] = {}
    accepted, started = 0, time.perf_counter()
    seeds = target.seeds()
    for number in range(executions):
        files = seeds[number] if number < len(seeds) else mutate(_pick(corpus, rng), corpus, rng)
        traced = number < len(seeds) or number % target.traced == 0
        with coverage if traced else nullcontext():
            good, failure = execute(target, files)
        if failure is not None and "Hang" in failure:
            good, failure = execute(target, files)  # others may have had the machine; what hangs does so twice
        accepted += good
        if failure is None:
            if traced and (coverage.new() or number < len(seeds)):
                corpus.append(files)
            continue
        place = failure.strip().splitlines()[-1][:160]
        if place not in failures:
            folder = keep / name.replace(" ", "-") / str(len(failures))
            for file, data in {**files, "traceback.txt": failure.encode()}.items():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_bytes(data)
        failures[place] = failures.get(place, 0) + 1
    return {
        "target": name,
        "executions": executions,
        "seconds": time.perf_counter() - started,
        "accepted": accepted,
        "seeds": len(seeds),
        "corpus": len(corpus),
        "steps": len(coverage.seen),
        "lines": {file: sorted(lines) for file, lines in coverage.lines().items()},
        "failures": failures,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _pick(corpus: list[Files], rng: random.Random) -> Files:
    """Recent inputs more often: they reach what the others do not."""
    return corpus[-1 - int(min(rng.random(), rng.random()) * len(corpus))]


def child(arguments: argparse.Namespace) -> None:
    """Runs one target and prints its figures as JSON."""

    def hang(*_: object) -> None:
        raise Hang(f"more than {SECONDS_EACH:g} seconds")

    signal.signal(signal.SIGALRM, hang)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    print(json.dumps(fuzz(arguments.target, arguments.executions, arguments.seed, arguments.keep)))


def executable(file: str) -> set[int]:
    """The lines of functions in a source file that can be run; what runs at import does not count."""
    found: set[int] = set()
    waiting = [compile(Path(file).read_text(encoding="utf-8"), file, "exec")]
    top = waiting[0]
    while waiting:
        code = waiting.pop()
        waiting += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
        if code is not top and code.co_name not in CLASSES:
            found |= {line for _, _, line in code.co_lines() if line and line != code.co_firstlineno}
    return found


CLASSES = {name for name in ("Record", "Base", "Manifest", "LayerEntry", "FileEntry", "Step", "Segmentor", "Bundle")}


def run(share: float, seed: int, keep: Path) -> list[dict[str, Any]]:
    """All targets, two processes at a time."""
    waiting = [(name, int(count * share)) for name, count in EXECUTIONS.items()]
    waiting.sort(key=lambda item: item[0] != "bundle")  # the longest first
    running: list[subprocess.Popen[str]] = []
    results = []
    while waiting or running:
        while waiting and len(running) < 2:
            name, count = waiting.pop(0)
            line = [sys.executable, __file__, "--target", name, "--executions", str(count)]
            line += ["--seed", str(seed), "--keep", str(keep)]
            running.append(subprocess.Popen(line, stdout=subprocess.PIPE, text=True))
        done = running.pop(0)
        results.append(json.loads(done.communicate()[0]))
    return sorted(results, key=lambda result: list(EXECUTIONS).index(result["target"]))


def report(results: list[dict[str, Any]], seed: int) -> None:
    total = sum(result["executions"] for result in results)
    failed = sum(sum(result["failures"].values()) for result in results)
    print(f"# Fuzzing the reader of bundles, {time.strftime('%Y-%m-%d')}\n")
    print(
        f"opentrans {opentrans_cli.__version__}, Python {platform.python_version()}, numpy {numpy.__version__},",
        end=" ",
    )
    print(f"{platform.machine()}, one thread a process, two processes, seed {seed}.\n")
    print(f"**{total:,} executions, {failed} failures.** Budget of one: {SECONDS_EACH:g} s, {MEMORY >> 20} MiB.\n")
    print("| target | executions | a second | accepted | seeds | corpus | steps | peak memory | failures |")
    print("|---|---|---|---|---|---|---|---|---|")
    for r in results:
        figures = [f"{r['executions']:,}", f"{r['executions'] / r['seconds']:.0f}", f"{r['accepted']:,}", r["seeds"]]
        figures += [r["corpus"], f"{r['steps']:,}", f"{r['peak'] / 1e6:.0f} MB", sum(r["failures"].values())]
        print(f"| {r['target']} | {' | '.join(map(str, figures))} |")
    print("\nLines of functions in `opentrans_cli/bundle/` that were run, of those that read:\n")
    print("| file | run | of |\n|---|---|---|")
    covered: dict[str, set[int]] = {}
    for result in results:
        for file, lines in result["lines"].items():
            covered.setdefault(file, set()).update(lines)
    for file in sorted(covered):
        there = executable(file)
        print(f"| `{Path(file).name}` | {len(covered[file] & there)} | {len(there)} |")
    for result in results:
        for place, count in result["failures"].items():
            print(f"\n- {result['target']}: {count} x `{place}`")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the usual number of executions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir(), "fuzz-failures"))
    parser.add_argument("--target", choices=EXECUTIONS, help="run one target and print JSON")
    parser.add_argument("--executions", type=int, default=1000)
    arguments = parser.parse_args()
    if arguments.target:
        child(arguments)
    else:
        report(run(arguments.share, arguments.seed, arguments.keep), arguments.seed)


if __name__ == "__main__":
    main()
