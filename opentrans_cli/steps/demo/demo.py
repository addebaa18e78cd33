"""demo: the whole pipeline on the embedded model and scenes, with controls, measured in one run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.files.records import json_bytes
from opentrans_cli.files.targets import check_folder_target, prepare_parent
from opentrans_cli.reporter import SILENT, Advance, Left, Reporter
from opentrans_cli.steps.analyze.analyze import analyze
from opentrans_cli.steps.analyze.result import AnalyzeResult
from opentrans_cli.steps.demo.pictures import PICTURES, draw_pictures
from opentrans_cli.steps.eval.evaluate import evaluate
from opentrans_cli.steps.finetune.finetune import FinetuneResult, finetune
from opentrans_cli.steps.prune.options import PruneOptions
from opentrans_cli.steps.prune.prune import prune
from opentrans_cli.steps.report.demo_page import SCENES
from opentrans_cli.steps.report.report import PAGE, report
from opentrans_cli.steps.sources import shared_clips
from opentrans_cli.steps.step_record import environment
from opentrans_cli.steps.transfer.framework import transfer_framework
from opentrans_cli.training.device import resolve_device

TOWERS = {
    "dense": "nothing pruned",
    "subnet": "what the embedding feels least, removed in rounds, distilled in each",
    "random": "random positions, not distilled (the paper's control)",
    "random_distilled": "random positions with the subnet's counts, distilled as long as the subnet",
}
_LAST_BLOCK = "layer4.0"
"""Of the embedded tower: what it gives can be kept on disk while the trunk is frozen."""

_FREEZING: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("no layer", {"freeze": "none"}),
    "trunk": ("the whole trunk, features kept on disk", {"freeze": "none", "prefix_end": _LAST_BLOCK}),
    "alpha": ("heavy tail, small alpha (the method)", {"freeze": "heavy"}),
    "alpha_opposite": ("light tail, large alpha (the opposite)", {"freeze": "light"}),
    "random": ("as many layers at random", {"freeze": "random"}),
}
"""Ways of freezing: what they are called in tables, and options of `finetune`."""


@dataclass(frozen=True)
class DemoSize:
    """How long the demo trains; both sizes run the same pipeline."""

    rate: float  # share of the remaining weights that a round removes
    images: int  # for distillation
    score_images: int  # used in each round to choose weights
    steps_per_round: int
    final_steps: int
    batch_size: int
    lr: float  # of distillation
    width: int | None  # channels of the head; None: the framework's own
    crop: int  # side of training crops in pixels
    crops: int  # so many fixed crops, one of a scene; 0: new ones all the time
    finetune_steps: int
    finetune_batch: int
    finetune_lr: float
    freezing: tuple[str, ...]  # ways of freezing the subnet; every tower is fine-tuned in the first one
    scenes: int  # scored


SHORT = DemoSize(
    rate=0.37,
    images=512,
    score_images=64,
    steps_per_round=2,
    final_steps=36,
    batch_size=32,
    lr=5e-3,
    width=16,
    crop=64,
    crops=160,
    finetune_steps=40,
    finetune_batch=8,
    finetune_lr=4e-3,
    freezing=("trunk",),
    scenes=60,
)
FULL = DemoSize(
    rate=0.1,
    images=4096,
    score_images=256,
    steps_per_round=16,
    final_steps=352,
    batch_size=64,
    lr=3e-3,
    width=None,
    crop=96,
    crops=0,
    finetune_steps=400,
    finetune_batch=16,
    finetune_lr=2e-3,
    freezing=("full", "alpha", "alpha_opposite", "random"),
    scenes=200,
)


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured; everything it made is in the folder `path`."""

    path: Path
    rows: tuple[dict[str, Any], ...]  # one per tower
    finetune_rows: tuple[dict[str, Any], ...]  # one per way of freezing
    settings: dict[str, Any]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The demo report of `artifacts.schema.json`."""
        return {
            "rows": list(self.rows),
            "finetune_rows": list(self.finetune_rows),
            "settings": self.settings,
            "seconds": self.seconds,
        }


def demo(
    *,
    out: Path,
    size: DemoSize = SHORT,
    sparsity: float = 0.9,
    seed: int = 0,
    device: str = "cpu",
    force: bool = False,
    reporter: Reporter = SILENT,
    on_row: Callable[[dict[str, Any]], None] = lambda row: None,
) -> DemoResult:
    """Prune, analyze, transfer, fine-tune and evaluate the tiny CLIP as four towers, and compare them.

    Every tower is fine-tuned for the same number of steps in the first way of freezing of `size`, and the subnet in the
    other ways as well. Bundles, pictures, report.json and report.html go into the new folder `out`. `on_row` gets each
    row of the two tables as soon as it is measured.
    """
    started = time.perf_counter()
    where = resolve_device(device)
    check_folder_target(out, force=force, foreign=_foreign)
    prepare_parent(out)
    stages = _Stages(len(TOWERS) + len(size.freezing), reporter)
    run = _Demo(out, size, sparsity=sparsity, seed=seed, device=device, stages=stages)
    rows, freezing = [], []
    with shared_clips():
        for name in TOWERS:
            with stages.next(name):
                rows.append(run.tower_row(name))
            on_row(rows[-1])
        freezing.append(run.freezing_row(size.freezing[0]))  # the subnet's own row above, with its cost
        for way in size.freezing[1:]:
            with stages.next(f"subnet, frozen: {way}"):
                freezing.append(run.freezing_row(way))
            on_row(freezing[-1])
        with stages.next("pictures"):
            bundles = {name: run.finetuned(name, size.freezing[0]) for name in TOWERS}
            draw_pictures(out, analysis=run.analysis, scenes=min(6, size.scenes), bundles=bundles)
    settings = {
        "full": size == FULL,
        "sparsity": sparsity,
        "seed": seed,
        **asdict(size),
        "environment": environment(where),
    }
    result = DemoResult(out, tuple(rows), tuple(freezing), settings, time.perf_counter() - started)
    (out / "report.json").write_bytes(json_bytes(result.to_json()))
    report(out, out=out / PAGE, force=True)
    return result


def _foreign(out: Path) -> list[str]:
    """Files in a folder that no demo made; the demo's bundles, logs and states begin with the name of a tower."""
    names = {path.name for path in out.iterdir()} - {*PICTURES, SCENES, "report.json", PAGE}
    return [name for name in names if not name.removeprefix(".").startswith(tuple(TOWERS))]


