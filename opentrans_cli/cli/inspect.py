"""opentrans inspect."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from opentrans_cli.cli import options as o
from opentrans_cli.cli.output import emit, human_bytes, human_count, plain_table

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.inspect import InspectResult


def inspect(bundle: o.BundleArg, as_json: o.JsonOpt = False) -> None:
    """What a bundle is, from its manifest alone: base, sparsity by layer, history, files."""
    from opentrans_cli.steps.inspect import inspect as step

    result = step(Path(bundle))
    emit(asdict(result), lambda console: _show(console, result), as_json=as_json)


def _show(console: Console, result: InspectResult) -> None:
    facts = plain_table(result.path, "", "", header=False)
    facts.add_row("digest", result.digest)
    facts.add_row("base", f"{result.source} ({result.architecture}), text activation {result.activation}")
    facts.add_row("sparsity", f"{result.achieved_sparsity:.4f} {result.pattern}, target {result.target_sparsity:g}")
    facts.add_row("weights kept", f"{human_count(result.kept)} of {human_count(result.total)}")
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
