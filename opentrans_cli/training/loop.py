"""The training loop: AdamW over what is not frozen, masks held after every step, resumed bit for bit.

It knows no model and no data set: batches are a function of the step, the loss is a function of a batch.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from opentrans_cli.errors import TrainingError
from opentrans_cli.training import checkpoint as state_file
from opentrans_cli.training.settings import TrainSettings, rate_at

Batch = tuple[Tensor, ...]
Progress = Callable[[int, dict[str, float]], None]

_MAY_CHANGE = ("checkpoint_every", "log_every")  # between an interrupted run and its resumption


@dataclass(frozen=True)
class TrainLog:
    """What a run did, from its first step on, whether or not it was interrupted."""

    losses: tuple[float, ...]  # by step
    steps: int  # optimizer steps taken
    seconds_per_step: float  # median wall-clock time of the steps taken in this process, 0 if there were none


def train(
    model: nn.Module,
    batch_of: Callable[[int], Batch],
    settings: TrainSettings,
    *,
    loss: Callable[..., Tensor],
    after_step: Callable[[], None] | None = None,
    state: Path | None = None,
    checkpoint: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> TrainLog:
    """Train `model` in place and leave it in eval mode.

    batch_of: step (from 0) -> tensors, on any device; the same for the same step, or resuming is not exact.
    loss: called with the tensors of a batch on the model's device; a 0-d tensor.
    after_step: called once before the first step and after each; holds the masks.
    state: a file that an interrupted run wrote; the run goes on from there.
    checkpoint: where the state goes, every `settings.checkpoint_every` steps and at the end; may be `state`.
    identity: JSON that must be the same when resuming (masks, data).
    progress: called with the number of steps taken and {"loss", "lr", "grad_norm"}.

    Freeze before calling: only what requires gradients gets into the optimizer. Torch's generators are the
    caller's again afterwards. Raises TrainingError if nothing can be trained, if `state` is from another run,
    or if a loss or gradient is not finite: then the model holds the last good state, and so does
    `checkpoint`.
    """
    run = _Run(model, settings, identity or {})
    with _own_generators(run.device, settings.seed):
        if state is not None:
            run.resume(state)
        try:
            seconds = _steps(run, batch_of, loss, after_step=after_step, checkpoint=checkpoint, progress=progress)
        finally:
            model.eval()
    return TrainLog(tuple(run.losses), run.step, statistics.median(seconds) if seconds else 0.0)


def _steps(
    run: _Run,
    batch_of: Callable[[int], Batch],
    loss: Callable[..., Tensor],
    *,
    after_step: Callable[[], None] | None,
    checkpoint: Path | None,
    progress: Progress | None,
) -> list[float]:
    """All remaining steps; returns how many seconds each took."""
    settings, seconds = run.settings, list[float]()
    run.model.train()
    if after_step is not None:
        after_step()
    while run.step < settings.steps:
        started = time.perf_counter()
        figures = _step(run, batch_of, loss, checkpoint=checkpoint)
        if after_step is not None:
            after_step()
        seconds.append(time.perf_counter() - started)
        last = run.step == settings.steps
        if checkpoint is not None and (last or _due(run.step, settings.checkpoint_every)):
            run.save(checkpoint)
        if progress is not None and (last or _due(run.step, settings.log_every)):
            progress(run.step, figures)
    return seconds


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


class _Run:
    """Model, optimizer and what has happened so far."""

    def __init__(self, model: nn.Module, settings: TrainSettings, identity: Mapping[str, Any]) -> None:
        self.model, self.settings = model, settings
        self.identity = json.loads(json.dumps(identity))  # as it will be read back
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not self.trained:
            raise TrainingError("nothing to train: every parameter is frozen; freeze fewer layers")
        self.device = next(iter(self.trained.values())).device
        self.optimizer = build_optimizer(self.trained, settings)
        self.step, self.losses = 0, list[float]()

    def meta(self) -> dict[str, Any]:
        settings = {k: v for k, v in dataclasses.asdict(self.settings).items() if k not in _MAY_CHANGE}
        return {"settings": settings, "trained": sorted(self.trained), "identity": self.identity}

    def save(self, path: Path, rng: Mapping[str, Tensor] | None = None) -> None:
        tensors = {
            **state_file.with_prefix("model", self.model.state_dict()),
            **state_file.with_prefix("optimizer", state_file.optimizer_tensors(self.optimizer, self.trained)),
            **state_file.with_prefix("rng", rng or state_file.rng_tensors(self.device)),
            "log.losses": torch.tensor(self.losses, dtype=torch.float64),
        }
        state_file.save_state(path, tensors=tensors, meta={**self.meta(), "step": self.step})

    def resume(self, path: Path) -> None:
        tensors, meta = state_file.load_state(path)
        self._require_same(path, meta)
        state_file.restore_module(self.model, state_file.under_prefix("model", tensors), origin=str(path))
        state_file.restore_optimizer(
            self.optimizer, self.trained, tensors=state_file.under_prefix("optimizer", tensors)
        )
        state_file.restore_rng(state_file.under_prefix("rng", tensors), self.device)
        self.step, self.losses = int(meta["step"]), tensors["log.losses"].tolist()

    def _require_same(self, path: Path, found: Mapping[str, Any]) -> None:
        for part, now in self.meta().items():
            if found.get(part) != now:
                raise TrainingError(
                    f"state of another run: {path} ({_difference(part, found.get(part), now)}); "
                    "resume with the options of the interrupted run"
                )


def _difference(part: str, was: Any, now: Any) -> str:
    """What differs, told by the first entry where two mappings disagree."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        key = min(key for key in {*was, *now} if was.get(key) != now.get(key))
        return _difference(key, was.get(key), now.get(key))
    if isinstance(was, list) and isinstance(now, list):
        return f"{part}, first at '{min(set(map(str, was)) ^ set(map(str, now)), default='another order')}'"
    return f"{part} was {was}, now {now}"


