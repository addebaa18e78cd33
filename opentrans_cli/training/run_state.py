"""Everything a training run is made of, saved and restored: model, optimizer, averages, scale and past losses.

model.<name>, optimizer.<parameter>.<slot>   see state_file.py
ema.<parameter>                              averages, if there are any
log.losses                                   float64, by step
beside.<name>                                what the caller keeps of its own
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from opentrans_cli.errors import TrainingError
from opentrans_cli.training import state_file
from opentrans_cli.training.optimizer import build_optimizer, embeddings
from opentrans_cli.training.processes.distributed import World
from opentrans_cli.training.processes.sharding import local_tensor, put
from opentrans_cli.training.settings import Precision, TrainSettings

# These may differ between an interrupted run and its resumption.
_MAY_CHANGE = ("save_every", "log_every", "eval_every", "max_minutes", "shard")
_GROWTH, _BACK_OFF, _INTERVAL = 2.0, 0.5, 2000  # of the scale of a float16 loss


class Average:
    """Exponential moving averages of `trained`, by name, which often segment better than the last parameters.

    The decay of the n-th update (from 0) is min(decay, (1 + n) / (10 + n)): otherwise the initial parameters would
    dominate the average of a short run. A weight that was zero at every update is exactly zero.
    """

    def __init__(self, trained: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.tensors: dict[str, Tensor] = {name: p.detach().clone() for name, p in trained.items()}
        self._parameters = [local_tensor(parameter) for parameter in trained.values()]
        self._averages = [local_tensor(tensor) for tensor in self.tensors.values()]

    def begin(self) -> None:
        """Take the parameters as they are."""
        torch._foreach_copy_(self._averages, self._parameters)

    def update(self, number: int) -> None:
        """Move towards the parameters; `number` counts the updates from 0."""
        decay = min(self.decay, (1 + number) / (10 + number))
        torch._foreach_lerp_(self._averages, self._parameters, 1 - decay)

    def fill(self) -> None:
        """Write the averages into the parameters."""
        torch._foreach_copy_(self._parameters, self._averages)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Inside, the parameters are the averages."""
        before = [parameter.clone() for parameter in self._parameters]
        self.fill()
        try:
            yield
        finally:
            torch._foreach_copy_(self._parameters, before)


class LossScale:
    """The factor of the loss before the backward pass: 1, or for float16 a scale as in torch's GradScaler.

    It is halved after gradients that are not finite and doubled after 2000 steps without them. It is a power of two, so
    that dividing the gradients by it is exact. It uses the norm that clipping needs anyway, and is the same number in
    every process.
    """

    def __init__(self, precision: Precision) -> None:
        self.changes = precision == "float16"
        self.value = 2.0**16 if self.changes else 1.0
        self.good_steps = 0  # since it last changed

    def back_off(self) -> bool:
        """Call after gradients that were not finite; returns whether it is enough to skip the step."""
        self.value *= _BACK_OFF if self.changes else 1.0
        self.good_steps = 0
        return self.changes and self.value >= 1

    def count_good(self) -> None:
        """Call after a step that was taken."""
        self.good_steps += 1
        if self.changes and self.good_steps == _INTERVAL:
            self.value, self.good_steps = self.value * _GROWTH, 0

    def state(self) -> dict[str, float]:
        """Return the numbers that `restore` needs."""
        return {"value": self.value, "good_steps": self.good_steps} if self.changes else {}

    def restore(self, state: dict[str, float]) -> None:
        """Continue from `state`."""
        if self.changes:
            self.value, self.good_steps = float(state["value"]), int(state["good_steps"])


class Beside(Protocol):
    """What a caller keeps in the state of a run beside model and optimizer."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the current tensors by name."""

    def restore(self, tensors: Mapping[str, Tensor], /) -> None:
        """Restore what `tensors` returned; the model already has its weights."""


