"""One mask, three frameworks: the subnet beside its random control in each, the paper's Table 1 in miniature.

    python benchmarks/frameworks.py --work DIR > benchmarks/results/DATE-frameworks.md

For each seed the embedded tower is pruned to 90 % once (Fisher, label-free distillation on `shapes`), and once more at
random positions with the same count in every layer and the same distillation: the control. Both subnets, and the dense
tower, then go into every framework and are fine-tuned alike on the seen classes of `shapes`. Scored on the validation
scenes. Nothing but the mask and the values it left differs between the rows of a framework. A bundle that is in DIR
already is not made again. The dense tower, which has one seed alone, shows where the ceiling is.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
from own_command import run

from opentrans_cli.steps.step_record import environment

SPARSITY = "0.9"
TOWERS = ("dense", "subnet", "random control")
PRUNE = ("--images", "shapes", "--image-limit", "1024", "--steps-per-round", "4", "--final-steps", "128")
DECODER = ("--option", "queries=32", "--option", "encoder_layers=2", "--option", "decoder_layers=3")


@dataclass(frozen=True)
class Training:
    """How one framework is trained, the same for every tower."""

    transfer: tuple[str, ...]
    finetune: tuple[str, ...]


FRAMEWORKS = {
    "deeplabv3": Training((), ("--steps", "300", "--batch-size", "8", "--lr", "2e-3")),
    "han": Training(DECODER, ("--steps", "800", "--batch-size", "8", "--lr", "5e-4")),
    "fcclip": Training(DECODER, ("--steps", "400", "--batch-size", "8", "--lr", "1e-3")),
}


def pruned(work: Path, seed: int) -> dict[str, Path]:
    """The bundles of one seed, by tower."""
    places = {name: work / f"{name.replace(' ', '-')}-{seed}" for name in TOWERS}
    if not places["dense"].exists():
        run("prune", "tiny", "-s", 0, "--seed", seed, "-o", places["dense"], "--quiet")
    if not places["subnet"].exists():
        run("prune", "tiny", "-s", SPARSITY, *PRUNE, "--seed", seed, "-o", places["subnet"], "--quiet")
    if not places["random control"].exists():
        control = ("--random", "--like", places["subnet"])
        run(
            "prune", "tiny", "-s", SPARSITY, *control, *PRUNE, "--seed", seed, "-o", places["random control"], "--quiet"
        )
    return places


def scored(work: Path, framework: str, tower: str, bundle: Path, seed: int, *, crop: int) -> dict[str, float]:
    """mIoU of one framework around one tower, after fine-tuning."""
    name = f"{framework}-{tower.replace(' ', '-')}-{seed}"
    fresh, trained, report = work / f"{name}-fresh", work / f"{name}-trained", work / f"{name}.json"
    training = FRAMEWORKS[framework]
    if not report.exists():
        if not fresh.exists():
            run("transfer", bundle, "--to", framework, *training.transfer, "--seed", seed, "-o", fresh, "--quiet")
        if not trained.exists():
            options = (*training.finetune, "--crop", crop, "--seed", seed)
            run("finetune", fresh, *options, "-o", trained, "--quiet")
        run("eval", trained, "--quiet", "-o", report)
    found = json.loads(report.read_text())
    return {key: 100 * found[key] for key in ("miou", "miou_seen", "miou_unseen")}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    seeds = range(arguments.seeds)
    with ThreadPoolExecutor(arguments.processes) as pool:
        bundles = dict(zip(seeds, pool.map(lambda seed: pruned(arguments.work, seed), seeds), strict=True))
        jobs = [
            (seed, framework, tower)
            for seed in seeds
            for framework in FRAMEWORKS
            for tower in TOWERS
            if tower != "dense" or seed == 0  # not part of the comparison: one seed says where the ceiling is
        ]

        def job(what: tuple[int, str, str]) -> dict[str, float]:
            seed, framework, tower = what
            result = scored(arguments.work, framework, tower, bundles[seed][tower], seed, crop=arguments.crop)
            print(*what, result, file=sys.stderr, flush=True)
            return result

        results = dict(zip(jobs, pool.map(job, jobs), strict=True))
    print(f"# One mask, three frameworks, {time.strftime('%Y-%m-%d')}\n\n{environment(torch.device('cpu'))}\n")
    print(f"Sparsity {SPARSITY}, crops of {arguments.crop} pixels; prune {' '.join(PRUNE)}.\n")
    for framework, training in FRAMEWORKS.items():
        print(f"- {framework}: {' '.join((*training.transfer, *training.finetune))}")
    print("\n| framework | tower | mIoU, every seed | mean | seen | unseen |\n|---|---|---|---|---|---|")
    for framework in FRAMEWORKS:
        for tower in TOWERS:
            rows = [results[seed, framework, tower] for seed in seeds if (seed, framework, tower) in results]
            every = " ".join(f"{row['miou']:.1f}" for row in rows)
            means = " | ".join(f"{mean(row[key] for row in rows):.1f}" for key in ("miou", "miou_seen", "miou_unseen"))
            print(f"| {framework} | {tower} | {every} | {means} |")
    print("\n| framework | subnet ahead of its control, every seed | mean |\n|---|---|---|")
    for framework in FRAMEWORKS:
        leads = [
            results[seed, framework, "subnet"]["miou"] - results[seed, framework, "random control"]["miou"]
            for seed in seeds
        ]
        print(f"| {framework} | {' '.join(f'{lead:+.1f}' for lead in leads)} | {mean(leads):+.1f} |")


if __name__ == "__main__":
    main()
