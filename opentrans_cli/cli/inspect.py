"""opentrans inspect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from opentrans_cli.cli.command import Talk, command
from opentrans_cli.cli.output import plain_table
from opentrans_cli.files.figures import human_bytes, human_count
from opentrans_cli.steps.shared_options import BundleChoice, RoundChoice

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.bundle.rounds import RoundInfo
    from opentrans_cli.steps.look.inspect import InspectResult


_PER_LINE = 7
_MARKS = {"bundle": " ", "base": "b", None: "m"}


@command
def inspect_command(source: BundleChoice, round: RoundChoice, talk: Talk) -> None:
    """Show what a bundle is, from its manifest: base, sparsity by layer, rounds that can be taken out, history, files.

    opentrans inspect subnet
    opentrans inspect hf://org/name@v1 --json
    """
    from opentrans_cli.steps.look.inspect import inspect

    result = inspect(source.bundle, at_sparsity=round.at_sparsity, reporter=talk.reporter)
    talk.emit(asdict(result), lambda console: _show(console, result))


def _show(console: Console, result: InspectResult) -> None:
    from rich.markup import escape  # text from a bundle is shown, but markup in it is not followed

    facts = plain_table(escape(result.path), "", "", header=False)
    facts.add_row("digest", result.digest)
    base = f"{result.source} ({result.architecture}), text activation {result.activation}"
    facts.add_row("base", escape(base))
    facts.add_row("sparsity", f"{result.achieved_sparsity:.4f} {result.pattern}, target {result.target_sparsity:g}")
    facts.add_row("weights kept", f"{human_count(result.kept)} of {human_count(result.total)}")
    facts.add_row("rounds", _rounds(result.rounds))
    facts.add_row("segmentor", result.framework or "none yet")
    facts.add_row("history", " > ".join(result.steps))
    facts.add_row("files", "\n".join(f"{name}  {human_bytes(size)}" for name, size in result.files.items()))
    facts.add_row("size", human_bytes(result.size_bytes))
    console.print(facts)
    layers = plain_table("", "layer", ">shape", ">kept", ">of", ">sparsity")
    for layer in result.layers:
        shape = " x ".join(map(str, layer.shape))
        layers.add_row(layer.name, shape, f"{layer.kept:,}", f"{layer.total:,}", f"{layer.sparsity:.4f}")
    console.print(layers)


def _rounds(rounds: Sequence[RoundInfo]) -> str:
    """The sparsities that `--at-sparsity` takes, a few per line, and what the letters after them mean."""
    marked = [f"{info.sparsity:.4f}{_MARKS[info.weights]}" for info in rounds]
    lines = [" ".join(marked[start : start + _PER_LINE]).rstrip() for start in range(0, len(marked), _PER_LINE)]
    origins = {info.weights for info in rounds}
    legend = [
        text
        for origin, text in (("base", "b: weights of the base"), (None, "m: masks alone, weights were not kept"))
        if origin in origins
    ]
    return "\n".join([*lines, *legend])
