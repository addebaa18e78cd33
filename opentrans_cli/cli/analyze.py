"""opentrans analyze."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from opentrans_cli.cli import options as o
from opentrans_cli.cli.output import ConsoleReporter, emit, plain_table

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.analyze import AnalyzeResult


def analyze(
    source: o.SourceArg,
    estimator: Annotated[str, typer.Option("--estimator", help="How the tail is found.")] = "xmin_peak",
    freeze: o.FreezeOpt = "heavy",
    freeze_ratio: o.FreezeRatioOpt = 0.5,
    seed: o.SeedOpt = 0,
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
) -> None:
    """Fit the spectrum of every convolution: alpha, and which layers are well trained (heavy tail, small alpha)."""
    from opentrans_cli.steps.analyze import analyze as step

    result = step(
        source,
        estimator=estimator,
        freeze=freeze,  # type: ignore[arg-type]
        freeze_ratio=freeze_ratio,
        seed=seed,
        reporter=ConsoleReporter(quiet=quiet),
    )
    emit(result.to_json(), lambda console: _show(console, result), as_json=as_json, path=result.path, quiet=quiet)


def _show(console: Console, result: AnalyzeResult) -> None:
    title = f"{result.source}: median alpha {result.median_alpha:.3f} ({result.estimator})"
    table = plain_table(title, "layer", ">alpha", ">KS", ">tail", "decision", "verdict")
    for layer in result.layers:
        frozen = layer.name in result.frozen
        table.add_row(
            layer.name,
            f"{layer.fit.alpha:.3f}",
            f"{layer.fit.ks_distance:.3f}",
            f"{layer.fit.tail_size}/{len(layer.eigenvalues)}",
            "frozen" if frozen else "trained",
            layer.verdict,
            style="cyan" if frozen else None,
        )
    console.print(table)
    console.print(
        f"{len(result.frozen)} of {len(result.layers)} layers frozen: heavy tail = small alpha = well trained"
    )