def _step(
    run: _Run,
    batch_of: Callable[[int], Batch],
    loss: Callable[..., Tensor],
    *,
    checkpoint: Path | None,
) -> dict[str, float]:
    """One optimizer step; returns its figures."""
    rate = rate_at(run.settings, run.step)
    # A forward pass with NaN or infinite activations reaches the running statistics before the loss is seen.
    buffers, rng = [buffer.clone() for buffer in run.model.buffers()], state_file.rng_tensors(run.device)
    for group in run.optimizer.param_groups:
        group["lr"] = run.settings.lr * group["factor"] * rate
    run.optimizer.zero_grad(set_to_none=True)
    batch = tuple(tensor.to(run.device, non_blocking=True) for tensor in batch_of(run.step))
    value = loss(*batch)
    amount, norm = float(value.detach()), float("nan")
    if torch.isfinite(value):
        value.backward()  # type: ignore[no-untyped-call]
        limit = run.settings.grad_clip or float("inf")
        norm = float(torch.nn.utils.clip_grad_norm_(run.trained.values(), limit))
    if not norm < float("inf"):
        for buffer, good in zip(run.model.buffers(), buffers, strict=True):
            buffer.copy_(good)
        raise _not_finite(run, amount, rng, checkpoint)
    run.optimizer.step()
    run.step += 1
    run.losses.append(amount)
    return {"loss": amount, "lr": run.settings.lr * rate, "grad_norm": norm}


def _not_finite(run: _Run, amount: float, rng: Mapping[str, Tensor], checkpoint: Path | None) -> TrainingError:
    what = "gradient" if amount == amount and abs(amount) < float("inf") else "loss"
    kept = "" if checkpoint is None else f" (the state before it is in {checkpoint})"
    if checkpoint is not None:
        run.save(checkpoint, rng)
    return TrainingError(
        f"{what} is not finite: step {run.step + 1} of {run.settings.steps}{kept}; "
        f"lower the learning rate (now {run.settings.lr:g}) or add warm-up steps"
    )


def build_optimizer(trained: Mapping[str, nn.Parameter], settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW over `trained` (by name). Names under `backbone.` learn slower; tensors of one dimension or none
    (norms, biases, scalars) do not decay. Each group carries `factor`, its learning rate / `settings.lr`.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        groups.setdefault((name.startswith("backbone."), parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "factor": settings.backbone_lr_factor if in_backbone else 1.0,
                "weight_decay": settings.weight_decay if decays else 0.0,
            }
            for (in_backbone, decays), parameters in groups.items()
        ],
        lr=settings.lr,
    )


@contextmanager
def _own_generators(device: torch.device, seed: int) -> Iterator[None]:
    before = state_file.rng_tensors(device)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        state_file.restore_rng(before, device)
