"""demo: the whole pipeline on the embedded model and scenes, with controls, measured in one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.files.atomic import left_in, write_file
from opentrans_cli.files.records import json_bytes, parse_json
from opentrans_cli.files.targets import check_folder_target, prepare_parent
from opentrans_cli.reporter import SILENT, Parts, Reporter
from opentrans_cli.sparsity.schedule import imp_sparsities
from opentrans_cli.spectral.report import bundle_report
from opentrans_cli.steps.analyze.analyze import analyze
from opentrans_cli.steps.demo.pictures import PICTURES, draw_pictures
from opentrans_cli.steps.demo.state import FEATURES, DemoState
from opentrans_cli.steps.eval.evaluate import evaluate
from opentrans_cli.steps.finetune.finetune import finetune
from opentrans_cli.steps.prune.options import PruneOptions
from opentrans_cli.steps.prune.prune import prune
from opentrans_cli.steps.report.report import PAGE, report
from opentrans_cli.steps.report.sections.demo import SCENES
from opentrans_cli.steps.run_files import check_state, resumable, state_path
from opentrans_cli.steps.sources import shared_clips
from opentrans_cli.steps.step_record import environment
from opentrans_cli.steps.transfer.framework import transfer_framework
from opentrans_cli.training.device import resolve_device
from opentrans_cli.training.feature_cache import remove_cache

TOWERS = {
    "dense": "nothing pruned",
    "subnet": "what the embedding feels least, removed in rounds, distilled in each",
    "random": "random positions, not distilled (the paper's control)",
    "random_distilled": "random positions, the subnet's counts by layer, distilled as long",
}
_REPORT = "reports/eval-shapes.json"
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
    resume: bool = False,
    reporter: Reporter = SILENT,
    on_row: Callable[[dict[str, Any]], None] = lambda row: None,
) -> DemoResult:
    """Prune, analyze, transfer, fine-tune and evaluate the tiny CLIP as four towers, and compare them.

    Every tower is fine-tuned for the same number of steps in the first way of freezing of `size`, and the subnet in the
    other ways as well. Bundles, pictures, report.json and report.html go into the new folder `out`. `on_row` gets each
    row of the two tables as soon as it is measured. resume: go on with an interrupted demo; without it and without
    `force` a state is refused.

    Raises RunStopped after SIGTERM or when the disk is full, with everything kept that is finished.
    """
    where = resolve_device(device)
    check_state(out, resume=resume, force=force)
    resume = resume and state_path(out).exists()
    check_folder_target(out, force=force or resume, foreign=_foreign)
    prepare_parent(out)
    work = _work(size, sparsity)
    identity = {"verb": "demo", "sparsity": sparsity, "seed": seed, "device": where.type, "size": asdict(size)}
    with resumable(out) as finishing, shared_clips():
        state = DemoState(out, identity=identity, parts=len(work), resume=resume, reporter=reporter)
        parts = Parts(reporter, work)
        run = _Demo(out, size, sparsity=sparsity, seed=seed, device=device, state=state, reporter=parts)
        for part in work:
            if part in state.finished:
                parts.skip(part)
                continue
            if part in TOWERS:
                reporter.say(f"{part}: {TOWERS[part]}")
            with parts.next(part):
                run.make(part)
            state.finish(part)
            if part != _DRAWN:
                on_row(run.row(part))
        settings = {
            "full": size == FULL,
            "sparsity": sparsity,
            "seed": seed,
            **asdict(size),
            "environment": environment(where),
        }
        rows = tuple(run.tower_row(name) for name in TOWERS)
        freezing = tuple(run.freezing_row(way) for way in size.freezing)
        result = DemoResult(out, rows, freezing, settings, state.seconds)
        with finishing():
            write_file(out / "report.json", [json_bytes(result.to_json())])
            report(out, out=out / PAGE, force=True)
            state.discard()
    return result


_FROZEN, _DRAWN = "subnet, frozen: ", "pictures"
"""Titles of the parts that are no tower: a way of freezing the subnet, and what comes last."""


def _work(size: DemoSize, sparsity: float) -> dict[str, dict[str, float]]:
    """By part and by title of a bar how long it takes, in images through the tower and back, about."""
    rounds = len(imp_sparsities(sparsity, rate=size.rate))
    steps = (rounds - 1) * size.steps_per_round + size.final_steps
    looks = {"distilling": steps * size.batch_size + rounds * size.score_images}
    crops = size.finetune_steps * size.finetune_batch * (size.crop / 64) ** 2
    trained = {"fine-tuning": 3 * crops, "scoring": 5 * size.scenes}
    parts = {name: {**(looks if "distilled" in name or name == "subnet" else {}), **trained} for name in TOWERS}
    return parts | {f"{_FROZEN}{way}": trained for way in size.freezing[1:]} | {_DRAWN: {}}


def _foreign(out: Path) -> list[str]:
    """Files in a folder that no demo made; the demo's bundles, logs and states begin with the name of a tower, and what
    a killed one was writing has a name of its own.
    """
    halves = {half.name for half in left_in(out)}
    names = {path.name for path in out.iterdir()} - {*PICTURES, SCENES, "report.json", PAGE, *halves}
    return [name for name in names if not name.removeprefix(".").startswith(tuple(TOWERS))]


class _Demo:
    """The bundles of one demo and what was measured on them."""

    def __init__(
        self,
        out: Path,
        size: DemoSize,
        *,
        sparsity: float,
        seed: int,
        device: str,
        state: DemoState,
        reporter: Reporter,
    ) -> None:
        self.out, self.size, self.sparsity, self.seed = out, size, sparsity, seed
        self.device, self.state, self.reporter = device, state, reporter

    def make(self, part: str) -> None:
        """Do the work of a part that is not finished."""
        size = self.size
        if part == _DRAWN:
            bundles = {name: self.finetuned(name, size.freezing[0]) for name in TOWERS}
            draw_pictures(self.out, scenes=min(6, size.scenes), bundles=bundles)
            return
        if part in TOWERS:
            self.state.once(f"prune {part}", lambda: self._prune(part))
            if part == "subnet":
                self.state.once("analyze", self._analyze)
            if size.width is not None:
                self.state.once(f"head {part}", lambda: self._replace_head(part))
        self._finetune(*((part, size.freezing[0]) if part in TOWERS else ("subnet", part.removeprefix(_FROZEN))))

    def row(self, part: str) -> dict[str, Any]:
        """The row of a part in its table."""
        return self.tower_row(part) if part in TOWERS else self.freezing_row(part.removeprefix(_FROZEN))

    def tower_row(self, name: str) -> dict[str, Any]:
        """Figures of a tower, fine-tuned in the first way of freezing."""
        _, scored = self._finetune(name, self.size.freezing[0])
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
        """Figures of the subnet, fine-tuned in one way of freezing."""
        trained, scored = self._finetune("subnet", way)
        cost = trained["cost"]
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
            "seconds_per_step": trained["seconds_per_step"],
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
        prune(**vars(chosen), out=self.out / name, device=self.device, force=True, resume=True, reporter=self.reporter)

    def _analyze(self) -> None:
        """Add the alphas to the subnet, if a process that was killed has not done so."""
        if bundle_report(open_bundle(self.out / "subnet")) is None:
            analyze(str(self.out / "subnet"), seed=self.seed, reporter=self.reporter)

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

    def _finetune(self, tower: str, way: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Fine-tune and score, once for each tower and way of freezing; returns the figures of both."""
        trained = self.state.once(f"finetune {tower} {way}", lambda: self._trained(tower, way))
        scored = self.state.once(f"eval {tower} {way}", lambda: self._scored(self.finetuned(tower, way)))
        return trained, scored

    def _trained(self, tower: str, way: str) -> dict[str, Any]:
        size, features = self.size, self.out / f"{tower}{FEATURES}"
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
        result = finetune(
            self.out / (tower if size.width is None else f"{tower}-transferred"),
            out=self.finetuned(tower, way),
            **given,
            timing_steps=0,
            device=self.device,
            force=True,
            resume=True,
            reporter=self.reporter,
        )
        if features.exists():
            remove_cache(features)
        return {"cost": result.cost, "seconds_per_step": result.seconds_per_step}

    def _scored(self, path: Path) -> dict[str, Any]:
        """The report of `eval`, which a process that was killed may have written."""
        bundle = open_bundle(path)
        if bundle.has(_REPORT):
            return dict(parse_json(bundle.read(_REPORT), _REPORT))
        data = DatasetOptions(split="val", limit=self.size.scenes)
        return evaluate(path, **vars(data), device=self.device, resume=True, force=True, reporter=self.reporter).report
