"""Options that several commands share; light, so that `--help` can read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from opentrans_cli.option import Options, option

SOURCE = (
    "tiny (embedded), open_clip NAME[:TAG], NAME:FILE, a checkpoint file or folder, hf://org/name@revision, or a bundle"
)
"""What a source is, in the words of `--help`."""


def seed() -> Any:
    """The seed, a field of options that are recorded."""
    return option(0, least=0, most=2**32 - 1, help="seed of everything random")


@dataclass(frozen=True)
class Machine(Options):
    """What a command computes on."""

    device: str = option("auto", help="device to compute on: auto (CUDA, then MPS, then CPU), cpu, cuda or mps")
