"""What every step records about itself: versions, options, and the tower as arrays."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentrans_cli.bundle.manifest import Step
from opentrans_cli.version import __version__

if TYPE_CHECKING:
    import torch
    from torch import nn

    from opentrans_cli.datasets.options import DatasetOptions

ALONE = {"device": "cpu", "threads": 1, "processes": 1}
"""What `machine` says of a step that trains nothing: it is computed by numpy, and always alike."""


def versions() -> dict[str, str]:
    """Versions that affect the results: ours, Python's and torch's."""
    return {
        "opentrans": __version__,
        "python": platform.python_version(),
        "torch": _torch_version(),
    }


@cache
def _torch_version() -> str:
    """The version of torch, read from its file, because importing torch takes longer than most of our commands."""
    spec = find_spec("torch")
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8") if spec and spec.origin else ""
    found = re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE)
    return found[1] if found else version("torch")


def environment(device: torch.device) -> dict[str, Any]:
    """The machine and software of a measurement."""
    import torch

    return {
        **versions(),
        "machine": platform.machine(),
        "processor": processor(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }


def machine(device: torch.device, *, processes: int = 1) -> dict[str, Any]:
    """How a step that trains was run, recorded with its options: another order of sums changes the last digits."""
    import torch

    return {"device": device.type, "threads": torch.get_num_threads(), "processes": processes}


def data_record(data: DatasetOptions) -> dict[str, Any]:
    """The options of a data set as JSON values; paths as they were given."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(data).items()}


def processor() -> str:
    """The model of this machine's processor, "unknown" if the system does not tell it."""
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
    """A step of a bundle's history; it contains nothing that changes from run to run."""
    return Step(verb, dict(options), seed, versions(), data, parent, dict(metrics or {}))


def parameter_count(module: nn.Module) -> int:
    """Number of parameters, buffers not counted."""
    return sum(p.numel() for p in module.parameters())
