"""The training loop of `prune` and `finetune`. It can apply masks after every step, resumes bit for bit, and stops
cleanly.

It works for any model and data set: batches are a function of the step, and the loss is a function of a batch.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from opentrans_cli.errors import OpentransError, OptionError, RunStopped
from opentrans_cli.files.atomic import disk_full
from opentrans_cli.signals import held_back
from opentrans_cli.training import state_file
from opentrans_cli.training.processes.distributed import World
from opentrans_cli.training.run_state import Beside, RunState, trained_parameters
from opentrans_cli.training.settings import TrainSettings
from opentrans_cli.training.step import Batch, Loss, NotFiniteError, Outcome, Stepper, generators_kept

__all__ = ["Batch", "Hooks", "Loss", "NotFiniteError", "StepFigures", "TrainLog", "train"]


@dataclass(frozen=True)
class StepFigures:
    """One optimizer step, of the whole batch and all processes."""

    step: int  # steps taken, from 1
    loss: float  # the sum of `terms`
    terms: dict[str, float]  # weighted
    lr: float  # outside the backbone
    grad_norm: float  # L2, before clipping; infinite: float16 overflowed and the step was left out
    seconds: float  # wall-clock


@dataclass(frozen=True)
class TrainLog:
    """What a run did, from its first step on, whether or not it was interrupted."""

    losses: tuple[float, ...]  # by step
    steps: int  # optimizer steps taken
    seconds_per_step: float  # median wall-clock time of the steps taken in this process, 0 if there were none


@dataclass(frozen=True)
class Hooks:
    """What the caller wants done between steps.

    before_step: called in all processes before each step, with the number of steps taken; may change weights and masks,
        and raise NotFiniteError.
    after_step: called once before the first step, when the model is wrapped, and after each step; applies the masks.
    evaluate: called in all processes, in eval mode with the averaged parameters; does not affect the training.
    on_evaluation, progress: called in rank 0 with the steps taken and figures; before the state of that step is saved.
    """

    before_step: Callable[[int], None] | None = None
    after_step: Callable[[], None] | None = None
    evaluate: Callable[[], Mapping[str, float]] | None = None
    on_evaluation: Callable[[int, Mapping[str, float]], None] | None = None
    progress: Callable[[StepFigures], None] | None = None


def train(
    model: nn.Module,
    batch_of: Callable[[int], Batch],
    settings: TrainSettings,
    *,
    loss: Callable[[nn.Module], Loss],
    hooks: Hooks | None = None,
    world: World | None = None,
    rate: Callable[[int], float] | None = None,
    rate_may_change: bool = False,
    beside: Beside | None = None,
    state: Path | None = None,
    narrowed: bool = False,
    checkpoint: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    notes: Mapping[str, Any] | None = None,
    stop_at: int | None = None,
) -> TrainLog:
    """Train `model` in place and leave it in eval mode, with the averaged parameters if there are some.

    batch_of: step (from 0) -> tensors of this process's share, on any device; the same for the same step, or resuming
        is not exact.
    loss: makes the loss from what it is to call in training: `model`, or a wrapper that shares its gradients.
    world: the processes of this run; None: this one alone, on the model's device.
    rate: step (from 0) -> learning rate outside the backbone; None: by the settings' schedule.
    rate_may_change: a state with another learning rate is accepted; so a failing run keeps its last saved state.
    beside: what else the state keeps of the run; it is restored before the first step is taken.
    state: a file that an interrupted run wrote; the run goes on from there, on any number of processes.
    narrowed: the run of `state` may have trained more parameters, as before layers were frozen.
    checkpoint: where the state goes, every `settings.save_every` steps and at the end; may be `state`.
    identity: JSON that must be the same when resuming (masks, data).
    notes: JSON that is kept in the state and compared with nothing; `state_file.load_meta(path)["notes"]`.
    stop_at: end after so many steps with the last parameters, averaged or not; another call goes on from the state.

    Freeze before calling: only what requires gradients gets into the optimizer. Torch's generators are seeded for each
    part of each step, and the caller's again afterwards. Raises TrainingError if nothing can be trained, if `state` is
    from another run, or if a loss or gradient is not finite: then the model holds the last good state, and so does
    `checkpoint`. With a checkpoint the run also ends when the time is up or a signal comes (see `held_back` in
    signals.py), in all processes after the same step: RunStopped, or KeyboardInterrupt after Ctrl-C; `checkpoint` has
    the state.
    """
    if settings.max_minutes is not None and checkpoint is None:
        raise OptionError("a run that may be stopped needs a state to go on from: max minutes; say where to keep it")
    device = next(iter(trained_parameters(model).values())).device
    world = world or World(device)
    with generators_kept(device), nullcontext(_never) if checkpoint is None else held_back() as told:
        called = world.wrap(
            model, sync_batchnorm=settings.sync_batchnorm, shard=settings.shard, accumulate=settings.accumulate
        )
        together = world.size == 1
        try:
            run = RunState(model, settings, world, identity=identity, notes=notes, beside=beside)
            if state is not None:
                run.resume(state, narrowed=narrowed, rate_may_change=rate_may_change)
            end = settings.steps if stop_at is None else min(stop_at, settings.steps)
            stepper = Stepper(run, loss(called), rate=rate)
            loop = _Loop(run, called, stepper, hooks or Hooks(), checkpoint, told, rate_may_change=rate_may_change)
            seconds = loop.steps(batch_of, end, fresh=state is None)
            together = True
        except (NotFiniteError, RunStopped):
            together = True
            raise
        finally:
            if together:  # unwrapping needs all processes, and another error may occur in one process only
                world.unwrap(model)
            model.eval()
    return TrainLog(tuple(run.losses), run.step, statistics.median(seconds) if seconds else 0.0)


class _Loop:
    def __init__(
        self,
        run: RunState,
        called: nn.Module,
        stepper: Stepper,
        hooks: Hooks,
        checkpoint: Path | None,
        told: Callable[[], bool],
        *,
        rate_may_change: bool,
    ) -> None:
        self.run, self.called, self.stepper, self.hooks = run, called, stepper, hooks
        self._checkpoint, self._told, self._rate_may_change = checkpoint, told, rate_may_change
        minutes = run.settings.max_minutes
        self._deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes

    def steps(self, batch_of: Callable[[int], Batch], end: int, *, fresh: bool) -> list[float]:
        """Take the steps up to `end`, and leave the averages in the model after the last of all.

        Returns how many seconds each took.
        """
        run, seconds = self.run, list[float]()
        self.called.train()
        self._hold()
        if run.average is not None and fresh:
            run.average.begin()  # of pruned weights
        while run.step < end:
            started = time.perf_counter()
            outcome = self._step(batch_of)
            seconds.append(time.perf_counter() - started)
            self._between(outcome, seconds[-1], last=run.step == end)
        if run.average is not None and run.step == run.settings.steps:
            run.average.fill()
        return seconds

    def _step(self, batch_of: Callable[[int], Batch]) -> Outcome:
        run = self.run
        try:
            if self.hooks.before_step is not None:
                self.hooks.before_step(run.step)
            late, batch = time.monotonic() >= self._deadline, self._batch(batch_of)
            outcome = self.stepper.take(batch, late=late, told=self._told)
        except NotFiniteError as error:
            raise self._explained(error) from None
        self._hold()
        if run.average is not None and math.isfinite(outcome.grad_norm):
            run.average.update(run.step - 1)
        return outcome

    def _batch(self, batch_of: Callable[[int], Batch]) -> Batch:
        try:
            return batch_of(self.run.step)
        except (OpentransError, OSError) as error:
            # A full disk, as of a cache of features, need not be the one where the state goes.
            if self._checkpoint is not None and self.run.step and self.run.world.size == 1 and disk_full(error):
                self.run.save(self._checkpoint)
            raise

    def _explained(self, error: NotFiniteError) -> NotFiniteError:
        """Explain what to do about the error; the disk keeps the state before the step, or the last saved one."""
        checkpoint, lower = self._checkpoint, f"lower the learning rate (now {self.run.settings.lr:g})"
        if self._rate_may_change:
            if checkpoint is None or not checkpoint.exists():
                return NotFiniteError(f"{error}; {lower} and start again")
            saved = state_file.load_meta(checkpoint)["step"]
            return NotFiniteError(f"{error}; {lower}: --resume with it goes on from step {saved}")
        kept = "" if checkpoint is None else f" (the state before it is in {checkpoint})"
        if checkpoint is not None:
            self.run.save(checkpoint)
        return NotFiniteError(
            f"{error}{kept}; {lower} or add warm-up steps and start again, for --resume comes to the same"
        )

    def _hold(self) -> None:
        if self.hooks.after_step is not None:
            self.hooks.after_step()

    def _between(self, outcome: Outcome, seconds: float, *, last: bool) -> None:
        run, hooks, settings = self.run, self.hooks, self.run.settings
        if hooks.progress is not None and run.world.is_main and (last or _due(run.step, settings.log_every)):
            hooks.progress(StepFigures(run.step, outcome.loss, outcome.terms, outcome.lr, outcome.grad_norm, seconds))
        if hooks.evaluate is not None and _due(run.step, settings.eval_every):
            self._evaluate(hooks.evaluate)
        # The state is saved after figures and evaluation, so that a log cut back to the state's step is complete.
        if self._checkpoint is not None and (last or outcome.stop or _due(run.step, settings.save_every)):
            run.save(self._checkpoint)
        if outcome.told or (outcome.late and run.step < settings.steps):
            reason = "" if outcome.told else "the time is up"
            raise RunStopped(reason, after=run.after, state=self._checkpoint)

    def _evaluate(self, evaluate: Callable[[], Mapping[str, float]]) -> None:
        run = self.run
        run.optimizer.zero_grad(set_to_none=True)  # free memory for the evaluation
        with nullcontext() if run.average is None else run.average.shown(), run.world.gathered(run.model):
            run.model.eval()
            try:
                figures = evaluate()
            finally:
                self.called.train()
        if self.hooks.on_evaluation is not None and run.world.is_main:
            self.hooks.on_evaluation(run.step, figures)


def _never() -> bool:
    return False


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