class RunState:
    """A run at some step. `world` has already wrapped `model`, because sharding replaces its parameters."""

    def __init__(
        self,
        model: nn.Module,
        settings: TrainSettings,
        world: World,
        *,
        identity: Mapping[str, Any] | None,
        notes: Mapping[str, Any] | None,
        beside: Beside | None = None,
    ) -> None:
        self.model, self.settings, self.world, self.device = model, settings, world, world.device
        self.identity, self.notes, self.beside = dict(identity or {}), dict(notes or {}), beside
        self.trained = trained_parameters(model)
        self.optimizer = build_optimizer(self.trained, settings, embeddings=embeddings(model))
        self.average = Average(self.trained, settings.ema) if settings.ema else None
        self.scale = LossScale(settings.precision)
        self.step, self.losses = 0, list[float]()

    @property
    def after(self) -> str:
        """How far the run is, in words."""
        return f"step {self.step} of {self.settings.steps}"

    def save(self, path: Path) -> None:
        """Write the state; all processes wait until it is written. Raises TrainingError if the disk refuses."""
        averages = {} if self.average is None else self.average.tensors
        tensors = {
            **state_file.with_prefix("model", self.model.state_dict()),
            **state_file.with_prefix("optimizer", state_file.optimizer_tensors(self.optimizer, self.trained)),
            **state_file.with_prefix("ema", averages),
            **state_file.with_prefix("beside", {} if self.beside is None else self.beside.tensors()),
            "log.losses": torch.tensor(self.losses, dtype=torch.float64),
        }
        how_far = {"step": self.step, "after": self.after}
        meta = {**self._compared(), **how_far, "scale": self.scale.state(), "notes": self.notes}
        state_file.save_state(path, tensors=tensors, meta=meta, write=self.world.is_main)
        self.world.barrier()

    def resume(self, path: Path, *, narrowed: bool, rate_may_change: bool = False) -> None:
        """Restore the run that wrote `path`, which may have trained more parameters if `narrowed`.

        Raises TrainingError for the state of another run.
        """
        tensors, meta = state_file.read_run_state(path)
        if rate_may_change and "settings" in meta:
            meta["settings"]["lr"] = self.settings.lr
        self._require_same(path, meta, narrowed=narrowed)
        state_file.restore_module(self.model, state_file.under_prefix("model", tensors), origin=str(path))
        slots = state_file.under_prefix("optimizer", tensors)
        own = {key: slot for key, slot in slots.items() if key.rpartition(".")[0] in self.trained}
        state_file.restore_optimizer(self.optimizer, self.trained, tensors=own)
        if self.average is not None:
            for name, average in self.average.tensors.items():
                put(average, tensors[f"ema.{name}"])
        self.scale.restore(meta["scale"])
        self.step, self.losses = int(meta["step"]), tensors["log.losses"].tolist()
        if self.beside is not None:
            self.beside.restore(state_file.under_prefix("beside", tensors))

    def _compared(self) -> dict[str, Any]:
        settings = {k: v for k, v in dataclasses.asdict(self.settings).items() if k not in _MAY_CHANGE}
        compared = {
            "settings": settings,
            "trained": sorted(self.trained),
            "identity": self.identity,
            "device": self.device.type,
        }
        as_read: dict[str, Any] = json.loads(json.dumps(compared))
        return as_read

    def _require_same(self, path: Path, found: Mapping[str, Any], *, narrowed: bool) -> None:
        for part, now in self._compared().items():
            was = found.get(part)
            if narrowed and part == "trained":
                was = [name for name in was or () if name in self.trained]
            _require_equal(path, part, was, now)


def require_identity(path: Path, identity: Mapping[str, Any]) -> None:
    """Raise TrainingError if the run that left the state at `path` has another `identity`; nothing is restored."""
    _require_equal(path, "identity", state_file.load_meta(path).get("identity"), json.loads(json.dumps(identity)))


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that require gradients, by name. Raises TrainingError if there are none."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trained:
        raise TrainingError("nothing to train: every parameter is frozen; freeze fewer layers")
    return trained


def _require_equal(path: Path, part: str, was: Any, now: Any) -> None:
    if was != now:
        raise TrainingError(
            f"state of another run: {path} ({_difference(part, was, now)}); "
            "resume with the options of the interrupted run, or start anew with --force and without --resume"
        )


def _difference(part: str, was: Any, now: Any) -> str:
    """Describe the first entry in which two mappings differ."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        key = min(key for key in {*was, *now} if was.get(key) != now.get(key))
        return _difference(key, was.get(key), now.get(key))
    if part == "trained" and isinstance(was, list):
        return f"{part}, first at '{min(set(map(str, was)) ^ set(map(str, now)), default='another order')}'"
    return f"{part} was {was}, now {now}"
