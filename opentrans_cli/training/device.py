"""Which device a run works on."""

from __future__ import annotations

import torch

from opentrans_cli.errors import OptionError


def resolve_device(name: str) -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU; raises OptionError for a device this machine lacks."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    if not available.get(name, False):
        usable = ", ".join(kind for kind, there in available.items() if there)
        raise OptionError(f"device is not available here: '{name}'; choose auto or one of {usable}")
    return torch.device(name)
