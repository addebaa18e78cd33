"""The report of criteria.py: tables of its runs, and how far two independent Fisher estimates agree."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from statistics import mean, stdev
from typing import Any

import torch
import torch.nn.functional as F

from opentrans_cli.clip.layers import arrays, prunable_layers
from opentrans_cli.clip.source import load_clip
from opentrans_cli.datasets.views import SceneViews, Views
from opentrans_cli.sparsity.criteria.base import Evidence
from opentrans_cli.sparsity.criteria.fisher import fisher_scores
from opentrans_cli.sparsity.patterns.base import pattern_for
from opentrans_cli.steps.prune.loader import ImageLoader
from opentrans_cli.steps.step_record import environment
from opentrans_cli.training.processes.distributed import World

Entry = dict[str, Any]


def spread(values: Sequence[float]) -> str:
    """Mean, standard deviation, and every value."""
    deviation = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"**{mean(values):.1f}**{deviation} ({', '.join(f'{value:.1f}' for value in values)})"


def of_row(entries: Sequence[Entry], row: str, sparsity: float) -> list[Entry]:
    found = [entry for entry in entries if entry["row"] == row and abs(entry["sparsity"] - sparsity) < 1e-3]
    return sorted(found, key=lambda entry: entry["seed"])


def grid(entries: Sequence[Entry], figure: str) -> list[str]:
    """A row a way of choosing, a column a sparsity."""
    rows = [row for row in dict.fromkeys(entry["row"] for entry in entries) if row != "dense"]
    lines = ["| | 50 % | 80 % | 90 % | 95 % |", "|---|---|---|---|---|"]
    for row in rows:
        cells = [of_row(entries, row, sparsity) for sparsity in (0.5, 0.8, 0.9, 0.95)]
        lines.append(f"| {row} | {' | '.join(spread([e[figure] for e in cell]) if cell else '-' for cell in cells)} |")
    return lines


def leads(entries: Sequence[Entry], figure: str) -> list[str]:
    """Fisher beside dense, magnitude and the random controls, seed by seed."""
    lines = []
    dense = {entry["seed"]: entry[figure] for entry in entries if entry["row"] == "dense"}
    for schedule in ("one-shot", "rounds"):
        for sparsity in (0.5, 0.8, 0.9, 0.95):
            ours = {entry["seed"]: entry[figure] for entry in of_row(entries, f"fisher, {schedule}", sparsity)}
            parts = []
            for name, row in (
                ("dense", None),
                (f"magnitude, {schedule}", f"magnitude, {schedule}"),
                ("random with fisher's counts", "random, fisher's counts, distilled"),
                ("uniform random", "random, uniform, distilled"),
            ):
                theirs = dense if row is None else {e["seed"]: e[figure] for e in of_row(entries, row, sparsity)}
                both = sorted(ours.keys() & theirs.keys())
                if both:
                    gaps = [ours[seed] - theirs[seed] for seed in both]
                    parts.append(f"{name} {mean(gaps):+.1f} (least {min(gaps):+.1f})")
            lines.append(f"- {schedule}, {100 * sparsity:g} %: against {'; '.join(parts)}")
    return lines


def ablation(entries: Sequence[Entry]) -> list[str]:
    lines = ["| at 90 % | zero-shot | distillation loss | mIoU of the read-out |", "|---|---|---|---|"]
    for row in dict.fromkeys(entry["row"] for entry in entries):
        mine = of_row(entries, row, 0.9)
        loss = ", ".join(f"{entry['loss']:.4f}" for entry in mine)
        cells = [spread([e["zero_shot"] for e in mine]), loss, spread([e["readout_miou"] for e in mine])]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return lines


def agreement() -> list[str]:
    """Two estimates from disjoint images and probes: how alike are scores, and the masks they give at 90 %?"""
    clip = load_clip("tiny")
    visual, layers = clip.model.visual, prunable_layers(clip.model.visual)
    views = Views(SceneViews(size=64, limit=8192))
    for _ in views.scan():
        pass
    loader = ImageLoader(views, clip.preprocess, world=World(torch.device("cpu")))
    pattern = pattern_for("unstructured", clip.model_cfg)
    lines = [
        "| images | probes | correlation of log scores | kept weights in common | seconds |",
        "|---|---|---|---|---|",
    ]

    def readout(images: torch.Tensor) -> torch.Tensor:
        return F.normalize(visual(images), dim=-1)[:, None]

    for count, probes in ((64, 1), (256, 1), (256, 4), (1024, 1), (4096, 1)):
        started = time.perf_counter()
        halves = [list(loader.scoring(2 * count, seed=0))[part::2] for part in (0, 1)]
        scores = [
            fisher_scores(Evidence(visual, layers, readout, _batches(half), seed=seed, probes=probes))
            for seed, half in enumerate(halves)
        ]
        seconds = (time.perf_counter() - started) / 2
        flat = torch.stack([torch.cat([part.flatten() for part in score.values()]) for score in scores])
        masks = [pattern.masks(arrays(score), 0.9) for score in scores]
        kept = sum(int(mask.sum()) for mask in masks[0].values())
        common = sum(int((masks[0][layer] & masks[1][layer]).sum()) for layer in layers)
        correlation = torch.corrcoef(flat.clamp_min(1e-30).log())[0, 1].item()
        lines.append(f"| {count} | {probes} | {correlation:.3f} | {100 * common / kept:.1f} % | {seconds:.1f} |")
    return lines


def _batches(half: list[tuple[int, torch.Tensor]]) -> Callable[[], Any]:
    return lambda: iter(half)


def report(entries: list[Entry], settings: dict[str, Any]) -> str:
    """The whole report as Markdown, without a reading of it."""
    main = [entry for entry in entries if entry["key"].startswith("main/")]
    rest = [entry for entry in entries if entry["key"].startswith("ablation/")]
    dense = [entry for entry in main if entry["row"] == "dense"]
    parts = [
        f"# Criteria and schedules on the embedded model, {time.strftime('%Y-%m-%d')}",
        f"{environment(torch.device('cpu'))}",
        f"Settings: {json.dumps(settings)}. Mean ± standard deviation (each seed), in %.",
        "## Zero-shot accuracy before any fine-tuning",
        f"Top-1 over 64 objects on held-out scenes. Dense: {spread([entry['zero_shot'] for entry in dense])}.",
        "\n".join(grid(main, "zero_shot")),
        "Fisher's lead in points, mean over the seeds (least of them):",
        "\n".join(leads(main, "zero_shot")),
        "## mIoU after equal fine-tuning",
        f"Dense: {spread([entry['miou'] for entry in dense])}.",
        "\n".join(grid(main, "miou")),
        "Fisher's lead in points:",
        "\n".join(leads(main, "miou")),
        "## What the Fisher criterion is sensitive to",
        "\n".join(ablation(rest)),
        "Two independent estimates on the dense tower:",
        "\n".join(agreement()),
    ]
    return "\n\n".join(parts) + "\n"
