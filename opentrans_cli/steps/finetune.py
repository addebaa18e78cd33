"""finetune: train a segmentor with the heavy-tailed layers frozen and the pruned weights held at zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from opentrans_cli.bundle.folder import check_replaceable
from opentrans_cli.bundle.store import open_bundle, write_bundle
from opentrans_cli.clip.layers import candidates, convolutions, layer_weight
from opentrans_cli.datasets import DATASETS
from opentrans_cli.datasets.base import DatasetOptions, SegDataset
from opentrans_cli.errors import OptionError
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.spectral.estimators import ESTIMATORS
from opentrans_cli.spectral.selection import select_frozen
from opentrans_cli.steps.alpha_record import recorded_alphas
from opentrans_cli.steps.finetune_run import FinetuneRun
from opentrans_cli.steps.hub_source import local_bundle
from opentrans_cli.steps.options import FinetuneOptions
from opentrans_cli.steps.provenance import data_record, machine, step_record
from opentrans_cli.steps.reporter import SILENT, Reporter
from opentrans_cli.steps.resume import discard_state, state_path, state_to_resume
from opentrans_cli.steps.segmentors import build_segmentor, bundle_segmentor, embed_vocabulary
from opentrans_cli.steps.sources import Tower, bundle_tower, load_text_clip
from opentrans_cli.steps.spectra import measure
from opentrans_cli.steps.target import prepare_parent
from opentrans_cli.steps.training_data import TrainingData
from opentrans_cli.training.device import resolve_device

REPORT = "reports/finetune.json"
DEFAULT_FRAMEWORK = "deeplabv3"


@dataclass(frozen=True)
class FinetuneResult:
    """What `finetune` made."""

    path: Path
    loss: float  # mean over the last tenth of the steps
    seconds_per_step: float  # measured, median
    cost: dict[str, Any]  # the cost receipt of `artifacts.schema.json`

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {**asdict(self), "path": str(self.path)}


def finetune(
    bundle: Path | str,
    *,
    out: Path,
    options: FinetuneOptions,
    dataset: str = "shapes",
    data: DatasetOptions | None = None,
    base: str | None = None,
    device: str = "auto",
    force: bool = False,
    resume: bool = False,
    reporter: Reporter = SILENT,
) -> FinetuneResult:
    """Train the bundle's segmentor on `dataset` and write trunk, masks and head as a new bundle at `out`.

    Layers with a small alpha are frozen, parameters and BatchNorm statistics alike (OpenTrans, Sec. 3.3.2); alphas come
    from the bundle's own report, else they are computed. Only seen classes take part in training. Raises OptionError,
    BundleError, SourceError, DataError or TrainingError.
    """
    _check_options(options)
    check_replaceable(out, force=force)
    data, where = data or DatasetOptions(), resolve_device(device)
    samples: SegDataset = DATASETS.load(dataset)(data)
    parent = open_bundle(local_bundle(bundle, reporter))
    run = _prepare(
        bundle_tower(parent, base=base, reporter=reporter),
        samples,
        options,
        device=where,
        reporter=reporter,
    )
    clip = load_text_clip(parent.manifest.base, base, reporter)
    prepare_parent(out)
    text = embed_vocabulary(clip, run.feed.seen_vocabulary, templates=run.built.framework.templates, reporter=reporter)
    state = state_to_resume(out, resume=resume, reporter=reporter)
    log = run.train(text, resume_from=state, checkpoint=state_path(out), reporter=reporter)
    receipt, loss = run.receipt(), final_loss(log.losses)
    recorded = {**asdict(options), "dataset": dataset, **data_record(data), "base": base, **machine(where)}
    metrics = {"loss": loss, "training_macs": receipt["total"]}
    step = step_record(
        "finetune", recorded, seed=options.seed, data=samples.fingerprint, parent=parent.digest, metrics=metrics
    )
    record = run.built.record(samples.vocabulary.classes, seen=run.feed.seen_vocabulary.names)
    contents = run.built.contents(step, record, report=(REPORT, receipt), keep_alpha=False)
    written = write_bundle(out, contents, force=force)
    discard_state(out)
    return FinetuneResult(written.path, loss, log.seconds_per_step, receipt)


def _prepare(
    tower: Tower, samples: SegDataset, options: FinetuneOptions, *, device: torch.device, reporter: Reporter
) -> FinetuneRun:
    """The bundle's own segmentor, else a fresh one, its data, and the layers to freeze."""
    built = bundle_segmentor(tower)
    if built is None:
        built = build_segmentor(tower, options.framework or DEFAULT_FRAMEWORK, seed=options.seed)
    name = built.framework.name
    if options.framework not in (None, name):
        raise OptionError(f"the bundle's segmentor is {name}, not {options.framework}; leave --framework out")
    if not built.framework.trainable:
        raise OptionError(f"segmentor has nothing to train: {name}; transfer the subnet to deeplabv3 instead")
    feed = TrainingData(samples, options, preprocess=tower.preprocess)
    if built.framework.frozen_trunk:
        reporter.say(f"{name} keeps the whole tower frozen: --freeze {options.freeze} changes nothing")
        frozen = tuple(layer.name for layer in candidates(tower.visual))
    else:
        frozen = _frozen_layers(tower, options, reporter)
    return FinetuneRun(built, feed, frozen=frozen, options=options, device=device)


def final_loss(losses: Sequence[float]) -> float:
    """Mean loss of the last tenth of the steps."""
    return mean(losses[-max(1, len(losses) // 10) :])


def _check_options(options: FinetuneOptions) -> None:
    """What can be refused before anything is read."""
    ESTIMATORS.load(options.estimator)
    FRAMEWORKS.load(options.framework or DEFAULT_FRAMEWORK)
    select_frozen({}, mode=options.freeze, ratio=options.freeze_ratio)  # type: ignore[arg-type]


def _frozen_layers(tower: Tower, options: FinetuneOptions, reporter: Reporter) -> tuple[str, ...]:
    """Layers of the tower to freeze, from the recorded alphas or, said aloud, from fresh ones."""
    if options.freeze == "none":
        return ()
    assert tower.bundle is not None
    alphas = recorded_alphas(tower.bundle, estimator=options.estimator)
    if alphas is None:
        reporter.say(f"no alpha report by {options.estimator} in {tower.bundle.path}: analyzing first")
        names, fit = convolutions(tower.visual), ESTIMATORS.load(options.estimator)
        spectra = measure(names, lambda name: layer_weight(tower.visual, name), fit, reporter=reporter)
        alphas = {layer.name: layer.alpha for layer in spectra}
    return select_frozen(alphas, mode=options.freeze, ratio=options.freeze_ratio, seed=options.seed)  # type: ignore[arg-type]
