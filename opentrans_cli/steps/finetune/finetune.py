"""finetune: train a segmentor with the heavy-tailed layers frozen and the pruned weights held at zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from opentrans_cli.bundle.contents import BundleContents
from opentrans_cli.bundle.folder import check_replaceable
from opentrans_cli.bundle.hub.source import local_bundle
from opentrans_cli.bundle.store import Bundle, open_bundle, write_bundle
from opentrans_cli.datasets.labelled import LabelledPairs
from opentrans_cli.datasets.options import DatasetOptions, dataset_name
from opentrans_cli.errors import OptionError
from opentrans_cli.files.targets import check_parent, prepare_parent
from opentrans_cli.reporter import LOGGED, Reporter
from opentrans_cli.steps.by_name import by_name, takes
from opentrans_cli.steps.finetune.options import FinetuneControls, FinetuneOptions, with_recipe
from opentrans_cli.steps.finetune.run import FinetuneRun
from opentrans_cli.steps.finetune.settings import check_cache_place, check_run
from opentrans_cli.steps.finetune.validator import Validator, check_validation_options, validation_samples
from opentrans_cli.steps.run_files import (
    check_places,
    check_state,
    discard_state,
    resumable,
    state_path,
    state_to_resume,
)
from opentrans_cli.steps.run_log import RunLog, check_log, log_path
from opentrans_cli.steps.samples import open_samples
from opentrans_cli.steps.segmentors.built import segmentor_to_train
from opentrans_cli.steps.segmentors.words import embed_vocabulary
from opentrans_cli.steps.sources import bundle_tower, load_text_clip
from opentrans_cli.steps.step_record import data_record, environment, machine, step_record
from opentrans_cli.steps.training_data import TrainingData
from opentrans_cli.training import state_file
from opentrans_cli.training.loop import TrainLog
from opentrans_cli.training.processes.distributed import World, open_world

REPORT = "reports/finetune.json"


@dataclass(frozen=True)
class FinetuneResult:
    """What `finetune` made."""

    path: Path
    loss: float  # mean over the last tenth of the steps
    seconds_per_step: float  # measured, median
    cost: dict[str, Any]  # the cost receipt of `artifacts.schema.json`, as in the bundle
    timing: dict[str, Any] | None  # measured seconds of a step and of one of full training; None if not timed
    log: Path  # JSON lines

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {**asdict(self), "path": str(self.path), "log": str(self.log)}


@takes(FinetuneOptions, FinetuneControls, DatasetOptions)
def finetune(
    source: str | Path,
    *,
    out: str | Path,
    device: str = "auto",
    force: bool = False,
    reporter: Reporter | None = None,
    dataset: str | None = None,
    base: str | None = None,
    resume: bool = False,
    **given: Any,
) -> FinetuneResult:
    """Train the segmentor of the bundle `source` and write trunk, masks and head as a new bundle at `out`.

    Layers with a small alpha are frozen, parameters and BatchNorm statistics alike (OpenTrans, Sec. 3.3.2); alphas come
    from the bundle's own report; otherwise they are computed, after a warm-up from the weights it trained. Only seen
    classes take part in training.

    dataset: "shapes" (embedded) or "folder", the default if `images` are given. base: where the bundle's base is now.
    resume: go on with a run that was interrupted, to the same bundle; without it and without `force` a state is
    refused. Options: the fields of `FinetuneOptions`, `FinetuneControls` and `DatasetOptions`; values of a `recipe` are
    used for options not given.

    Under torchrun the processes share every batch, and the first one writes. Raises OptionError, BundleError,
    SourceError, HubError, DataError, OutputError or TrainingError; RunStopped when `max_minutes` are over, after
    SIGTERM, or when the disk is full, with a saved state.
    """
    options: FinetuneOptions
    controls: FinetuneControls
    data: DatasetOptions
    options, controls, data = by_name("finetune", with_recipe(given), FinetuneOptions, FinetuneControls, DatasetOptions)
    reporter, out, dataset = reporter or LOGGED, Path(out), dataset_name(dataset, data)
    with resumable(out) as finishing, open_world(device) as world:
        _check(options, controls, dataset, world)
        check_replaceable(out, force=force)
        check_state(out, resume=resume, force=force)
        check_parent(out)
        log_to, events = controls.log, controls.tensorboard
        check_places(out, {"--log": log_to, "--tensorboard": events, "--cache-features": controls.cache_features})
        check_cache_place(controls)
        if world.is_main:
            check_log(out, log_to, tensorboard=events)
        parent = open_bundle(local_bundle(source, reporter))
        prepare_parent(out)
        job = _Job(parent, options, controls, dataset, data, base, world=world, reporter=reporter)
        state = state_to_resume(out, resume=resume, reporter=reporter)
        taken = None if state is None else int(state_file.load_meta(state)["step"])
        writes = world.is_main
        with RunLog.beside(out, log_to, tensorboard=events, resumed_at=taken, writes=writes, reporter=reporter) as log:
            log.start(
                options=job.recorded,
                data={"fingerprint": job.samples.fingerprint, "images": len(job.samples)},
                environment=environment(world.device),
            )
            run, trained = job.train(log, state=state, checkpoint=state_path(out))
            receipt, loss = {**run.receipt(), **job.skipped}, final_loss(trained.losses)
            timing = None if run.timing is None else run.timing.to_json()
            if world.is_main:
                with finishing():
                    write_bundle(out, job.contents(receipt, loss), force=force)
                    discard_state(out)
            world.barrier()
            log.end(cost=receipt, seconds_per_step=trained.seconds_per_step, timing=timing)
        return FinetuneResult(out, loss, trained.seconds_per_step, receipt, timing, log_path(out, log_to))


class _Job:
    """The inputs of a run: data, the segmentor of the bundle, and the CLIP it came from."""

    def __init__(
        self,
        parent: Bundle,
        options: FinetuneOptions,
        controls: FinetuneControls,
        dataset: str,
        data: DatasetOptions,
        base: str | None,
        *,
        world: World,
        reporter: Reporter,
    ) -> None:
        self.parent, self.options, self.controls = parent, options, controls
        self.world, self.reporter = world, reporter
        self._dataset, self._data = dataset, data
        self.samples = open_samples(dataset, data, reporter, sound=True)
        tower = bundle_tower(parent, base=base, reporter=reporter)
        self.built = segmentor_to_train(tower, options.framework, seed=options.seed)
        preprocess = self.built.tower.preprocess
        self.loader = TrainingData(self.samples, options, preprocess=preprocess, world=world, workers=controls.workers)
        self.clip = load_text_clip(tower.base, base, reporter, loaded=tower.clip)
        place = machine(world.device, processes=world.size)
        # Features of single crops differ from those of batches by rounding. Their path does not affect the result.
        cached = None if controls.cache_features is None else "features"
        self.recorded = {
            **asdict(options),
            "cache_features": cached,
            "dataset": dataset,
            **data_record(data),
            "base": base,
            **place,
        }

    @property
    def skipped(self) -> dict[str, list[str]]:
        """For the receipt: the pictures that --skip-bad has left out."""
        left_out = self.samples.left_out if isinstance(self.samples, LabelledPairs) else ()
        return {"skipped": list(left_out)} if left_out else {}

    def train(self, log: RunLog, *, state: Path | None, checkpoint: Path) -> tuple[FinetuneRun, TrainLog]:
        """Run all steps, or those that are left."""
        try:
            run = FinetuneRun(
                self.built,
                self.loader,
                self.clip,
                self.options,
                self.controls,
                world=self.world,
                log=log,
                reporter=self.reporter,
            )
            return run, run.train(resume_from=state, checkpoint=checkpoint, evaluate=self._evaluation())
        finally:
            self.loader.close()

    def _evaluation(self) -> Validator | None:
        """The validator that measures the mIoU during training; None if it was not asked for."""
        if not self.controls.eval_every:
            return None
        samples = validation_samples(self._dataset, self._data, self.controls)
        text = embed_vocabulary(
            self.clip,
            samples.vocabulary,
            templates=self.built.framework.templates,
            seen=[name not in samples.unseen for name in samples.vocabulary.names],
            reporter=self.reporter,
        )
        return Validator(self.built, text, samples, device=self.world.device, world=self.world)

    def contents(self, receipt: dict[str, Any], loss: float) -> BundleContents:
        """The trained bundle."""
        step = step_record(
            "finetune",
            self.recorded,
            seed=self.options.seed,
            data=self.samples.fingerprint,
            parent=self.parent.digest,
            metrics={"loss": loss, "training_macs": receipt["total"]},
        )
        record = self.built.record(self.samples.vocabulary.classes, seen=self.loader.seen_vocabulary.names)
        return self.built.contents(step, record, report=(REPORT, receipt), keep_alpha=False)


def _check(options: FinetuneOptions, controls: FinetuneControls, dataset: str, world: World) -> None:
    """Check what can be refused before anything is read."""
    check_run(options, controls, processes=world.size)
    check_validation_options(dataset, controls)
    if controls.shard and world.size == 1:
        raise OptionError("one process has nothing to share out: --shard; start several with torchrun")


def final_loss(losses: Sequence[float]) -> float:
    """Mean loss of the last tenth of the steps."""
    return mean(losses[-max(1, len(losses) // 10) :])
