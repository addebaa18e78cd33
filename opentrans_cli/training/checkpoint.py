"""The state of a run in one safetensors file: tensors under flat names, and JSON. No pickle.

    model.<name>                   parameters and buffers
    optimizer.<parameter>.<slot>   the optimizer's state by parameter name, for example exp_avg
    rng.<kind>                     states of torch's generators, uint8: cpu, and the accelerator's in use

Other names are free. A file is written whole or not at all; a kill leaves the old one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from opentrans_cli.bundle.tensorfile import read_metadata, read_tensors, write_tensors
from opentrans_cli.errors import BundleError, TrainingError

_KIND = "opentrans-state"
_VERSION = 1


def save_state(path: Path, *, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write `tensors` (any device, no bfloat16) and `meta` (JSON); same content, same bytes.

    Raises TrainingError if the disk refuses.
    """
    arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}
    try:
        write_tensors(path, arrays, {"kind": _KIND, "version": _VERSION, "meta": dict(meta)})
    except BundleError as error:
        raise TrainingError(str(error)) from error


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors on the CPU, meta) as `save_state` was given them.

    Raises TrainingError if the file is missing, damaged, or not the state of a run.
    """
    try:
        header = read_metadata(path)
        if header.get("kind") != _KIND or header.get("version") != _VERSION:
            raise TrainingError(
                f"not the state of a run of this version: {path}; give the file the interrupted run wrote"
            )
        tensors = {name: torch.from_numpy(array) for name, array in read_tensors(path).items()}
    except BundleError as error:
        reason = str(error).split(";")[0]
        raise TrainingError(f"cannot resume: {reason}; start the run again without it") from error
    return tensors, dict(header["meta"])


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` with `prefix.` before every name."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def under_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of `tensors` whose name starts with `prefix.`, without it."""
    start = f"{prefix}."
    return {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}


def restore_module(module: nn.Module, tensors: Mapping[str, Tensor], *, origin: str) -> None:
    """Copy `tensors` into the parameters and buffers of `module`, in place.

    Raises TrainingError naming `origin` and the first name or shape that differs, before changing anything.
    """
    own = module.state_dict()
    different = sorted(own.keys() ^ tensors.keys()) or sorted(
        name for name, tensor in own.items() if tensor.shape != tensors[name].shape
    )
    if different:
        raise TrainingError(
            f"state of another model: {origin} (first difference at '{different[0]}'); "
            "resume with the options of the interrupted run"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The optimizer's tensors as `<parameter>.<slot>`; `names` are the parameters it holds, by name."""
    return {
        f"{name}.{slot}": value
        for name, parameter in names.items()
        for slot, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[str, Tensor], *, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` gave. Raises TrainingError for a parameter the optimizer lacks.

    Slots of the parameter's shape get its device and memory layout; others (the step count) stay on the CPU,
    where torch keeps them.
    """
    state: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, slot = key.rpartition(".")
        if name not in names:
            raise TrainingError(
                f"state of a run that trained another parameter: '{name}'; freeze the layers that run froze"
            )
        parameter = names[name]
        belongs = tensor.shape == parameter.shape and tensor.ndim > 0
        # Another layout takes other kernels, whose last bits may differ.
        restored = torch.empty_like(parameter, requires_grad=False).copy_(tensor) if belongs else tensor.clone()
        state.setdefault(name, {})[slot] = restored
    for name, slots in state.items():
        optimizer.state[names[name]] = slots


def rng_tensors(device: torch.device) -> dict[str, Tensor]:
    """States of torch's generators by kind, uint8: the CPU's, and `device`'s if it is an accelerator."""
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state(*_index(device))
    return states


def restore_rng(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put back what `rng_tensors` gave. Raises TrainingError if `device` is of another kind."""
    if sorted(states) != sorted(rng_tensors(device)):
        raise TrainingError(
            f"state of a run on another device: {', '.join(sorted(states))}, now {device.type}; use the same --device"
        )
    torch.set_rng_state(states["cpu"])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[device.type], *_index(device))


def _index(device: torch.device) -> tuple[torch.device, ...]:
    # Only CUDA has a generator per card; the others' functions take no device.
    return (device,) if device.type == "cuda" else ()
