"""Options of `eval`; light, so that `--help` can read them."""

from __future__ import annotations

from dataclasses import dataclass

from opentrans_cli.option import Options, option


@dataclass(frozen=True)
class EvalOptions(Options):
    """What is scored of a bundle."""

    curve: bool = option(False, help="score every sparsity that the bundle's run passed through, and draw a chart")
