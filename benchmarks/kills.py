"""Processes that are killed, or told to end, at random moments: what is on the disk, and on the Hub, afterwards.

    python benchmarks/kills.py > benchmarks/results/DATE-kills.md

Every run is a process of its own, and signals go to its whole process group, as a terminal and a batch queue send them.
All moments are drawn from one seed.

Told to end (SIGINT, SIGTERM) are prune, finetune, eval and demo, at moments that are uniform over the time the command
takes. One run in four is of a new interpreter, whose start and imports are among these moments; the others are forked
from a process in which torch is loaded, so that most moments lie in the work itself. After each:

- the exit code is 130 or 75, and the last line is the command that goes on, if anything was kept;
- now and then the same command is tried as it was: it is refused, and the state has the same bytes as before;
- the command of the last line is run, and interrupted again, until it comes to its end;
- where a signal ended a process and the whole result is there, the command is started as it was: it is refused.

Every result is compared with that of a run nobody interrupted, byte by byte but for what a clock measured.

kill -9 goes to prune, finetune, push and pull. Half of the moments are uniform, half follow the first sign of writing
by up to a quarter of a second: a new name beside the target, or a request to the Hub. Half of the targets are new, half
hold another bundle already, which --force, or the push, replaces. The Hub is the one of the tests, on loopback. After
each kill:

- prune, finetune, pull: the target is absent, or passes every check of `verify`, and is the old bundle or the new one;
- push: the repo has no commit, or its newest commit holds a bundle that passes every check;
- now and then (one in five) the command is run again and must end in a whole bundle.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.bundle.verify.verify import verify_bundle
from opentrans_cli.steps.run_files import state_path
from opentrans_cli.steps.step_record import environment

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "hub"))
from server import HubServer  # type: ignore[import-not-found]

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from forked import Forked, command_line  # type: ignore[import-not-found]

SHORT = ("--batch-size", "16", "--device", "cpu", "--quiet")
PRUNE = ("--images", "shapes", "--image-limit", "32", "--steps-per-round", "1", "--final-steps", "2", *SHORT)
FINETUNE = ("--steps", "3", "--crop", "32", "--limit", "4", "--batch-size", "2", "--device", "cpu", "--quiet")
# Those that are told to end train longer, so that many signals meet a step.
LONGER = {
    "prune": ("--final-steps", "60", "--keep-rounds", "weights"),
    "finetune": ("--steps", "100", "--ema", "0.9", "--timing-steps", "0"),
}
# The demo at a size of seconds; all its processes are forked, since no option makes it as small.
SMALL_DEMO = """
import opentrans_cli.steps.demo.demo as demo
from dataclasses import replace
small = {"images": 32, "score_images": 16, "steps_per_round": 1, "final_steps": 2, "batch_size": 16, "crop": 32}
demo.SHORT = replace(demo.SHORT, **small, crops=6, finetune_steps=6, finetune_batch=4, scenes=6)
"""
TOLD = ("prune", "finetune", "eval", "demo")
KILLED = ("prune", "finetune", "push", "pull")
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
    lasts: dict[str, float] = field(default_factory=dict)  # verb -> seconds of a whole run that is killed

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

    def told(self, verb: str, target: Path) -> list[str]:
        """The command that is told to end."""
        if verb in LONGER:
            return [*self.command(verb, target, force=False), *LONGER[verb]]
        lines = {
            "eval": ("eval", self.source, "--limit", "120", "--device", "cpu", "--quiet", "-o", target),
            "demo": ("demo", "--quiet", "-o", target),
        }
        return [sys.executable, "-m", "opentrans_cli", *map(str, lines[verb])]


@dataclass
class Told:
    """What was seen of a command that was told to end, again and again."""

    seconds: float = 0.0  # of a whole run of a new interpreter
    forked: float = 0.0  # and of a forked one
    signals: Counter[str] = field(default_factory=Counter)
    kept: int = 0  # a state was there
    nothing: int = 0  # nothing was done yet that could be kept
    early: int = 0  # ended by Python itself, before the command line was read
    done: int = 0  # the signal came when the result was being written
    refused: int = 0  # the same command without --resume, tried where a state was
    complete: int = 0  # runs whose last process was ended by a signal, with the whole result there
    ends: int = 0  # runs that came to their end after one or more signals, to the same bytes
    wrong: list[str] = field(default_factory=list)

    def blame(self, what: str) -> None:
        """Note what was wrong, and say it at once, since a later fault of the benchmark would lose it."""
        self.wrong.append(what)
        print(f"WRONG {what}", file=sys.stderr, flush=True)


def result_of(verb: str, target: Path) -> object:
    """What is to be the same in every run."""
    if verb == "eval":
        report = json.loads(target.read_text())
        return {name: value for name, value in report.items() if name not in ("seconds_per_image", "environment")}
    if verb == "demo":
        report = json.loads((target / "report.json").read_text())
        ways = [{**row, "seconds_per_step": 0} for row in report["finetune_rows"]]
        bundles = sorted(path.parent for path in target.glob("*/manifest.json"))
        names = sorted(str(path.relative_to(target)) for path in target.rglob("*"))
        return report["rows"], ways, names, [open_bundle(bundle).digest for bundle in bundles]
    return {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def difference(verb: str, target: Path, wanted: object) -> str:
    """What is wrong with a result, "" if it is the wanted one."""
    try:
        return "" if result_of(verb, target) == wanted else "other bytes"
    except Exception as error:
        return f"no result: {error!r}"


def tell_to_end(bench: Bench, verb: str, kills: int, moment: random.Random) -> Told:
    """Interrupt a command `kills` times, and let it come to its end as often as it does in between, and at last."""
    found, whole = Told(), bench.work / f"told-{verb}" / "whole" / "out"
    whole.parent.mkdir(parents=True)
    if verb == "demo":
        begin(bench, bench.told(verb, whole), forked=True).communicate(LONGEST)
    else:
        found.seconds = bench.run(bench.told(verb, whole))
    wanted, number = result_of(verb, whole), 0
    begin(bench, ["", "", "", "--version"], forked=True).communicate(LONGEST)  # loads torch
    started = time.monotonic()
    begin(bench, bench.told(verb, whole.with_name("forked")), forked=True).communicate(LONGEST)
    found.forked = time.monotonic() - started
    while sum(found.signals.values()) < kills:
        number += 1
        target = bench.work / f"told-{verb}" / str(number) / "out"
        target.parent.mkdir()
        first = line = bench.told(verb, target)
        struck = 0
        while True:
            forked = verb == "demo" or moment.random() < 0.75
            process = begin(bench, line, forked=forked)
            name, ended = moment.choice(("SIGINT", "SIGTERM")), False
            due = moment.uniform(0, found.forked if forked else found.seconds)
            try:
                process.wait(due if sum(found.signals.values()) < kills else LONGEST)
                ended = True
            except subprocess.TimeoutExpired:
                try:
                    os.killpg(process.pid, getattr(signal, name))
                except ProcessLookupError:  # it has no group of its own yet
                    process.send_signal(getattr(signal, name))
            _, said = process.communicate(timeout=LONGEST)
            if ended:
                if process.returncode:
                    found.blame(f"{verb} {number}: {process.returncode} {said}")
                break
            struck += 1
            found.signals[name] += 1
            line = after_signal(bench, found, name, process.returncode, said, first, target, moment) or line
            print(f"{verb} {number}: {name} {process.returncode} {said.splitlines()[-1:]}", file=sys.stderr, flush=True)
            if target.exists() and not state_path(target).exists():
                if process.returncode:
                    found.complete += 1
                    again = begin(bench, first, forked=forked)
                    _, said = again.communicate(timeout=LONGEST)
                    if again.returncode != 1 or "already exists" not in said:
                        found.blame(f"{verb} {number}: not refused where the result is: {again.returncode} {said}")
                break
        if struck and (odd := difference(verb, target, wanted)):
            found.blame(f"{verb} {number}: {odd} after {struck} signals")
        elif struck:
            found.ends += 1
        shutil.rmtree(target.parent)
    return found


def begin(bench: Bench, line: list[str], *, forked: bool) -> Any:
    """A process with the methods of Popen, in a group of its own."""
    if forked:
        start = partial(command_line, before=SMALL_DEMO if line[3] == "demo" else "")
        return Forked(start, *line[3:], env=bench.env, session=True)
    return subprocess.Popen(
        line, env=bench.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def after_signal(
    bench: Bench, found: Told, name: str, code: int, said: str, first: list[str], target: Path, moment: random.Random
) -> list[str] | None:
    """Look at what a signal left; the command that goes on, None if it is the same one."""
    last, state = (said.splitlines() or [""])[-1], state_path(target)
    expected, by_python = {"SIGINT": (130, -signal.SIGINT), "SIGTERM": (75, -signal.SIGTERM)}[name]
    if code == 0 or "everything was written" in last:
        found.done += 1
        if code == 0 and "signals.Terminated" in said:
            found.blame(f"the signal was dropped: {said}")
        return None
    if code == by_python or (name == "SIGINT" and not last.startswith("opentrans: ")):
        found.early += 1
        return None
    if code == expected and last.endswith("the same command starts again"):
        found.nothing += 1  # while it was imported
        return None
    if code != expected or not last.startswith("opentrans: interrupted"):
        found.blame(f"{name}: {code} {said}")
        return None
    if not state.exists():
        found.nothing += 1
        if "before anything was kept" not in last:
            found.blame(f"no state: {last}")
        return None
    found.kept += 1
    again = shlex.split(last.partition("go on with: ")[2])
    if again[0] == "opentrans":  # as a forked one is called
        again = [*first[:3], *again[1:]]
    if again[-1:] != ["--resume"]:
        found.blame(f"no command: {last}")
        return None
    if moment.random() < 0.25:
        before = state.read_bytes()
        plain = subprocess.run(first, env=bench.env, capture_output=True, text=True, timeout=LONGEST)
        refused = plain.returncode == 1 and "a state of" in plain.stderr and state.read_bytes() == before
        found.refused += refused
        if not refused:
            found.blame(f"not refused: {plain.stderr}")
    return again


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


def prepared(work: Path, server: HubServer, timed: Sequence[str]) -> Bench:
    """timed: the verbs of which a whole run is made beforehand."""
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
    for verb in timed:
        bench.lasts[verb] = bench.run(bench.command(verb, work / f"whole-{verb}", force=False))
    return bench


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--told", type=int, default=50, help="SIGINT and SIGTERM, of all commands together")
    parser.add_argument("--kills", type=int, default=100, help="kill -9, of all commands together")
    parser.add_argument("--verbs", nargs="+", choices=TOLD, default=TOLD, help="those that get SIGINT and SIGTERM")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    # A shell ignores Ctrl-C in what it runs in the background, and so would all processes that are started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    moment = random.Random(arguments.seed)
    print(f"# Killed and told to end at random moments, {time.strftime('%Y-%m-%d')}\n")
    print(f"{environment(torch.device('cpu'))}\n")
    with tempfile.TemporaryDirectory() as folder, HubServer() as server:
        bench = prepared(Path(folder), server, KILLED if arguments.kills else ())
        told(bench, arguments.verbs, arguments.told, moment)
        if arguments.kills:
            killed(bench, arguments.kills, moment)


def told(bench: Bench, verbs: Sequence[str], kills: int, moment: random.Random) -> None:
    """Print the table of the signals after which a command goes on."""
    print("## SIGINT and SIGTERM\n")
    columns = [
        "command",
        "whole run, s",
        "forked, s",
        "SIGINT",
        "SIGTERM",
        "state kept",
        "nothing to keep yet",
        "ended by Python",
    ]
    columns += ["result just written", "plain restart refused", "ended by a signal with its result there"]
    columns += ["runs that ended in the same bytes", "wrong"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    wrong: list[str] = []
    for place, verb in enumerate(verbs):
        found = tell_to_end(bench, verb, kills // len(verbs) + (place < kills % len(verbs)), moment)
        counts = [found.kept, found.nothing, found.early, found.done, found.refused, found.complete, found.ends]
        counts.append(len(found.wrong))
        signals = f"{found.signals['SIGINT']} | {found.signals['SIGTERM']}"
        print(
            f"| {verb} | {found.seconds:.1f} | {found.forked:.1f} | {signals} | {' | '.join(map(str, counts))} |",
            flush=True,
        )
        wrong += found.wrong
    print("\nWrong: " + ("; ".join(wrong) if wrong else "nothing.") + "\n")


def killed(bench: Bench, kills: int, moment: random.Random) -> None:
    """Print the table of the processes that were killed."""
    print("## kill -9\n")
    print("| command | whole run, s | kills | struck while running | absent | whole | damaged | run again, whole |")
    print("|---|---|---|---|---|---|---|---|")
    found: list[str] = []
    pushed = bench.server.repos[REPO]
    for verb in KILLED:
        states: Counter[str] = Counter()
        struck, again = 0, []
        if verb == "pull":
            bench.server.repos[REPO] = pushed
        for number in range(kills // len(KILLED)):
            alive, state, after = trial(bench, verb, number, moment)
            struck += alive
            states[state.split(":")[0]] += 1
            again += [after] if after else []
            found += [f"{verb} {number}: {state}"] if state.startswith("damaged") else []
            print(f"{verb} {number}: {state} {after}", file=sys.stderr, flush=True)
        counts = " | ".join(str(states[name]) for name in ("absent", "whole", "damaged"))
        print(
            f"| {verb} | {bench.lasts[verb]:.1f} | {kills // len(KILLED)} | {struck} | {counts} | "
            f"{again.count('whole')} of {len(again)} |",
            flush=True,
        )
    print("\nDamaged: " + ("; ".join(found) if found else "none."))


if __name__ == "__main__":
    main()
