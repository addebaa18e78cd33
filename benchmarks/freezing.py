"""What each way of freezing costs and what it leaves of the mIoU: full, alpha, opposite, random, prefix, model scope.

    python benchmarks/freezing.py --work DIR [--msrc FOLDER] > benchmarks/results/DATE-freezing.md

For each data set and seed the embedded tower is pruned to 90 % once (Fisher, label-free distillation on the data set's
own images) and fine-tuned as DeepLabV3 in every way, all with the same crops. MACs are counted, see docs/method.md;
seconds are the median of a run's own steps, of runs that shared the machine two by two, each on one thread. A bundle
that is in DIR already is not made again. FOLDER holds images/, annotations/, classes.txt, train.txt and test.txt.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from own_command import run

from opentrans_cli.steps.step_record import environment

# As `opentrans demo` prunes.
PRUNE = (
    *("--image-limit", "4096", "--score-images", "256", "--steps-per-round", "16", "--final-steps", "352"),
    *("--batch-size", "64", "--lr", "3e-3"),
)
FEATURES = "FEATURES"  # stands for a folder of the run's own
WAYS: dict[str, tuple[str, ...]] = {
    "full": ("--freeze", "none"),
    "alpha": ("--freeze", "heavy"),
    "opposite": ("--freeze", "light"),
    "random": ("--freeze", "random"),
    "alpha + prefix": ("--freeze", "heavy", "--freeze-prefix"),
    "alpha + prefix + model": (
        *("--freeze", "heavy", "--freeze-prefix", "--freeze-scope", "model"),
        *("--warmup-steps", "100"),  # a fresh head has no spectra to go by
    ),
}


# The trunk runs once a crop: what is left is the head, here a narrow one.
TRUNK_CACHED = ("--freeze", "none", "--prefix-end", "layer4.0", "--cache-features", FEATURES)
NARROW_WAYS: dict[str, tuple[str, ...]] = {
    "full": ("--freeze", "none"),
    "trunk cached": (*TRUNK_CACHED, "--views", "8"),
    "trunk cached, 1024 crops": (*TRUNK_CACHED, "--views", "1", "--limit", "1024"),
}


@dataclass(frozen=True)
class Data:
    """One comparison: what prune, transfer, finetune and eval are told."""

    subnet: str  # whose subnets; equal names are pruned once
    prune: tuple[str, ...]
    finetune: tuple[str, ...]
    evaluate: tuple[str, ...]
    transfer: tuple[str, ...] = ()
    ways: dict[str, tuple[str, ...]] = field(default_factory=lambda: dict(WAYS))


def data_sets(msrc: Path | None) -> dict[str, Data]:
    """What is compared on what."""
    shapes = ("--images", "shapes"), ("--steps", "400"), ("--limit", "200")
    found = {
        "shapes": Data("shapes", *shapes),
        "shapes-narrow-head": Data("shapes", *shapes, transfer=("--option", "width=16"), ways=NARROW_WAYS),
    }
    if msrc is not None:
        folder = ("--dataset", "folder", "--images", msrc / "images", "--labels", msrc / "annotations")
        common = tuple(map(str, (*folder, "--classes", msrc / "classes.txt", "--ignore", 255)))
        found["msrc"] = Data(
            "msrc",
            ("--images", str(msrc / "images")),
            (*common, "--split-list", str(msrc / "train.txt"), "--steps", "400", "--crop", "160", "--batch-size", "8"),
            (*common, "--split-list", str(msrc / "test.txt")),
        )
    return found


def segmentor(work: Path, name: str, data: Data, seed: int) -> Path:
    """The pruned tower of one comparison and seed, with its alpha report; in a framework if that has options."""
    bundle = work / f"{data.subnet}-subnet-{seed}"
    if not bundle.exists():
        run("prune", "tiny", "-s", "0.9", *data.prune, *PRUNE, "--seed", seed, "-o", bundle, "--quiet")
        run("analyze", bundle, "--quiet")
    if not data.transfer:
        return bundle
    fresh = work / f"{name}-fresh-{seed}"
    if not fresh.exists():
        run("transfer", bundle, "--to", "deeplabv3", *data.transfer, "--seed", seed, "-o", fresh, "--quiet")
    return fresh


def figures(work: Path, name: str, data: Data, way: str, seed: int, bundle: Path) -> dict[str, Any]:
    """Cost, seconds and mIoU of one fine-tuning."""
    stem = f"{name}-{'-'.join(way.replace('+', '').replace(',', '').split())}-{seed}"
    trained, result, report = work / stem, work / f"{stem}.run.json", work / f"{stem}.json"
    if not report.exists():
        if not (trained.exists() and result.exists()):
            chosen = [str(work / f"{stem}-features") if word == FEATURES else word for word in data.ways[way]]
            options = (*data.finetune, *chosen, "--seed", seed, "--timing-steps", 0)
            result.write_text(run("finetune", bundle, *options, "-o", trained, "--quiet", "--json"))
        run("eval", trained, *data.evaluate, "--quiet", "-o", report)
    document, scored = json.loads(result.read_text()), json.loads(report.read_text())
    cost = document["cost"]
    return {
        "miou": 100 * scored["miou"],
        "total": cost["total"],
        "unmasked": cost["unmasked_total"],
        "dense": cost["dense_total"],
        "frozen": len(cost["frozen_layers"]),
        "seconds": document["seconds_per_step"],
    }


def table(rows: dict[tuple[str, int], dict[str, Any]], ways: tuple[str, ...], seeds: range) -> None:
    """One data set, a line for each way."""
    print(
        "| way | mIoU, every seed | mean | against full | layers frozen | GMACs, zeros skipped | saved "
        "| GMACs, zeros multiplied | saved | s a step | of full |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    full = [rows["full", seed] for seed in seeds]
    for way in ways:
        own = [rows[way, seed] for seed in seeds]
        lead = mean(row["miou"] for row in own) - mean(row["miou"] for row in full)
        saved = {key: 100 * (1 - mean(row[key] / row["dense"] for row in own)) for key in ("total", "unmasked")}
        ratio = mean(row["seconds"] / other["seconds"] for row, other in zip(own, full, strict=True))
        cells = (
            " ".join(f"{row['miou']:.1f}" for row in own),
            f"{mean(row['miou'] for row in own):.1f}",
            f"{lead:+.1f}",
            " ".join(str(row["frozen"]) for row in own),
            f"{mean(row['total'] for row in own) / 1e9:,.0f}",
            f"{saved['total']:.1f} %",
            f"{mean(row['unmasked'] for row in own) / 1e9:,.0f}",
            f"{saved['unmasked']:.1f} %",
            f"{mean(row['seconds'] for row in own):.3f}",
            f"{ratio:.2f}",
        )
        print(f"| {way} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--msrc", type=Path)
    parser.add_argument("--only", help="one comparison, by name; a later run without it finds what this one made")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    seeds, found = range(arguments.seeds), data_sets(arguments.msrc)
    print(f"# Ways of freezing, {time.strftime('%Y-%m-%d')}\n\n{environment(torch.device('cpu'))}\n")
    with ThreadPoolExecutor(arguments.processes) as pool:
        for name, data in found.items():
            if arguments.only not in (None, name):
                continue
            make = [pool.submit(segmentor, arguments.work, name, data, seed) for seed in seeds]
            bundles = [job.result() for job in make]
            jobs = {
                (way, seed): pool.submit(figures, arguments.work, name, data, way, seed, bundles[seed])
                for seed in seeds
                for way in data.ways
            }
            rows = {}
            for key, job in jobs.items():
                rows[key] = job.result()
                print(name, *key, rows[key], file=sys.stderr, flush=True)
            told = [*(("transfer --to deeplabv3", *data.transfer, "|") if data.transfer else ()), "finetune"]
            print(f"\n## {name}\n\n`{' '.join([*told, *(Path(word).name for word in data.finetune)])}`\n")
            table(rows, tuple(data.ways), seeds)
    print("\nOptions:\n")
    for way, options in (WAYS | NARROW_WAYS).items():
        print(f"- {way}: {' '.join(options)}")


if __name__ == "__main__":
    main()
