"""demo: the whole pipeline on the embedded model and scenes, with controls, measured in one run."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.files.records import json_bytes
from opentrans_cli.files.targets import check_folder_target, prepare_parent
from opentrans_cli.reporter import SILENT, Reporter
from opentrans_cli.steps.analyze.analyze import analyze
from opentrans_cli.steps.analyze.result import AnalyzeResult
from opentrans_cli.steps.demo.pictures import draw_pictures
from opentrans_cli.steps.eval.evaluate import evaluate
from opentrans_cli.steps.finetune.finetune import FinetuneResult, finetune
from opentrans_cli.steps.finetune.options import FinetuneOptions
from opentrans_cli.steps.prune.options import PruneOptions
from opentrans_cli.steps.prune.prune import prune
from opentrans_cli.steps.sources import shared_clips
from opentrans_cli.steps.step_record import environment
from opentrans_cli.training.device import resolve_device

TOWERS = {
    "dense": "nothing pruned",
    "subnet": "what the embedding feels least, removed in rounds, distilled in each",
    "random": "random positions, not distilled (the paper's control)",
    "random_distilled": "random positions with the subnet's counts, distilled as long as the subnet",
}
FREEZING = {"full": "none", "alpha": "heavy", "alpha_opposite": "light", "random": "random"}
_FREEZING_TITLES = {
    "full": "no layer",
    "alpha": "heavy tail, small alpha (the method)",
    "alpha_opposite": "light tail, large alpha (the opposite)",
    "random": "as many layers at random",
}


@dataclass(frozen=True)
class DemoSize:
    """How long the demo trains; both sizes run the same pipeline."""

    images: int  # for distillation
    score_images: int  # used in each round to choose weights
    steps_per_round: int
    final_steps: int
    batch_size: int
    lr: float  # of distillation
    finetune_steps: int
    scenes: int  # scored


FULL = DemoSize(
    images=4096,
    score_images=256,
    steps_per_round=16,
    final_steps=352,
    batch_size=64,
    lr=3e-3,
    finetune_steps=400,
    scenes=200,
)
QUICK = DemoSize(
    images=1536,
    score_images=64,
    steps_per_round=3,
    final_steps=160,
    batch_size=32,
    lr=5e-3,
    finetune_steps=50,
    scenes=50,
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
    size: DemoSize = FULL,
    sparsity: float = 0.9,
    seed: int = 0,
    device: str = "cpu",
    force: bool = False,
    reporter: Reporter = SILENT,
) -> DemoResult:
    """Prune, analyze, transfer, fine-tune and evaluate the tiny CLIP as four towers, and compare them.

    Every tower is fine-tuned for the same number of steps with no layer frozen. The subnet is also fine-tuned with half
    of its layers frozen, chosen in three ways. Bundles, pictures and report.json go into the new folder `out`.
    """
    started = time.perf_counter()
    where = resolve_device(device)
    check_folder_target(out, force=force, foreign=_foreign)
    prepare_parent(out)
    run = _Demo(out, size, sparsity=sparsity, seed=seed, device=device, reporter=reporter)
    with shared_clips():
        run.prune_towers()
        rows = tuple(run.tower_row(name) for name in TOWERS)
        freezing = tuple(run.freezing_row(name) for name in FREEZING)
        reporter.say("drawing pictures")
        draw_pictures(out, analysis=run.analysis, scenes=min(6, run.size.scenes), names=tuple(TOWERS))
    settings = {
        "quick": size == QUICK,
        "sparsity": sparsity,
        "seed": seed,
        **asdict(size),
        "towers": TOWERS,
        "environment": environment(where),
    }
    result = DemoResult(out, rows, freezing, settings, time.perf_counter() - started)
    (out / "report.json").write_bytes(json_bytes(result.to_json()))
    return result


def _foreign(out: Path) -> list[str]:
    """Files in a folder that no demo made; the demo's bundles, logs and states begin with the name of a tower."""
    pictures = {"overview.png", "density.png", "alpha.png", "report.json"}
    names = {path.name for path in out.iterdir()} - pictures
    return [name for name in names if not name.removeprefix(".").startswith(tuple(TOWERS))]


