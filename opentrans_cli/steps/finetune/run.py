"""One fine-tuning run: a dense warm-up if there is one, the choice of layers, and training with them frozen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from opentrans_cli.bundle.layout import stored_hashes
from opentrans_cli.bundle.verify.history import FROZEN_TENSORS
from opentrans_cli.clip.source import LoadedClip
from opentrans_cli.errors import OptionError, TrainingError
from opentrans_cli.frameworks.base import BACKBONE
from opentrans_cli.reporter import Reporter
from opentrans_cli.sparsity.masking import hold
from opentrans_cli.steps.finetune.cost import SegmentorCount, cached_part, count_segmentor, run_cost
from opentrans_cli.steps.finetune.freezing import FreezeChoice, check_choice, choose_frozen
from opentrans_cli.steps.finetune.loss import loss_identity, make_loss
from opentrans_cli.steps.finetune.options import FinetuneControls, FinetuneOptions
from opentrans_cli.steps.finetune.settings import finetune_settings
from opentrans_cli.steps.run_log import RunLog
from opentrans_cli.steps.segmentors.built import BuiltSegmentor
from opentrans_cli.steps.segmentors.words import text_class_indices
from opentrans_cli.steps.training_data import TrainingData
from opentrans_cli.training import state_file
from opentrans_cli.training.costs.timing import StepTimer, Timing
from opentrans_cli.training.feature_cache import FeatureCache
from opentrans_cli.training.freezing import state_hash
from opentrans_cli.training.loop import Batch, Hooks, StepFigures, TrainLog, train
from opentrans_cli.training.processes.distributed import World
from opentrans_cli.training.run_state import require_identity
from opentrans_cli.training.settings import TrainSettings

_CHOICE = "choice"  # key in the notes of a state; its value is null while nothing is frozen

Evaluate = Callable[[], Mapping[str, float]]


class FinetuneRun:
    """Trains the segmentor `built` in place, from its first step or from a state."""

    def __init__(
        self,
        built: BuiltSegmentor,
        loader: TrainingData,
        clip: LoadedClip,
        options: FinetuneOptions,
        controls: FinetuneControls,
        *,
        world: World,
        log: RunLog,
        reporter: Reporter,
    ) -> None:
        """clip: the base of the bundle. Raises OptionError for options that segmentor or data do not support."""
        self.built, self.loader, self.options, self.controls = built, loader, options, controls
        self.world, self.log, self.reporter = world, log, reporter
        check_choice(built, options)
        built.module.to(world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._trained, self._loss = make_loss(built, loader, clip, options, world, reporter)
        self.choice: FreezeChoice | None = None  # the choice at the end of the run
        self.timing: Timing | None = None
        self._hash = ""  # hash of everything that is frozen
        self._full = self._count()
        self._ends = None if controls.max_minutes is None else time.monotonic() + 60 * controls.max_minutes

    def train(self, *, resume_from: Path | None, checkpoint: Path, evaluate: Evaluate | None) -> TrainLog:
        """Run all steps that are left.

        Raises TrainingError for a loss that is not finite, for the state of another run, and if a frozen layer changed;
        RunStopped when the time is up or a signal came.
        """
        if resume_from is not None:
            require_identity(resume_from, self._identity())
        choice, narrowed = self._recorded(resume_from), False
        phase = partial(self._phase, checkpoint=checkpoint, evaluate=evaluate)
        with ExitStack() as stack:
            if choice is None and self.options.warmup_steps:
                self._freeze(self._nothing())
                phase(self.loader.batch, resume_from=resume_from, end=self.options.warmup_steps)
                resume_from, narrowed = checkpoint, True
            if choice is None:
                choice = choose_frozen(self.built, self.options, measured_now=narrowed, reporter=self.reporter)
            timer = StepTimer(self._trained, self._loss, self._settings(), self._holder, steps=self._timed())
            self._freeze(choice)
            self._announce(choice)
            batch_of = self._batches(choice, stack)
            self.timing = timer.time(batch_of, self.loader.batch, self.world.device)
            log = phase(batch_of, resume_from=resume_from, choice=choice, narrowed=narrowed, end=self.options.steps)
        if state_hash(self.built.module, choice.modules) != self._hash:
            raise TrainingError("a frozen layer changed in training; nothing was written; report this as a bug")
        return log

    def _recorded(self, state: Path | None) -> FreezeChoice | None:
        """The choice of the interrupted run, whose weights are loaded; None if it had not frozen anything yet."""
        notes = {} if state is None else state_file.load_meta(state).get("notes", {})
        found = notes.get(_CHOICE)
        if found is None or state is None:
            return None
        # Frozen layers are hashed and their features are cached, so they must have their old weights before training.
        tensors, _ = state_file.read_run_state(state)
        state_file.restore_module(self._trained, state_file.under_prefix("model", tensors), origin=str(state))
        return FreezeChoice.from_json(found)

    def _nothing(self) -> FreezeChoice:
        """The choice during the warm-up: only the modules that the framework never trains are frozen."""
        nothing = replace(self.options, freeze="none", freeze_scope="trunk", freeze_prefix=False, prefix_end=None)
        return choose_frozen(self.built, nothing, measured_now=False)

    def _freeze(self, choice: FreezeChoice) -> None:
        choice.apply(self.built.module)
        self._hash = state_hash(self.built.module, choice.modules)
        self.choice = choice

    def _announce(self, choice: FreezeChoice) -> None:
        prefix = "" if choice.prefix_end is None else f", everything up to {choice.prefix_end} among them"
        self.reporter.say(f"frozen: {len(choice.layers)} layers{prefix} ({choice.origin})")
        self.log.freeze(step=self.options.warmup_steps, layers=choice.layers, by=choice.by, origin=choice.origin)

    def _phase(
        self,
        batch_of: Callable[[int], Batch],
        *,
        resume_from: Path | None,
        checkpoint: Path,
        evaluate: Evaluate | None,
        end: int,
        choice: FreezeChoice | None = None,
        narrowed: bool = False,
    ) -> TrainLog:
        """Run the steps up to `end` with fixed frozen layers. narrowed: `resume_from` is the end of the warm-up."""
        taken = 0 if resume_from is None else int(state_file.load_meta(resume_from)["step"])
        title = "warming up" if choice is None else "fine-tuning"
        with self.reporter.bar(title, self.options.steps, done=taken) as advance:

            def progress(figures: StepFigures) -> None:
                self.log.step(figures)
                advance(self.log.status())

            return train(
                self._trained,
                batch_of,
                self._settings(),
                loss=self._loss,
                hooks=Hooks(
                    after_step=self._holder(self._trained),
                    evaluate=evaluate,
                    on_evaluation=self.log.evaluation,
                    progress=progress,
                ),
                world=self.world,
                state=resume_from,
                narrowed=narrowed,
                checkpoint=checkpoint,
                identity=self._identity(),
                notes={_CHOICE: None if choice is None else choice.to_json()},
                stop_at=end,
            )

    def _identity(self) -> dict[str, Any]:
        """Values that must be the same when an interrupted run goes on."""
        options = {name: value for name, value in asdict(self.options).items() if name != "recipe"}
        bundle = self.built.tower.bundle
        assert bundle is not None
        # The state has weights but no masks, so the masks of another bundle would be held on these weights.
        return {
            "bundle": bundle.digest,
            "options": options,
            "cached": self.controls.cache_features is not None,
            "data": self.loader.fingerprint,
            **loss_identity(self.options),
        }

    def _batches(self, choice: FreezeChoice, stack: ExitStack) -> Callable[[int], Batch]:
        """Batches, with the features of the prefix if these are cached on disk."""
        if self.controls.cache_features is None:
            return self.loader.batch
        if choice.prefix_end is None:
            missing = "no prefix is frozen, so there are no features to keep: --cache-features"
            if not self.options.warmup_steps:
                raise OptionError(f"{missing}; add --prefix-end BLOCK")
            self.reporter.say(f"{missing}; training goes on without")  # a missing cache is no reason to lose a warm-up
            return self.loader.batch
        self._trained.prefix_end = choice.prefix_end
        cache = stack.enter_context(
            FeatureCache(
                self.controls.cache_features,
                self.built.module.backbone,  # type: ignore[arg-type]
                choice.prefix_end,
                crop=self.loader.crop,
                rows=self.loader.view_count,
                identity=self._crops(),
                device=self.world.device,
            )
        )
        self.reporter.say(f"features in {cache.folder}: {cache.computed} of {cache.rows} crops are there")

        def batch(step: int) -> Batch:
            images, label_maps, numbers, rows = self.loader.batch(step)
            return (images, label_maps, numbers, rows, *cache.features(images, numbers))

        return batch

    def _crops(self) -> dict[str, Any]:
        """Values on which the fixed crops depend."""
        cut = {name: getattr(self.options, name) for name in ("views", "scale", "scale_of", "flip", "seed")}
        pixels = {"mean": self.loader.preprocess.mean, "std": self.loader.preprocess.std}
        return {"content": self.loader.content_fingerprint, **cut, **pixels}

    def _holder(self, trained: Any) -> Callable[[], None]:
        """A function that holds the masks of `trained`, which is the module of the run or a copy of it."""
        return hold(trained.segmentor, self.built.masks(), self.built.held())

    def _timed(self) -> int:
        """The number of steps to time; copies can be timed only in a run of one process."""
        return self.controls.timing_steps if self.world.size == 1 else 0

    def _settings(self) -> TrainSettings:
        """Settings of the training loop, with the minutes that are left."""
        left = None if self._ends is None else max(1e-6, (self._ends - time.monotonic()) / 60)
        return finetune_settings(self.options, replace(self.controls, max_minutes=left))

    def _count(self) -> SegmentorCount:
        return count_segmentor(
            self.built, crop=self.loader.crop, class_indices=text_class_indices(self.loader.seen_vocabulary)
        )

    def receipt(self) -> dict[str, Any]:
        """The cost receipt of `artifacts.schema.json`: counted MACs of the whole run, and proof of freezing."""
        choice, o = self.choice, self.options
        assert choice is not None
        cached, distinct = tuple[str, ...](), 0
        if self.controls.cache_features is not None and choice.prefix_end is not None:
            cached, distinct = cached_part(self.built, choice.prefix_end, o, crops=self.loader.view_count)
        cost = run_cost(self._full, self._count(), o, crop=self.loader.crop, cached=cached, views=distinct)
        return {
            **cost.to_json(),
            "frozen_layers": [name.removeprefix(BACKBONE) for name in choice.layers],
            "frozen_by": choice.by,
            "frozen_why": choice.origin,
            "frozen_hash": f"sha256:{self._hash}",
            FROZEN_TENSORS: self._frozen_tensors(choice),
        }

    def _frozen_tensors(self, choice: FreezeChoice) -> dict[str, str]:
        """Hashes of the frozen tensors as the bundle stores them; without a warm-up the parent bundle has the same."""
        tower, bundle = self.built.tower, self.built.tower.bundle
        assert bundle is not None
        owners = {name.removeprefix(BACKBONE) for name in choice.modules if name.startswith(BACKBONE)}
        parts: dict[str, Any] = {
            name: value for name, value in self.built.tower_tensors().items() if name.rpartition(".")[0] in owners
        }
        masks = {layer: mask for layer, mask in tower.masks.items() if layer in owners}
        return stored_hashes(parts, masks, bundle.manifest.layers[0].dtype)
