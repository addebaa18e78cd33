"""One optimizer step: parts of a batch, their gradients, the loss terms of all processes, and possible errors."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from opentrans_cli.errors import OptionError, TrainingError
from opentrans_cli.training import optimizer as optimizers
from opentrans_cli.training.optimizer import rate_at
from opentrans_cli.training.run_state import RunState
from opentrans_cli.training.settings import Precision


class RunningStatistics:
    """A copy of the running statistics of all BatchNorms in `module`, whose buffers must stay the same tensors.

    A forward pass with NaN or infinite activations changes the statistics before the loss is known.
    """

    def __init__(self, module: nn.Module) -> None:
        norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._NormBase)]
        buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
        # Tensors of one dtype are copied in one launch; with several dtypes they are copied one by one.
        kinds = {buffer.dtype for buffer in buffers}
        self._pairs: list[tuple[list[Tensor], list[Tensor]]] = []
        for kind in kinds:
            own = [buffer for buffer in buffers if buffer.dtype is kind]
            self._pairs.append((own, [buffer.clone() for buffer in own]))

    @torch.no_grad()
    def keep(self) -> None:
        """Copy the current statistics."""
        for own, kept in self._pairs:
            torch._foreach_copy_(kept, own)

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the statistics of the last `keep`."""
        for own, kept in self._pairs:
            torch._foreach_copy_(own, kept)


Batch = tuple[Tensor, ...]


class Loss(Protocol):
    """The loss of a step: the sum of all terms over all parts of all processes."""

    def whole(self, batch: Batch, /) -> Any:
        """Return what every part needs to know of the whole batch; called once per step.

        It gets this process's share, on the device. All processes call it, so the loss may sum over them.
        """

    def __call__(self, part: Batch, whole: Any, /) -> Mapping[str, Tensor]:
        """Return the weighted terms of one part, 0-d, under the same names every time."""


class NotFiniteError(TrainingError):
    """A loss or gradient that is not finite; model and optimizer are as before the step."""


@dataclass(frozen=True)
class Outcome:
    """The result of one step for the whole batch, which is the same in every process."""

    terms: dict[str, float]
    lr: float
    grad_norm: float  # before clipping; infinite if float16 overflowed, in which case the step changed nothing
    late: bool  # the time limit of rank 0 has passed
    told: bool  # a process got a signal to stop

    @property
    def stop(self) -> bool:
        """Whether all processes are to end after this step."""
        return self.late or self.told

    @property
    def loss(self) -> float:
        """The sum of the terms."""
        return sum(self.terms.values())


