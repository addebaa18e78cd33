"""One optimizer step: the parts of a batch, their gradients and loss terms of all processes, and what may go wrong."""

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
    """A copy of those of the BatchNorms inside `module`, whose buffers must stay the same tensors.

    A forward pass with NaN or infinite activations reaches them before the loss is seen.
    """

    def __init__(self, module: nn.Module) -> None:
        norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._NormBase)]
        buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
        # Tensors of one dtype are copied in one launch, of several one by one.
        kinds = {buffer.dtype for buffer in buffers}
        self._pairs: list[tuple[list[Tensor], list[Tensor]]] = []
        for kind in kinds:
            own = [buffer for buffer in buffers if buffer.dtype is kind]
            self._pairs.append((own, [buffer.clone() for buffer in own]))

    @torch.no_grad()
    def keep(self) -> None:
        """Remember them as they are."""
        for own, kept in self._pairs:
            torch._foreach_copy_(kept, own)

    @torch.no_grad()
    def restore(self) -> None:
        """Make them what they were at the last `keep`."""
        for own, kept in self._pairs:
            torch._foreach_copy_(own, kept)


Batch = tuple[Tensor, ...]


class Loss(Protocol):
    """The loss of a step: the sum of all terms over all parts of all processes."""

    def whole(self, batch: Batch, /) -> Any:
        """Once a step, with this process's share on the device: what every part needs to know of the whole batch.

        Its sums over the processes are the loss's own business; all of them call it.
        """

    def __call__(self, part: Batch, whole: Any, /) -> Mapping[str, Tensor]:
        """The weighted terms of one part, 0-d; the same names every time."""


class NotFiniteError(TrainingError):
    """A loss or gradient that is not finite; model and optimizer are as before the step."""


@dataclass(frozen=True)
class Outcome:
    """What one step found, of the whole batch and the same in every process."""

    terms: dict[str, float]
    lr: float
    grad_norm: float  # before clipping; infinite if float16 overflowed, and then the step changed nothing
    late: bool  # rank 0's time is up
    told: bool  # a process was told to stop

    @property
    def stop(self) -> bool:
        """Whether all processes are to end after this step."""
        return self.late or self.told

    @property
    def loss(self) -> float:
        """The sum of the terms."""
        return sum(self.terms.values())


class Stepper:
    """Takes the steps of `run`; `loss` calls the wrapped model. rate: step -> learning rate, if not by the schedule."""

    def __init__(self, run: RunState, loss: Loss, *, rate: Callable[[int], float] | None = None) -> None:
        self._run, self._loss = run, loss
        self._rate = rate or (lambda step: run.settings.lr * rate_at(run.settings, step))
        self._statistics = RunningStatistics(run.model)

    def take(self, batch: Batch, *, late: bool = False, told: bool = False) -> Outcome:
        """One step, and whether it has to be the last: `late` is what rank 0 says, `told` what any process does.

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
        # The same in all parts and processes: dropouts draw for the whole batch and take what is theirs.
        seed_all(self._run.device, self._run.settings.seed, self._run.step)

    def _outcome(self, sums: dict[str, Tensor], rate: float, *, late: bool, told: bool) -> Outcome:
        """One message to the others and one to the host, whatever the number of terms."""
        run, names = self._run, sorted(sums)
        wide = torch.float32 if run.device.type == "mps" else torch.float64
        numbers = torch.stack([sums[name].to(wide) for name in names])
        numbers = torch.cat([numbers, numbers.new_tensor([float(late), float(told)])])
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
    """`batch` cut into equal parts along the first dimension."""
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
    # Their sum, or a step behind a seed, would let two runs with neighbouring seeds draw the same.
    digest = hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()
    seed = int.from_bytes(digest[:4], "little")  # the CPU's takes no more
    # torch.manual_seed would write down the call stack for devices that nobody uses.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
    elif device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


@contextmanager
def generators_kept(device: torch.device) -> Iterator[None]:
    """Afterwards the CPU's generator and `device`'s are as they were."""
    module = None if device.type == "cpu" else torch.get_device_module(device)
    # Only CUDA has a generator per card; the others' functions take no device.
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