class _Stages:
    """The stages of a demo as its reporter shows them: bars are named after them, and steps say nothing else."""

    def __init__(self, count: int, reporter: Reporter) -> None:
        self._count, self._reporter = count, reporter
        self._number, self._title = 0, ""

    @contextmanager
    def next(self, title: str) -> Iterator[None]:
        """Inside the `with` block the next stage, called `title`, runs."""
        self._number += 1
        self._title = f"{self._number} of {self._count} · {title}"
        if title in TOWERS:
            self._reporter.say(f"{self._title}: {TOWERS[title]}")
        else:
            self._reporter.say(self._title)
        yield

    def say(self, text: str) -> None:
        """Say nothing."""

    @contextmanager
    def bar(self, title: str, total: int, *, done: int = 0, left: Left | None = None) -> Iterator[Advance]:
        """A bar with the stage in front of its title."""
        with self._reporter.bar(f"  {title}", total, done=done, left=left) as advance:
            yield advance


class _Demo:
    """The bundles of one demo and what was measured on them."""

    analysis: AnalyzeResult  # of the subnet

    def __init__(self, out: Path, size: DemoSize, *, sparsity: float, seed: int, device: str, stages: _Stages) -> None:
        self.out, self.size, self.sparsity, self.seed = out, size, sparsity, seed
        self.device, self.reporter = device, stages
        self._finetuned: dict[str, FinetuneResult] = {}
        self._reports: dict[str, dict[str, Any]] = {}

    def tower_row(self, name: str) -> dict[str, Any]:
        """Make a tower, fine-tune it in the first way of freezing, and return its figures."""
        self._prune(name)
        if name == "subnet":
            self.analysis = analyze(str(self.out / name), seed=self.seed, reporter=self.reporter)
        if self.size.width is not None:
            self._replace_head(name)
        scored = self._reports[self._finetune(name, self.size.freezing[0])]
        bundle = open_bundle(self.out / name)
        return {
            "name": name,
            "title": TOWERS[name],
            "sparsity": bundle.manifest.achieved_sparsity,
            "miou": scored["miou"],
            "miou_seen": scored["miou_seen"],
            "miou_unseen": scored["miou_unseen"],
            "params_kept": scored["params_kept"],
            "macs": scored["macs_kept"],
            "bundle_bytes": bundle.size_bytes,
        }

    def freezing_row(self, way: str) -> dict[str, Any]:
        """Figures of the subnet fine-tuned in one way of freezing."""
        key = self._finetune("subnet", way)
        cost, scored = self._finetuned[key].cost, self._reports[key]
        return {
            "name": way,
            "title": _FREEZING[way][0],
            "miou": scored["miou"],
            "miou_seen": scored["miou_seen"],
            "miou_unseen": scored["miou_unseen"],
            "training_macs": cost["total"],
            "full_training_macs": cost["dense_total"],
            "training_macs_unmasked": cost["unmasked_total"],
            "frozen_layers": len(cost["frozen_layers"]),
            "seconds_per_step": self._finetuned[key].seconds_per_step,
        }

    def finetuned(self, tower: str, way: str) -> Path:
        """The bundle of a tower fine-tuned in one way of freezing."""
        return self.out / f"{tower}-finetuned-{way}"

    def _prune(self, name: str) -> None:
        distilled: dict[str, Any] = {
            "images": "shapes",
            "image_limit": self.size.images,
            "score_images": self.size.score_images,
            "rate": self.size.rate,
            "steps_per_round": self.size.steps_per_round,
            "final_steps": self.size.final_steps,
            "batch_size": self.size.batch_size,
            "lr": self.size.lr,
        }
        own: dict[str, dict[str, Any]] = {
            "dense": {"sparsity": 0.0},
            "subnet": distilled,
            "random": {"random": True},
            "random_distilled": {"random": True, "like": str(self.out / "subnet"), **distilled},
        }
        chosen = PruneOptions("tiny", **{"sparsity": self.sparsity, "seed": self.seed, **own[name]})
        prune(**vars(chosen), out=self.out / name, device=self.device, force=True, reporter=self.reporter)

    def _replace_head(self, name: str) -> None:
        """A segmentor around the tower with a head of the demo's width, at another place."""
        transfer_framework(
            self.out / name,
            to="deeplabv3",
            out=self.out / f"{name}-transferred",
            options={"width": self.size.width},
            seed=self.seed,
            force=True,
        )

    def _finetune(self, tower: str, way: str) -> str:
        """Fine-tune and score, once for each tower and way of freezing; returns the key of the figures."""
        key = f"{tower}-{way}"
        if key in self._finetuned:
            return key
        size, target = self.size, self.finetuned(tower, way)
        features = self.out / f"{tower}-features"
        given: dict[str, Any] = {
            **_FREEZING[way][1],
            "steps": size.finetune_steps,
            "batch_size": size.finetune_batch,
            "lr": size.finetune_lr,
            "crop": size.crop,
            "seed": self.seed,
        }
        if size.crops:
            given |= {"limit": size.crops, "views": 1}
        if "prefix_end" in given:
            given["cache_features"] = features
        self._finetuned[key] = finetune(
            self.out / (tower if size.width is None else f"{tower}-transferred"),
            out=target,
            **given,
            timing_steps=0,
            device=self.device,
            force=True,
            reporter=self.reporter,
        )
        if features.exists():
            shutil.rmtree(features)
        data = DatasetOptions(split="val", limit=size.scenes)
        self._reports[key] = evaluate(str(target), **vars(data), device=self.device, reporter=self.reporter).report
        return key
