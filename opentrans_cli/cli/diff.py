"""opentrans diff."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from opentrans_cli.cli.command import Talk, command
from opentrans_cli.cli.output import plain_table
from opentrans_cli.files.figures import human_count, percent
from opentrans_cli.option import Options, option

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from opentrans_cli.bundle.compare import Overlap
    from opentrans_cli.spectral.report import AlphaComparison
    from opentrans_cli.steps.look.diff import DiffResult, Side, SubnetDiff

_NESTED = {
    "equal": "equal",
    "a_in_b": "A keeps nothing that B does not keep",
    "b_in_a": "B keeps nothing that A does not keep",
    None: "neither contains the other",
}
_MOST_NAMES = 4


@dataclass(frozen=True)
class DiffRequest(Options):
    """What is compared."""

    a: str = option(
        help="bundle folder, hf://org/name@revision, alpha.safetensors, or the output of analyze --json",
        argument=True,
        metavar="A",
        completes="bundle",
    )
    b: str = option(help="bundle or alpha report to compare A with", argument=True, metavar="B", completes="bundle")


@command
def diff_command(asked: DiffRequest, talk: Talk) -> None:
    """Compare two subnets or two alpha reports: weights both keep, values, alphas, decisions.

    opentrans diff subnet twin
    opentrans diff subnet hf://org/name@v1 --json
    """
    from opentrans_cli.steps.look.diff import diff

    result = diff(asked.a, asked.b, reporter=talk.reporter)
    for warning in result.warnings:
        typer.echo(f"opentrans: warning: {warning}", err=True)
    talk.emit(result.to_json(), lambda console: _show(console, result))


def _show(console: Console, result: DiffResult) -> None:
    facts = plain_table("", "", "A", "B")
    facts.add_row("path", result.a, result.b)
    if result.subnets:
        for name, text_a, text_b in zip(_SIDE, _side(result.subnets.a), _side(result.subnets.b), strict=True):
            facts.add_row(name, text_a, text_b)
    if result.alphas:
        facts.add_row("estimator", result.alphas.a.fitted_by, result.alphas.b.fitted_by)
        facts.add_row("median alpha", _alpha(result.alphas.a.median), _alpha(result.alphas.b.median))
    console.print(facts)
    if result.subnets:
        _show_subnets(console, result.subnets)
    if result.alphas:
        _show_alphas(console, result.alphas)


_SIDE = ("digest", "base", "sparsity", "weights kept", "history")


def _side(side: Side) -> tuple[str, ...]:
    return (
        side.digest[:19],
        f"{side.source} {side.base_digest[7:15]}",
        f"{side.sparsity:.4f} {side.pattern}",
        f"{human_count(side.kept)} of {human_count(side.total)}",
        " > ".join(side.steps),
    )


def _show_subnets(console: Console, subnets: SubnetDiff) -> None:
    found = subnets.comparison
    facts = plain_table("", "", "", header=False)
    facts.add_row("base", "the same" if subnets.base_equal else "another")
    facts.add_row("masks", _NESTED[found.nested])
    facts.add_row("segmentor", subnets.segmentor)
    _others(facts, ("only in A", found.only_a), ("only in B", found.only_b), ("other shape", found.other_shape))
    console.print(facts)
    columns = (
        "layer",
        ">kept\nA %",
        ">kept\nB %",
        ">both\n%",
        ">Jac-\ncard",
        ">by\nchance",
        ">max\ndiff",
        ">differ\n%",
    )
    table = plain_table("", *columns)
    for name, layer in found.layers.items():
        table.add_row(name, *_overlap(layer))
    table.add_section()
    table.add_row("all layers", *_overlap(found.all_layers), style="bold")
    console.print(table)


def _overlap(layer: Overlap) -> tuple[str, ...]:
    return (
        *(percent(count / layer.total) for count in (layer.kept_a, layer.kept_b, layer.both)),
        f"{layer.jaccard:.3f}",
        f"{layer.jaccard_by_chance:.3f}",
        "-" if layer.max_difference is None else f"{layer.max_difference:.1e}" if layer.max_difference else "0",
        percent(layer.share_differing),
    )


def _show_alphas(console: Console, alphas: AlphaComparison) -> None:
    table = plain_table("", "layer", ">alpha A", ">alpha B", ">change", "decision")
    for a, b in alphas.layers:
        change = b.alpha - a.alpha
        decision = a.decision if a.decision == b.decision else f"{a.decision} > {b.decision}"
        style = None if a.decision == b.decision else "cyan"
        shown = f"{change:+.3f}" if math.isfinite(change) else "-"
        table.add_row(a.name, _alpha(a.alpha), _alpha(b.alpha), shown, decision, style=style)
    console.print(table)
    facts = plain_table("", "", "", header=False)
    facts.add_row("decisions", f"{len(alphas.changed)} of {len(alphas.layers)} changed")
    facts.add_row("order", "-" if alphas.spearman is None else f"Spearman's rank correlation {alphas.spearman:.3f}")
    _others(facts, ("only in A", alphas.only_a), ("only in B", alphas.only_b))
    console.print(facts)


def _others(facts: Table, *groups: tuple[str, tuple[str, ...]]) -> None:
    for title, names in groups:
        if names:
            more = f", and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
            facts.add_row(title, ", ".join(names[:_MOST_NAMES]) + more)


def _alpha(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "no fit"
