"""Which weights to keep: criteria, schedules and random controls on the embedded model, at equal distillation.

    python benchmarks/criteria.py --work criteria-runs --out benchmarks/results/DATE-criteria.md

Two tables. *Main*: criterion x schedule and the controls at four sparsities and five seeds, with zero-shot accuracy
before any fine-tuning and mIoU after equal fine-tuning. *Ablation*: what the Fisher criterion is sensitive to, at 90 %
and three seeds. Every run is `prune` (and `finetune`, `eval`) as a user calls it; what the table has beyond the command
line (dense read-outs) is registered as a criterion of this script. Finished runs are kept
in --work/results.jsonl and not made again. One thread a run, --jobs runs at a time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opentrans_cli.clip.features import dense_embedding, stage_features
from opentrans_cli.clip.source import load_clip
from opentrans_cli.clip.text import text_embeddings
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.datasets.scenes import CLASSES, OBJECTS, render_scene
from opentrans_cli.datasets.streams import Stream
from opentrans_cli.reporter import SILENT
from opentrans_cli.sparsity.criteria import CRITERIA
from opentrans_cli.sparsity.criteria.base import Criterion, Evidence
from opentrans_cli.sparsity.criteria.fisher import fisher_scores
from opentrans_cli.steps.eval.evaluate import evaluate
from opentrans_cli.steps.finetune.finetune import finetune
from opentrans_cli.steps.finetune.options import FinetuneOptions
from opentrans_cli.steps.prune.options import PruneOptions
from opentrans_cli.steps.prune.prune import prune
from opentrans_cli.steps.sources import load_tower

STEPS = 192  # of distillation, in every row but the undistilled
ROUND_STEPS = 4
LR = 3e-3
FINETUNE_STEPS = 40
SCENES = 60  # scored
ZERO_SHOT_SCENES, ZERO_SHOT_SEED = 2048, 20_000_000

Job = dict[str, Any]


# Criteria that are only here for comparison.


def dense_readout(visual: nn.Module, images: Tensor) -> Tensor:
    """The embedding of every cell of layer4, unit vectors (B, P, D)."""
    cells = dense_embedding(visual, stage_features(visual, images)["layer4"])
    return F.normalize(cells, dim=1).flatten(2).transpose(1, 2)


def fisher_dense(evidence: Evidence) -> dict[str, Tensor]:
    return fisher_scores(replace(evidence, readout=lambda images: dense_readout(evidence.visual, images)))


def fisher_both(evidence: Evidence) -> dict[str, Tensor]:
    """Pooled and dense embeddings, each with the same weight altogether."""

    def both(images: Tensor) -> Tensor:
        dense = dense_readout(evidence.visual, images)
        return torch.cat([evidence.readout(images), dense / dense.shape[1] ** 0.5], 1)

    return fisher_scores(replace(evidence, readout=both))


FISHER_DENSE = Criterion("fisher-dense", needs_images=True, score=fisher_dense)
FISHER_BOTH = Criterion("fisher-both", needs_images=True, score=fisher_both)
CRITERIA.targets |= {
    "fisher-dense": f"{__name__}:FISHER_DENSE",
    "fisher-both": f"{__name__}:FISHER_BOTH",
}


# What is measured.


@cache
def zero_shot_material() -> tuple[Tensor, Tensor, Tensor]:
    """Normalised images with one object each, its index, and the text embeddings of all objects."""
    clip = load_clip("tiny")
    scenes = [render_scene(Stream(ZERO_SHOT_SEED, index), size=64, objects=(1, 1)) for index in range(ZERO_SHOT_SCENES)]
    scenes = [scene for scene in scenes if scene.objects]
    images = clip.preprocess.normalise(torch.from_numpy(np.stack([scene.image for scene in scenes])))
    text = text_embeddings(clip.model, clip.tokenizer, CLASSES)[: len(OBJECTS)]
    return images, torch.tensor([scene.objects[0] for scene in scenes]), text


@torch.no_grad()
def zero_shot(bundle: Path) -> float:
    """Top-1 over the 64 objects, in %."""
    images, truth, text = zero_shot_material()
    visual = load_tower(str(bundle), SILENT).visual
    embedded = torch.cat([visual(part) for part in images.split(256)])
    return 100 * ((embedded @ text.T).argmax(1) == truth).float().mean().item()


def options_of(job: Job) -> PruneOptions:
    schedule, sparsity = job["schedule"], job["sparsity"]
    given: dict[str, Any] = {
        "source": "tiny",
        "sparsity": sparsity,
        "seed": job["seed"],
        "lr": LR,
        "schedule": schedule,
    }
    if job.get("distilled", True):
        given |= {"images": "shapes", "steps_per_round": ROUND_STEPS, "final_steps": STEPS, "score_images": 256}
    if job["criterion"].startswith("random"):
        given |= {"random": True, "criterion": job["criterion"].partition(" ")[2] or None}
    else:
        given["criterion"] = job["criterion"]
    options = PruneOptions(**{**given, **job.get("options", {})})
    if schedule == "rounds" and job.get("distilled", True):
        from opentrans_cli.sparsity.schedule import schedule as sparsities

        rounds = len(sparsities("rounds", sparsity, rate=options.rate))
        options = replace(options, final_steps=STEPS - (rounds - 1) * ROUND_STEPS)
    return options


def run(job: Job, work: Path) -> Job:
    """Prune, measure, and where asked fine-tune and measure."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    folder = work / job["key"].replace("/", "_")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    result = prune(**vars(options_of(job)), out=folder / "b", device="cpu")
    figures: Job = {"zero_shot": zero_shot(folder / "b"), "loss": result.distillation_loss, "sparsity": result.sparsity}
    data = DatasetOptions(split="val", limit=SCENES)
    if not job["finetune"]:
        figures["readout_miou"] = 100 * evaluate(str(folder / "b"), **vars(data), device="cpu").report["miou"]
    else:
        tuning = FinetuneOptions(steps=FINETUNE_STEPS, freeze="none", seed=job["seed"])
        finetune(folder / "b", out=folder / "f", **vars(tuning), device="cpu")
        report = evaluate(str(folder / "f"), **vars(data), device="cpu").report
        figures |= {"miou": 100 * report["miou"], "miou_unseen": 100 * report["miou_unseen"]}
    shutil.rmtree(folder)
    return {**job, **figures, "seconds": time.perf_counter() - started}