class Stepper:
    """Takes the steps of `run`; `loss` calls the wrapped model. rate: step -> learning rate; None: the schedule."""

    def __init__(self, run: RunState, loss: Loss, *, rate: Callable[[int], float] | None = None) -> None:
        self._run, self._loss = run, loss
        self._rate = rate or (lambda step: run.settings.lr * rate_at(run.settings, step))
        self._statistics = RunningStatistics(run.model)

    def take(self, batch: Batch, *, late: bool = False, told: Callable[[], bool] = lambda: False) -> Outcome:
        """Take one step and find out whether it must be the last: `late` counts in rank 0, `told`, which is asked when
        the gradients are there, in any process.

        Raises NotFiniteError, and OptionError for a batch without equal parts.
        """
        run = self._run
        rate = self._rate(run.step)
        self._statistics.keep()
        optimizers.set_rate(run.optimizer, rate)
        run.optimizer.zero_grad(set_to_none=True)
        sums = self._backward(tuple(tensor.to(run.device, non_blocking=True) for tensor in batch))
        outcome = self._outcome(sums, rate, late=late and run.world.is_main, told=told)
        if not math.isfinite(outcome.loss):
            raise self._failed("loss")
        if math.isfinite(outcome.grad_norm):
            self._update(outcome.grad_norm)
        elif run.scale.back_off():
            self._statistics.restore()
        else:
            raise self._failed("gradient")
        run.step += 1
        run.losses.append(outcome.loss)
        return outcome

    def _backward(self, batch: Batch) -> dict[str, Tensor]:
        """Leave the gradients of all parts in the parameters; returns the sums of this process's terms."""
        run, sums = self._run, dict[str, Tensor]()
        factor = run.world.size * run.scale.value  # wrappers give the mean of the processes' gradients
        self._seed()
        with torch.no_grad():
            whole = self._loss.whole(batch)
        for number, part in enumerate(parts_of(batch, run.settings.accumulate)):
            with run.world.part(number):
                self._seed()
                with autocast(run.device, run.settings.precision):
                    terms = self._loss(part, whole)
                total = torch.stack([term.float() for term in terms.values()]).sum()
                (total if factor == 1 else total * factor).backward()  # type: ignore[no-untyped-call]
            for name, term in terms.items():
                sums[name] = sums[name] + term.detach() if name in sums else term.detach()
        return sums

    def _seed(self) -> None:
        # The seed is the same in all parts and processes: dropout makes random numbers for the whole batch and uses
        # its own share.
        seed_all(self._run.device, self._run.settings.seed, self._run.step)

    def _outcome(self, sums: dict[str, Tensor], rate: float, *, late: bool, told: Callable[[], bool]) -> Outcome:
        """Sum over the processes with one message, and copy to the host once, whatever the number of terms."""
        run, names = self._run, sorted(sums)
        wide = torch.float32 if run.device.type == "mps" else torch.float64
        numbers = torch.stack([sums[name].to(wide) for name in names])
        numbers = torch.cat([numbers, numbers.new_tensor([float(late), float(told())])])
        if run.world.size > 1:
            run.world.total(numbers)
        scaled = optimizers.total_norm(optimizers.gradients(run.trained.values())).to(numbers)
        *values, any_late, any_told, length = torch.cat([numbers, scaled[None]]).tolist()
        terms = dict(zip(names, values, strict=True))
        norm = length / run.scale.value if math.isfinite(length) else math.inf  # one infinite value makes a NaN of it
        return Outcome(terms, rate, norm, any_late > 0, any_told > 0)

    def _update(self, norm: float) -> None:
        run = self._run
        optimizers.clip_gradients(
            optimizers.gradients(run.trained.values()), norm, limit=run.settings.grad_clip, scale=run.scale.value
        )
        run.optimizer.step()
        run.scale.count_good()

    def _failed(self, what: str) -> NotFiniteError:
        run = self._run
        self._statistics.restore()
        run.optimizer.zero_grad(set_to_none=True)
        return NotFiniteError(f"{what} is not finite: step {run.step + 1} of {run.settings.steps}")


def parts_of(batch: Batch, count: int) -> list[Batch]:
    """Cut `batch` into equal parts along the first dimension."""
    if count == 1:
        return [batch]
    length = len(batch[0])
    if length % count:
        raise OptionError(
            f"a process's share must divide into its parts: {length} by {count}; "
            "choose another --accumulate or --batch-size"
        )
    return list(zip(*(tensor.split(length // count) for tensor in batch), strict=True))


def seed_all(device: torch.device, *numbers: int) -> None:
    """Seed the CPU's generator, and `device`'s if it is an accelerator, from `numbers`, whose order counts."""
    # With a simple sum, two runs with neighbouring seeds would get the same random numbers at different steps.
    digest = hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()
    seed = int.from_bytes(digest[:4], "little")  # the CPU's generator takes no larger seed
    # torch.manual_seed would record the call stack for devices that are not in use.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
    elif device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


@contextmanager
def generators_kept(device: torch.device) -> Iterator[None]:
    """Restore the generators of the CPU and of `device` when the block ends."""
    module = None if device.type == "cpu" else torch.get_device_module(device)
    # Only CUDA has one generator per card; the functions of other backends take no device.
    index = (device,) if device.type == "cuda" else ()
    before, others = torch.get_rng_state(), module and module.get_rng_state(*index)
    try:
        yield
    finally:
        torch.set_rng_state(before)
        if module is not None:
            module.set_rng_state(others, *index)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Inside, torch computes in `precision` where that is safe; parameters and their gradients stay float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bfloat16" else torch.float16)
