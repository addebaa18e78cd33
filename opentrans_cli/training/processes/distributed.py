"""The processes that work on one run: a world of one, or as many as torchrun started (accelerate, gloo or nccl).

Every process runs the same program on its share of each batch. Only the first, rank 0, writes files and prints. All
processes must reach every `total`, `agree`, `collect`, `barrier`, `gathered` and training step.
"""

from __future__ import annotations

import atexit
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from opentrans_cli.errors import OptionError
from opentrans_cli.training.device import resolve_device
from opentrans_cli.training.processes.batchnorm import GlobalBatchNorm2d, own_statistics, share_statistics
from opentrans_cli.training.processes.dropout import BatchRows, own_dropout, share_dropout
from opentrans_cli.training.processes.failures import Failures
from opentrans_cli.training.processes.sharding import Shards

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")

_HOURS = timedelta(days=7)
"""How long `collect` waits; torch's own patience of some minutes is for processes that go in step."""

_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class _Wrapped(NamedTuple):
    """What `World.wrap` made of a module."""

    module: nn.Module
    called: nn.Module  # in its place
    rows: BatchRows
    shards: Shards | None = None


class World:
    """One process alone; use it in a `with` statement, so that an error on one rank is reported once and ends all."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank, self.size = 0, 1
        self._wrapped: list[_Wrapped] = []

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and prints."""
        return self.rank == 0

    def wrap(
        self, module: nn.Module, *, sync_batchnorm: bool = True, shard: bool = False, accumulate: int = 1
    ) -> nn.Module:
        """Return what to call in training in place of `module`; its gradients are means over processes.

        `module` moves to the world's device and keeps its names; its values become those of rank 0. Its dropout works
        on the whole batch, whatever the number of processes and of the `accumulate` parts of a step (see `part`). In
        train mode its BatchNorms use the batches of all processes; without `sync_batchnorm` each process uses its own.
        Then running statistics differ, and those of rank 0 are kept (see `gathered`). With `shard` the result is the
        module itself, and DTensors replace its parameters (see sharding.Shards): make the optimizer afterwards. All
        processes must take part.

        Raises OptionError for a BatchNorm that cannot see all batches, and for dropout that cannot be shared.
        """
        self._wrapped.append(_Wrapped(module, module, self._share_dropout(module, accumulate)))
        return module

    def unwrap(self, module: nn.Module) -> None:
        """Undo `wrap` for `module`: it gets its own parameters back, if it was sharded, and the running statistics of
        rank 0. All processes must take part, so do not use it to clean up after an error in one process.
        """
        for wrapped in [wrapped for wrapped in self._wrapped if wrapped.module is module]:
            self._wrapped.remove(wrapped)
        own_dropout(module)

    @contextmanager
    def part(self, number: int) -> Iterator[None]:
        """Enclose the forward and backward pass of part `number` (from 0) of the `accumulate` parts given to `wrap`.

        Dropout uses the random numbers of this part's rows, and processes exchange gradients at the last part only.
        """
        for wrapped in self._wrapped:
            wrapped.rows.part = number
        yield

    @contextmanager
    def gathered(self, module: nn.Module) -> Iterator[None]:
        """Inside, the wrapped `module` is whole and the same in every process, and in eval mode a forward pass needs no
        other process, so processes may evaluate different numbers of images. Only read: with sharded parameters, what
        is written is lost. All processes must enter.
        """
        yield

    def share(self, rows: NDArray[np.int64], *, accumulate: int = 1) -> NDArray[np.int64]:
        """Return this process's rows of a step: an equal piece of each of the `accumulate` parts, ordered by rank.
        So a part has the same rows, over all processes together, whatever the number of processes.

        Raises OptionError if the rows cannot be divided equally, as the mean of unequal parts' means is not the mean of
        all.
        """
        if len(rows) % (self.size * accumulate):
            parts = "" if accumulate == 1 else f" x {accumulate} parts"
            raise OptionError(
                f"a batch must divide among the processes: {len(rows)} by {self.size}{parts}; "
                "choose another --batch-size"
            )
        return rows.reshape(accumulate, self.size, -1)[:, self.rank].reshape(-1)

    def total(self, tensor: Tensor) -> None:
        """Sum `tensor`, of any device and any dtype but bool, over the processes, in place, the same bits in each."""

    def agree(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return rank 0's `tensors`; the others pass tensors of the same names, shapes and dtypes, on any device."""
        return dict(tensors)

    def collect(self, value: T) -> list[T]:
        """Return what all processes pass, by rank. They may come to this call hours apart."""
        return [value]

    def barrier(self) -> None:
        """Wait until every process has reached this call."""

    def close(self) -> None:
        """Release what was wrapped. The connections stay open for the next world of this process."""
        self._wrapped.clear()

    def _share_dropout(self, module: nn.Module, accumulate: int) -> BatchRows:
        return share_dropout(module, rank=self.rank, size=self.size, accumulate=accumulate)

    def __enter__(self) -> World:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _ManyProcesses(World):
    """The processes of `accelerator`, joined by torch.distributed."""

    def __init__(self, accelerator: Accelerator) -> None:
        # accelerate calls the CPU "cpu:0", which is not equal to the "cpu" of tensors there.
        super().__init__(accelerator.device if accelerator.device.type == "cuda" else torch.device("cpu"))
        self.rank, self.size = accelerator.process_index, accelerator.num_processes
        self._accelerator = accelerator
        self._patient: Any = None  # the group whose members `collect` waits for
        self._failures = Failures(self.rank, self.size)

    def wrap(
        self, module: nn.Module, *, sync_batchnorm: bool = True, shard: bool = False, accumulate: int = 1
    ) -> nn.Module:
        rows = self._share_dropout(module, accumulate)
        if sync_batchnorm:
            share_statistics(module)
        if shard:
            self._take_from_main([*module.parameters(), *module.buffers()])
            shards = Shards(module, init_device_mesh(self.device.type, (self.size,)))
            self._wrapped.append(_Wrapped(module, module, rows, shards))
            return module
        # Gradients of 1 x 1 convolutions in channels_last differ from the weights in strides that have no effect.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        called: nn.Module = self._accelerator.prepare_model(module)
        self._wrapped.append(_Wrapped(module, called, rows))
        return called

    def unwrap(self, module: nn.Module) -> None:
        for shards in self._shards(module):
            shards.undo()
        if any(wrapped.module is module for wrapped in self._wrapped):
            self._take_from_main(_own_buffers(module))
        super().unwrap(module)
        own_statistics(module)
        if not self._wrapped:
            self._accelerator.free_memory()  # a wrapper that is alive follows the gradients of its parameters

    @contextmanager
    def part(self, number: int) -> Iterator[None]:
        with super().part(number), ExitStack() as stack:
            for wrapped in self._wrapped:
                # Sharded gradients are reduced at every part: whole ones in between would need the memory again.
                if isinstance(wrapped.called, DistributedDataParallel) and number < wrapped.rows.accumulate - 1:
                    stack.enter_context(wrapped.called.no_sync())
            yield

    @contextmanager
    def gathered(self, module: nn.Module) -> Iterator[None]:
        self._take_from_main(_own_buffers(module))
        with ExitStack() as stack:
            for shards in self._shards(module):
                stack.enter_context(shards.gathered())
            yield

    def _shards(self, module: nn.Module) -> list[Shards]:
        return [wrapped.shards for wrapped in self._wrapped if wrapped.module is module and wrapped.shards]

    def _take_from_main(self, tensors: Iterable[Tensor]) -> None:
        with torch.no_grad():
            for tensor in tensors:
                tensor.copy_(self._of_main(tensor))

    def total(self, tensor: Tensor) -> None:
        if tensor.dtype is torch.bool:
            raise ValueError("a sum of bools is no bool; give integers")
        # nccl moves only tensors on its device. One process sums and sends the result, so that all have the same bits.
        summed = tensor.detach().to(self.device, copy=True, memory_format=torch.contiguous_format)
        dist.reduce(summed, dst=0)
        dist.broadcast(summed, src=0)
        with torch.no_grad():
            tensor.copy_(summed)

    def agree(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self._of_main(tensor) for name, tensor in tensors.items()}

    def _of_main(self, tensor: Tensor) -> Tensor:
        dtype = torch.uint8 if tensor.dtype is torch.bool else tensor.dtype  # gloo does not support bool
        sent = tensor.detach().to(self.device, dtype, copy=True, memory_format=torch.contiguous_format)
        dist.broadcast(sent, src=0)
        return sent.to(tensor.device, tensor.dtype)

    def collect(self, value: T) -> list[T]:
        if self._patient is None:
            self._patient = dist.new_group(timeout=_HOURS)
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self._patient)
        return found

    def barrier(self) -> None:
        self._accelerator.wait_for_everyone()

    def close(self) -> None:
        super().close()
        self._accelerator.free_memory()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if isinstance(error, Exception):
            self._failures.settle(error)