class _Demo:
    """The bundles of one demo and what was measured on them."""

    def __init__(
        self, out: Path, size: DemoSize, *, sparsity: float, seed: int, device: str, reporter: Reporter
    ) -> None:
        self.out, self.size, self.sparsity, self.seed = out, size, sparsity, seed
        self.device, self.reporter = device, reporter
        self._finetuned: dict[str, FinetuneResult] = {}
        self._reports: dict[str, dict[str, Any]] = {}

    def prune_towers(self) -> None:
        """The four bundles, and the alpha report of the subnet."""
        distilled: dict[str, Any] = {
            "images": "shapes",
            "image_limit": self.size.images,
            "score_images": self.size.score_images,
            "steps_per_round": self.size.steps_per_round,
            "final_steps": self.size.final_steps,
            "batch_size": self.size.batch_size,
            "lr": self.size.lr,
        }
        self._prune("dense", sparsity=0.0)
        self._prune("subnet", **distilled)
        self.analysis: AnalyzeResult = analyze(str(self.out / "subnet"), seed=self.seed, reporter=self.reporter)
        self._prune("random", random=True)
        self._prune("random_distilled", random=True, like=str(self.out / "subnet"), **distilled)

    def _prune(self, name: str, *, sparsity: float | None = None, **options: Any) -> None:
        self.reporter.say(f"\n{name}: {TOWERS[name]}")
        chosen = PruneOptions(
            "tiny", sparsity=self.sparsity if sparsity is None else sparsity, seed=self.seed, **options
        )
        prune(**vars(chosen), out=self.out / name, device=self.device, force=True, reporter=self.reporter)

    def _finetune(self, tower: str, freeze: str) -> str:
        """Fine-tune and score, once for each tower and choice of frozen layers; returns the key of the figures."""
        key = f"{tower}-{freeze}"
        if key not in self._finetuned:
            self.reporter.say(f"\nfine-tuning {tower}, frozen: {freeze}")
            options = FinetuneOptions(steps=self.size.finetune_steps, freeze=freeze, seed=self.seed)
            target = self.out / f"{tower}-finetuned-{freeze}"
            self._finetuned[key] = finetune(
                self.out / tower,
                out=target,
                **vars(options),
                timing_steps=0,
                device=self.device,
                force=True,
                reporter=self.reporter,
            )
            data = DatasetOptions(split="val", limit=self.size.scenes)
            scored = evaluate(str(target), **vars(data), device=self.device, reporter=self.reporter)
            self._reports[key] = scored.report
        return key

    def tower_row(self, name: str) -> dict[str, Any]:
        """Figures of one tower after fine-tuning with no layer frozen."""
        report = self._reports[self._finetune(name, "none")]
        bundle = open_bundle(self.out / name)
        return {
            "name": name,
            "sparsity": bundle.manifest.achieved_sparsity,
            "miou": report["miou"],
            "miou_seen": report["miou_seen"],
            "miou_unseen": report["miou_unseen"],
            "params_kept": report["params_kept"],
            "macs": report["macs_kept"],
            "bundle_bytes": bundle.size_bytes,
        }

    def freezing_row(self, name: str) -> dict[str, Any]:
        """Figures of the subnet fine-tuned with one choice of frozen layers."""
        key = self._finetune("subnet", FREEZING[name])
        cost = self._finetuned[key].cost
        return {
            "name": name,
            "title": _FREEZING_TITLES[name],
            "miou": self._reports[key]["miou"],
            "miou_seen": self._reports[key]["miou_seen"],
            "miou_unseen": self._reports[key]["miou_unseen"],
            "training_macs": cost["total"],
            "training_macs_unmasked": cost["unmasked_total"],
            "frozen_layers": len(cost["frozen_layers"]),
            "seconds_per_step": self._finetuned[key].seconds_per_step,
        }
