"""The state of a run in one safetensors file: tensors under flat names, and JSON. No pickle.

    model.<name>                   parameters and buffers
    optimizer.<parameter>.<slot>   the optimizer's state by parameter name, for example exp_avg

Other names may be chosen freely. A file is written whole or not at all: if the process is killed, the old file stays.
Sharded tensors are stored whole, so that a run can resume on another number of processes: all processes must reach
`save_state`, and one of them writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from opentrans_cli.errors import BundleError, TrainingError
from opentrans_cli.files.tensorfile import read_metadata, read_tensors, write_tensors
from opentrans_cli.training.processes.sharding import put, whole

_KIND = "opentrans-state"
_VERSION = 2


def save_state(path: Path, *, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], write: bool = True) -> None:
    """Write `tensors` (any device, no bfloat16) and `meta` (JSON); same content, same bytes.

    write: False in all processes but one. Raises TrainingError if the disk refuses.
    """
    arrays = {}
    for name, tensor in tensors.items():
        full = whole(tensor)
        if write:
            arrays[name] = full.detach().cpu().contiguous().numpy()
    if not write:
        return
    try:
        write_tensors(path, arrays, {"kind": _KIND, "version": _VERSION, "meta": dict(meta)})
    except BundleError as error:
        raise TrainingError(str(error)) from error


def read_run_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (tensors on the CPU, meta) as `save_state` was given them.

    Raises TrainingError if the file is missing, damaged, or not the state of a run.
    """
    meta = load_meta(path)
    with _explained(path):
        return {name: torch.from_numpy(array) for name, array in read_tensors(path).items()}, meta


def load_meta(path: Path) -> dict[str, Any]:
    """Return the `meta` given to `save_state`, without reading the tensors. Raises as `read_run_state` does."""
    with _explained(path):
        header = read_metadata(path)
    if header.get("kind") != _KIND or header.get("version") != _VERSION:
        raise TrainingError(
            f"not the state of a run of this version: {path}; start anew with --force and without --resume"
        )
    return dict(header["meta"])


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except BundleError as error:
        reason = str(error).split(";")[0]
        raise TrainingError(f"cannot resume: {reason}; start anew with --force and without --resume") from error


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `tensors` with `prefix.` before every name."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def under_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose name starts with `prefix.`, under the name without this prefix."""
    start = f"{prefix}."
    return {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}


def restore_module(module: nn.Module, tensors: Mapping[str, Tensor], *, origin: str) -> None:
    """Copy `tensors` into the parameters and buffers of `module`, in place.

    Raises TrainingError naming `origin` and the first name or shape that differs, before changing anything.
    """
    own = module.state_dict()
    different = sorted(own.keys() ^ tensors.keys()) or sorted(
        name for name, tensor in own.items() if _shape(tensor) != _shape(tensors[name])
    )
    if different:
        raise TrainingError(
            f"state of another model: {origin} (first difference at '{different[0]}'); "
            "resume with the options of the interrupted run"
        )
    for name, tensor in own.items():
        put(tensor, tensors[name])


def _shape(tensor: Tensor) -> tuple[int, ...]:
    # Single numbers have one dimension while they are sharded.
    return (1,) if tensor.ndim == 0 else tuple(tensor.shape)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the optimizer's tensors as `<parameter>.<slot>`; `names` are the parameters it holds, by name."""
    return {
        f"{name}.{slot}": value
        for name, parameter in names.items()
        for slot, value in optimizer.state.get(parameter, {}).items()
        if value is not None  # SGD without momentum has such a slot
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[str, Tensor], *, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` gave. Raises TrainingError for a parameter the optimizer lacks.

    Slots of the parameter's shape get its device, memory layout and shards; the step count stays on the CPU, where
    torch keeps it.
    """
    state: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, slot = key.rpartition(".")
        if name not in names:
            raise TrainingError(
                f"state of a run that trained another parameter: '{name}'; freeze the layers that run froze"
            )
        state.setdefault(name, {})[slot] = tensor.clone() if slot == "step" else _like(names[name], tensor)
    for name, slots in state.items():
        optimizer.state[names[name]] = slots


def _like(parameter: Tensor, tensor: Tensor) -> Tensor:
    # Another memory layout selects other kernels, whose results may differ in the last bits.
    restored = torch.empty_like(parameter, requires_grad=False)
    put(restored, tensor)
    return restored
