"""What every step writes down about itself: versions, options, and the tower as arrays."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from opentrans_cli.bundle.manifest import Step
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.version import __version__


def versions() -> dict[str, str]:
    """Versions that decide the numbers: ours, Python's and torch's."""
    return {
        "opentrans": __version__,
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
