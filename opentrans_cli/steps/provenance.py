"""What every step writes down about itself: versions, options, and the tower as arrays."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import opentrans_cli
from opentrans_cli.bundle.digest import tower_digest
from opentrans_cli.bundle.manifest import Base, Step
from opentrans_cli.clip.source import LoadedClip
from opentrans_cli.datasets.base import DatasetOptions


def versions() -> dict[str, str]:
    """Versions that decide the numbers: ours, Python's and torch's."""
    return {
        "opentrans": opentrans_cli.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def environment(device: torch.device) -> dict[str, Any]:
    """Where a measurement was made."""
    return {
        **versions(),
        "machine": platform.machine(),
        "processor": _processor(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }


def machine(device: torch.device, *, processes: int = 1) -> dict[str, Any]:
    """How a step that trains was run, recorded with its options: another order of sums gives other last digits."""
    return {"device": device.type, "threads": torch.get_num_threads(), "processes": processes}


def data_record(data: DatasetOptions) -> dict[str, Any]:
    """What was said about a data set, as JSON values; paths as they were given."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(data).items()}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    except OSError:
        return platform.processor() or "unknown"


def arrays(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Tensors as contiguous numpy arrays on the CPU, of the same shapes."""
    # Not np.ascontiguousarray, which would give BatchNorm's counter, a scalar, one dimension.
    return {name: np.asarray(value.detach().cpu().numpy(), order="C") for name, value in state.items()}


def tensors(state: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Arrays as tensors that own their memory."""
    return {name: torch.from_numpy(np.array(value)) for name, value in state.items()}


def base_record(clip: LoadedClip) -> Base:
    """What a bundle says about the CLIP it was cut from."""
    p = clip.preprocess
    return Base(
        source=clip.source,
        architecture=clip.architecture,
        model_cfg=clip.model_cfg,
        digest=tower_digest(arrays(clip.model.visual.state_dict())),
        preprocess={
            "size": p.size,
            "mean": list(p.mean),
            "std": list(p.std),
            "interpolation": p.interpolation,
            "resize_mode": p.resize_mode,
        },
        activation=clip.activation,
    )


def step_record(
    verb: str,
    options: Mapping[str, Any],
    *,
    seed: int | None,
    data: str | None = None,
    parent: str | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Step:
    """A step of a bundle's history; holds nothing that changes from run to run."""
    return Step(verb, dict(options), seed, versions(), data, parent, dict(metrics or {}))


def parameter_count(module: nn.Module) -> int:
    """Number of parameters, buffers not counted."""
    return sum(p.numel() for p in module.parameters())
