"""Torch's generators, set from numbers: what is drawn is a function of seed, step and part, never of a past."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