def _own_buffers(module: nn.Module) -> list[Tensor]:
    """Running statistics that each process keeps for its own batches only."""
    parts = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._NormBase)]
    return [buffer for part in parts if not isinstance(part, GlobalBatchNorm2d) for buffer in part.buffers()]


def open_world(device: str) -> World:
    """Open the world of the processes torchrun started, by its environment variables; without them, of this one alone.

    `device`: auto, cpu, cuda or mps; under torchrun one GPU each, or the CPU for all. All processes must open their
    worlds equally often. Raises OptionError for a device this machine lacks, has too few of, or that works alone, for
    an incomplete environment, and where accelerate is missing.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return World(resolve_device(device))
    return _ManyProcesses(_accelerator(_check_device(device)))


def _check_device(name: str) -> str:
    """ "cpu" or "cuda"; refuses what accelerate would let pass and fail on later."""
    missing = [variable for variable in _VARIABLES if variable not in os.environ]
    if missing:
        raise OptionError(f"WORLD_SIZE is set, but not {', '.join(missing)}; start several processes with torchrun")
    kind = resolve_device(name).type
    if kind == "mps":
        raise OptionError("several processes cannot share MPS: --device mps; use --device cpu, or one process")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", int(os.environ["LOCAL_RANK"]) + 1))
    if kind == "cuda" and here > torch.cuda.device_count():
        raise OptionError(
            f"more processes than GPUs on this machine: {here} > {torch.cuda.device_count()}; "
            "lower --nproc-per-node, or use --device cpu"
        )
    if dist.is_initialized() and (dist.get_backend() == "gloo") != (kind == "cpu"):
        raise OptionError(f"this process works with {dist.get_backend()} already: --device {name}; start another")
    return kind


def _accelerator(kind: str) -> Accelerator:
    # Otherwise accelerate chooses a number, with a warning; torchrun has set one if processes share a machine.
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs
    except ImportError as error:
        raise OptionError(
            "several processes need accelerate, which is not installed; pip install 'opentrans-cli[distributed]'"
        ) from error
    first = not dist.is_initialized()
    ddp = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    accelerator = Accelerator(cpu=kind == "cpu", mixed_precision="no", kwargs_handlers=[ddp])
    if first:
        atexit.register(dist.destroy_process_group)
    return accelerator
