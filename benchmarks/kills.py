"""kill -9 at random moments of prune, finetune, push and pull: what is on the disk, and on the Hub, afterwards.

    python benchmarks/kills.py > benchmarks/results/DATE-kills.md

Every run is a process of its own, killed with its whole process group. Half of the moments are uniform over the time
the command takes, half follow the first sign of writing by up to a quarter of a second: a new name beside the target,
or a request to the Hub. Half of the targets are new, half hold another bundle already, which --force, or the push,
replaces.
The Hub is the one of the tests, on loopback. After each kill:

- prune, finetune, pull: the target is absent, or passes every check of `verify`, and is the old bundle or the new one;
- push: the repo has no commit, or its newest commit holds a bundle that passes every check;
- now and then (one in five) the command is run again and must end in a whole bundle.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.bundle.verify.verify import verify_bundle
from opentrans_cli.steps.step_record import environment

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "hub"))
from server import HubServer  # type: ignore[import-not-found]

SHORT = ("--batch-size", "16", "--device", "cpu", "--quiet")
PRUNE = ("--images", "shapes", "--image-limit", "32", "--steps-per-round", "1", "--final-steps", "2", *SHORT)
FINETUNE = ("--steps", "3", "--crop", "32", "--limit", "4", "--batch-size", "2", "--device", "cpu", "--quiet")
REPO = "org/killed"
AFTER_SIGN = 0.25
LONGEST = 180.0


@dataclass
class Bench:
    """The bundles to start from, and where processes run."""

    work: Path
    server: HubServer
    env: dict[str, str]
    source: Path  # small bundles of the embedded model
    other: Path
    lasts: dict[str, float] = field(default_factory=dict)  # verb -> seconds of a whole run

    def command(self, verb: str, target: Path, *, force: bool) -> list[str]:
        lines: dict[str, tuple[object, ...]] = {
            "prune": ("prune", "tiny", "--sparsity", "0.5", *PRUNE, "-o", target),
            "finetune": ("finetune", self.source, *FINETUNE, "-o", target),
            "push": ("push", self.source, REPO, "--license", "mit", "--quiet"),
            "pull": ("pull", f"{REPO}@v1", "--quiet", "-o", target),
        }
        extra = ("--force",) if force and verb != "push" else ()
        return [sys.executable, "-m", "opentrans_cli", *map(str, (*lines[verb], *extra))]

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def run(self, command: list[str]) -> float:
        started = time.monotonic()
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=LONGEST)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: {done.stderr}")
        return time.monotonic() - started


def kill(bench: Bench, verb: str, target: Path, *, force: bool, moment: random.Random) -> bool:
    """Start the command and kill it; whether it was still running."""
    seen = set(target.parent.iterdir())
    requests = len(bench.server.log)
    started = time.monotonic()
    process = bench.start(bench.command(verb, target, force=force))
    if moment.random() < 0.5:
        time.sleep(moment.uniform(0, bench.lasts[verb]))
    else:
        while process.poll() is None and time.monotonic() - started < LONGEST:
            if set(target.parent.iterdir()) != seen or len(bench.server.log) > requests:
                break
            time.sleep(0.001)
        time.sleep(moment.uniform(0, AFTER_SIGN))
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return alive


def state_of(path: Path, *allowed: str) -> str:
    """ "absent", "whole", or what is wrong with the bundle at `path`; `allowed` are digests, all if there is none."""
    if not os.path.lexists(path):
        return "absent"
    try:
        failed = [check for check in verify_bundle(path) if not check.ok]
        if failed:
            return f"damaged: {failed[0].name}"
        return "whole" if not allowed or open_bundle(path).digest in allowed else "damaged: another bundle"
    except Exception as error:
        return f"damaged: {error}"


def state_on_hub(bench: Bench) -> str:
    """The same for the newest commit of the repo."""
    repo = bench.server.repos.get(REPO)
    if repo is None or set(repo.files()) <= {".gitattributes"}:  # the Hub's own first commit
        return "absent"
    with tempfile.TemporaryDirectory() as folder:
        declared = [name for name in repo.files() if not name.startswith("card/")]
        for name in declared:
            place = Path(folder, "bundle", name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(repo.files()[name])
        return state_of(Path(folder, "bundle"), open_bundle(bench.source).digest, open_bundle(bench.other).digest)


def trial(bench: Bench, verb: str, number: int, moment: random.Random) -> tuple[bool, str, str]:
    """One kill: whether it struck, the state after it, and after running the command again ("" if it was not)."""
    folder = bench.work / f"{verb}-{number}"
    folder.mkdir()
    target, replaced = folder / "bundle", number % 2 == 1
    if verb == "push":
        bench.server.repos.pop(REPO, None)
        if replaced:
            other = replace(bench, source=bench.other)
            bench.run(other.command("push", target, force=False))
    elif replaced:
        shutil.copytree(bench.other, target)
    struck = kill(bench, verb, target, force=replaced, moment=moment)
    check: Callable[[], str] = (lambda: state_on_hub(bench)) if verb == "push" else (lambda: state_of(target))
    state = check()
    if replaced and state == "absent":
        state = "damaged: the old bundle is gone"
    again = ""
    if number % 5 == 0:
        resume = ["--resume"] if verb in ("prune", "finetune") else []
        bench.run([*bench.command(verb, target, force=os.path.lexists(target)), *resume])
        again = check()
    shutil.rmtree(folder)
    return struck, state, again


def prepared(work: Path, server: HubServer) -> Bench:
    env = {
        **os.environ,
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(work / "hf"),
        "OPENTRANS_CACHE": str(work / "cache"),
        "HF_TOKEN": "hf_kills",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "OMP_NUM_THREADS": "1",
    }
    bench = Bench(work, server, env, work / "source", work / "other")
    base = [sys.executable, "-m", "opentrans_cli", "prune", "tiny", "--quiet"]
    bench.run([*base, "--sparsity", "0.9", "-o", str(bench.source)])
    bench.run([*base, "--sparsity", "0.7", "-o", str(bench.other)])
    for verb in ("prune", "finetune", "push", "pull"):
        bench.lasts[verb] = bench.run(bench.command(verb, work / f"whole-{verb}", force=False))
    return bench


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100, help="of all four commands together")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    moment = random.Random(arguments.seed)
    print(f"# kill -9 at random moments, {time.strftime('%Y-%m-%d')}\n\n{environment(torch.device('cpu'))}\n")
    print("| command | whole run, s | kills | struck while running | absent | whole | damaged | run again, whole |")
    print("|---|---|---|---|---|---|---|---|")
    found: list[str] = []
    with tempfile.TemporaryDirectory() as folder, HubServer() as server:
        bench = prepared(Path(folder), server)
        pushed = server.repos[REPO]
        for verb in bench.lasts:
            states: Counter[str] = Counter()
            struck, again = 0, []
            if verb == "pull":
                server.repos[REPO] = pushed
            for number in range(arguments.kills // 4):
                alive, state, after = trial(bench, verb, number, moment)
                struck += alive
                states[state.split(":")[0]] += 1
                again += [after] if after else []
                found += [f"{verb} {number}: {state}"] if state.startswith("damaged") else []
                print(f"{verb} {number}: {state} {after}", file=sys.stderr, flush=True)
            counts = " | ".join(str(states[name]) for name in ("absent", "whole", "damaged"))
            print(
                f"| {verb} | {bench.lasts[verb]:.1f} | {arguments.kills // 4} | {struck} | {counts} | "
                f"{again.count('whole')} of {len(again)} |",
                flush=True,
            )
    print("\nDamaged: " + ("; ".join(found) if found else "none."))


if __name__ == "__main__":
    main()