def main_jobs() -> Iterator[Job]:
    """Seeds outside, 90 % first, so that a run that is stopped early has whole rows."""
    for seed in range(5):
        dense = {"criterion": "magnitude", "schedule": "one-shot", "distilled": False, "sparsity": 0.0}
        yield {"key": f"main/dense/{seed}", "row": "dense", **dense, "seed": seed, "finetune": True}
        for sparsity in (0.9, 0.8, 0.95, 0.5):
            for criterion in ("magnitude", "fisher"):
                for schedule in ("one-shot", "rounds"):
                    yield _job("main", f"{criterion}, {schedule}", criterion, schedule, sparsity, seed)
            for row, criterion, pattern in (
                ("random, uniform, distilled", "random magnitude", "layerwise"),
                ("random, fisher's counts, distilled", "random fisher", "unstructured"),
            ):
                yield _job("main", row, criterion, "one-shot", sparsity, seed, options={"pattern": pattern})
            plain = {"options": {"pattern": "layerwise"}, "distilled": False}
            yield _job(
                "main", "random, uniform, not distilled", "random magnitude", "one-shot", sparsity, seed, **plain
            )


def _job(table: str, row: str, criterion: str, schedule: str, sparsity: float, seed: int, **more: Any) -> Job:
    key = f"{table}/{row}/{sparsity}/{seed}"
    job = {"key": key, "row": row, "criterion": criterion, "schedule": schedule, "sparsity": sparsity, "seed": seed}
    return {**job, "finetune": table == "main", **more}


ABLATIONS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("magnitude", "magnitude", "one-shot", {}),
    ("magnitude, BatchNorm folded in", "folded", "one-shot", {}),
    ("wanda", "wanda", "one-shot", {}),
    ("taylor", "taylor", "one-shot", {}),
    ("fisher, 64 images", "fisher", "one-shot", {"score_images": 64}),
    ("fisher, 256 images", "fisher", "one-shot", {"score_images": 256}),
    ("fisher, 1024 images", "fisher", "one-shot", {"score_images": 1024}),
    ("fisher, 4096 images", "fisher", "one-shot", {"score_images": 4096}),
    ("fisher, 256 images, 4 probes", "fisher", "one-shot", {"score_images": 256, "probes": 4}),
    ("fisher of dense embeddings, 1024 images", "fisher-dense", "one-shot", {"score_images": 1024}),
    ("fisher of pooled and dense, 1024 images", "fisher-both", "one-shot", {"score_images": 1024}),
    ("fisher, 4 rounds", "fisher", "rounds", {"rate": 0.44}),
    ("fisher, 9 rounds", "fisher", "rounds", {"rate": 0.23}),
    ("fisher, 22 rounds", "fisher", "rounds", {}),
    ("fisher, cubic, 10 rounds", "fisher", "cubic", {"final_steps": STEPS - 9 * ROUND_STEPS}),
    ("magnitude, 9 rounds", "magnitude", "rounds", {"rate": 0.23}),
)


def ablation_jobs() -> Iterator[Job]:
    for seed in range(3):
        for row, criterion, schedule, options in ABLATIONS:
            yield _job("ablation", row, criterion, schedule, 0.9, seed, options=options)


# Running and reporting.


def finished(path: Path) -> dict[str, Job]:
    lines = path.read_text().splitlines() if path.exists() else []
    return {entry["key"]: entry for entry in map(json.loads, lines)}


def _run(arguments: tuple[Job, Path]) -> Job:
    return run(*arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--table", choices=["main", "ablation"])
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    log = args.work / "results.jsonl"
    done = finished(log)
    jobs = [*(main_jobs() if args.table != "ablation" else ()), *(ablation_jobs() if args.table != "main" else ())]
    todo = [(job, args.work) for job in jobs if job["key"] not in done]
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool, log.open("a") as file:
        for entry in pool.imap_unordered(_run, todo):
            file.write(json.dumps(entry) + "\n")
            file.flush()
            print(
                entry["key"],
                f"{entry['zero_shot']:.1f} {entry.get('miou', 0):.1f} {entry['seconds']:.0f} s",
                flush=True,
            )
    if args.out is not None:
        from criteria_report import report

        settings = {"distillation_steps": STEPS, "steps_per_round": ROUND_STEPS, "lr": LR, "batch_size": 64}
        settings |= {"finetune_steps": FINETUNE_STEPS, "scenes_scored": SCENES}
        args.out.write_text(report(list(finished(log).values()), settings))


if __name__ == "__main__":
    main()
