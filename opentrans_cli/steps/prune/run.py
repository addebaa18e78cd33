"""A pruning run with images: rounds that choose weights, and distillation by the shared training loop."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from opentrans_cli.bundle.layout import Tensors
from opentrans_cli.clip.layers import arrays, split_packed, tensors
from opentrans_cli.errors import MaskError
from opentrans_cli.reporter import Reporter
from opentrans_cli.sparsity.masking import apply_masks, hold
from opentrans_cli.sparsity.selection import sparsity_of
from opentrans_cli.steps.prune.choice import Choice
from opentrans_cli.steps.prune.cuts import Cuts
from opentrans_cli.steps.prune.distillation import Objective
from opentrans_cli.steps.prune.options import MAX_ROUNDS, PruneControls, PruneOptions
from opentrans_cli.steps.prune.plan import PrunePlan, prune_settings
from opentrans_cli.steps.run_files import round_path, state_path
from opentrans_cli.steps.run_log import RunLog
from opentrans_cli.training import state_file
from opentrans_cli.training.loop import Hooks, NotFiniteError, StepFigures, train
from opentrans_cli.training.processes.distributed import World
from opentrans_cli.training.run_state import require_identity


@dataclass(frozen=True)
class Timetable:
    """Which optimizer steps follow which round; steps and rounds are counted from 0."""

    count: int
    steps: int  # optimizer steps after each round but the last
    final_steps: int  # optimizer steps after the last round, at the target sparsity

    @property
    def total(self) -> int:
        """Optimizer steps of the whole run."""
        return self.first_step(self.count - 1) + self.final_steps

    def first_step(self, number: int) -> int:
        """The first step of round `number`."""
        return self.steps * number

    def round_of(self, step: int) -> int:
        """The round that step `step` belongs to."""
        return min(step // self.steps, self.count - 1)

    def learning_rate(self, step: int, *, lr: float) -> float:
        """`lr` after a short warm-up of at most 20 steps, then half a cosine down to 0 over the last round.

        It is flat while rounds still remove weights: the damage grows with the sparsity, so the late rounds must not be
        the ones that learn least.
        """
        warmup = min(20, max(1, self.total // 10))
        last = max(0, step - self.first_step(self.count - 1)) / self.final_steps
        return lr * min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * last))


class _Distilled(nn.Module):
    """The tower and the other parameters of its objective, as one module to train."""

    def __init__(self, tower: nn.Module, learned: nn.Module) -> None:
        super().__init__()
        self.tower, self.learned = tower, learned

    def forward(self, images: Tensor) -> Any:
        return self.tower(images)


class PruneRun(Cuts):
    """Changes the weights and masks of the tower of `plan` in place."""

    def __init__(
        self,
        plan: PrunePlan,
        choice: Choice,
        options: PruneOptions,
        controls: PruneControls,
        timetable: Timetable,
        *,
        objective: Objective | None,
        world: World,
        out: Path,
        log: RunLog,
        reporter: Reporter,
    ) -> None:
        super().__init__(plan, choice, options, controls, out=out)
        self.timetable, self.objective, self.world, self.log, self.reporter = timetable, objective, world, log, reporter
        self.seconds_per_step = 0.0
        self._snapshots = Snapshots(out) if options.keep_rounds == "weights" else None
        self._hold = self._holder()

    def finish(self, *, state: Path | None, data: str | None) -> None:
        """Run all rounds, or those that are left after `state`. data: fingerprint of the images.

        Raises TrainingError for a loss that is not finite and for the state of a run with other options or images; of
        the options only the learning rate may differ, and a message says so. Raises RunStopped when the time is up or a
        signal came; a later run can then go on from `state_path(out)`.
        """
        if self._snapshots is not None and state is None and self.world.is_main:
            self._snapshots.discard()  # snapshots of an interrupted run that is not resumed have other weights
        if self.objective is not None:
            self._distil(self.objective, state, data)
            return
        for number in range(self._restored(state, data), self.timetable.count):
            self.cut(number)
            self._keep_tower(number)
            self._keep_round(number + 1, data)

    def _keep_round(self, rounds: int, data: str | None) -> None:
        """Save the state of a run without distillation: which weights the first `rounds` rounds removed."""
        after = f"round {rounds} of {self.timetable.count}"
        meta = {"identity": self._identity(data), "rounds": rounds, "after": after}
        state_file.save_state(state_path(self.out), tensors=self.tensors(), meta=meta, write=self.world.is_main)
        self.world.barrier()

    def _restored(self, state: Path | None, data: str | None) -> int:
        """How many rounds such a state has done; their weights are removed again."""
        if state is None:
            return 0
        require_identity(state, self._identity(data))
        kept, meta = state_file.read_run_state(state)
        self.restore(kept)
        self._apply()
        self.reporter.say(f"resuming after {meta['after']}")
        return int(meta["rounds"])

    def _distil(self, objective: Objective, state: Path | None, data: str | None) -> None:
        reporter = self.reporter
        settings, taken = prune_settings(self.options, self.controls, steps=self.timetable.total), 0
        if state is not None:
            meta = state_file.load_meta(state)
            taken, before = int(meta["step"]), meta.get("settings", {}).get("lr", settings.lr)
            if before != settings.lr:
                reporter.say(f"going on with another lr: {settings.lr}, until here {before}")
            reporter.say(f"resuming after step {taken} of {settings.steps}")
        with reporter.bar("distilling", settings.steps, done=taken) as advance:

            def progress(figures: StepFigures) -> None:
                self._record(figures, objective.figures)
                number = self.timetable.round_of(figures.step - 1) + 1
                advance(f"round {number} of {self.timetable.count}, {self.log.status()}")

            done = train(
                _Distilled(self.tower.visual, objective.learned),
                objective.batch,
                settings,
                loss=objective.loss_of,
                hooks=Hooks(before_step=self._before_step, after_step=lambda: self._hold(), progress=progress),
                world=self.world,
                rate=lambda step: self.timetable.learning_rate(step, lr=settings.lr),
                rate_may_change=True,
                beside=self,
                state=state,
                checkpoint=state_path(self.out),
                identity=self._identity(data),
            )
        objective.detach()
        self.tower.visual.eval()
        self.seconds_per_step = done.seconds_per_step
        last = done.losses[self.timetable.first_step(self.timetable.count - 1) :]
        last = last[-max(1, len(last) // 4) :]
        self.loss = sum(last) / len(last)

    def _identity(self, data: str | None) -> dict[str, Any]:
        """What must be the same when an interrupted run goes on."""
        options = {name: value for name, value in asdict(self.options).items() if name != "lr"}
        return {"verb": "prune", "options": options, "images": data}

    def _before_step(self, step: int) -> None:
        number = self.timetable.round_of(step)
        if step == self.timetable.first_step(number):
            self.tower.visual.eval()
            try:
                self.cut(number)
            except MaskError as error:
                if step == 0:  # the source's own weights
                    raise
                reason = str(error).partition(";")[0]
                raise NotFiniteError(f"{reason}, after step {step} of {self.timetable.total}") from error
            self.tower.visual.train()

    def cut(self, number: int) -> None:
        """Remove the weights of round `number`, counted from 0, from the masks and the tower."""
        super().cut(number)
        self._apply()
        kept_now = sum(int(mask.sum()) for mask in self.tower.masks.values())
        step = self.timetable.first_step(number)
        sparsity = sparsity_of(self.tower.masks)
        self.log.round(step=step, number=number + 1, sparsity=sparsity, kept=kept_now)

    def _apply(self) -> None:
        apply_masks(self.tower.visual, self.tower.masks, self.pattern.coupled(self.tower.masks))
        self._hold = self._holder()

    def _holder(self) -> Any:
        return hold(self.tower.visual, self.tower.masks, self.pattern.coupled(self.tower.masks))

    def _record(self, figures: StepFigures, details: Mapping[str, float]) -> None:
        step = figures.step - 1
        self.steps.append({"step": step, "loss": figures.loss, "lr": figures.lr, **details})
        self.log.step(figures, details=details)
        number = self.timetable.round_of(step)
        if figures.step == self.timetable.first_step(number + 1):
            self._keep_tower(number)

    def _keep_tower(self, number: int) -> None:
        """Save the tower after round `number`, if earlier rounds are kept with their weights."""
        if self._snapshots is not None and number < self.timetable.count - 1 and self.world.is_main:
            self._snapshots.save(number + 1, self.tower.visual)

    def tensors(self) -> dict[str, Tensor]:
        """What the state holds in addition to tower and optimizer: the rounds, and the report's columns (float64).

        NaN stands for a figure that a step did not have, because a figure of a finite loss is never NaN.
        """
        columns = sorted({name for entry in self.steps for name in entry})
        table = {
            f"steps.{name}": torch.tensor([entry.get(name, math.nan) for entry in self.steps], dtype=torch.float64)
            for name in columns
        }
        return {**state_file.with_prefix("round_of", tensors(self._round_of)), **table}

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` returned, given as `kept`, and hold the masks of that moment."""
        self._round_of = arrays(state_file.under_prefix("round_of", kept))
        self.tower.masks.update({layer: self._before[layer] & (array == 0) for layer, array in self._round_of.items()})
        self._hold = self._holder()
        columns = {name: values.tolist() for name, values in state_file.under_prefix("steps", kept).items()}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        there = [{name: value for name, value in row.items() if not math.isnan(value)} for row in rows]
        self.steps = [{**row, "step": int(row["step"])} for row in there]

    def tower_tensors(self) -> Tensors:
        """The trained tensors of the tower, one for each layer."""
        return self.tower.tensors()

    def round_weights(self) -> Mapping[int, Tensors]:
        """The tower's tensors after each round but the last, by round counted from 1, if they were asked for."""
        return self._snapshots or {}

    def discard(self) -> None:
        """Remove the files that only a resumed run would need."""
        super().discard()
        if self._snapshots is not None:
            self._snapshots.discard()


class Snapshots(Mapping[int, Tensors]):
    """Towers after rounds, by number from 1, each in a file next to the target; a file is read when it is needed.

    They are not kept in memory, because a run of a full-size tower has gigabytes of them.
    """

    def __init__(self, out: Path) -> None:
        self._out = out

    def _paths(self) -> dict[int, Path]:
        paths = {number: round_path(self._out, number) for number in range(1, MAX_ROUNDS)}
        return {number: path for number, path in paths.items() if path.exists()}

    def save(self, number: int, visual: nn.Module) -> None:
        """Write the tower as it is after round `number`."""
        state_file.save_state(
            round_path(self._out, number), tensors=split_packed(visual.state_dict()), meta={"round": number}
        )

    def __getitem__(self, number: int) -> dict[str, NDArray[Any]]:
        return arrays(state_file.read_run_state(round_path(self._out, number))[0])

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._paths()))

    def __len__(self) -> int:
        return len(self._paths())

    def discard(self) -> None:
        """Remove the files."""
        for path in self._paths().values():
            path.unlink()
