"""opentrans analyze."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from opentrans_cli.cli.command import Force, Talk, command
from opentrans_cli.cli.output import plain_table
from opentrans_cli.files.figures import human_count, percent
from opentrans_cli.option import Options, option
from opentrans_cli.steps.analyze.options import STABILITY, WHICH_LAYERS, AnalyzeOptions, CostChoice
from opentrans_cli.steps.shared_options import SOURCE, BaseChoice

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from opentrans_cli.steps.analyze.result import AnalyzeResult

_NAMED = 3  # how many of the layers left out for one reason are named
_REPORT = "Report"


@dataclass(frozen=True)
class AnalyzeRequest(Options):
    """What is asked for besides the options in `AnalyzeOptions`."""

    source: str = option(help=SOURCE, kind="source", argument=True, completes="source")
    freeze_list: Path | None = option(
        None, help="freeze the layers that this text file names, one on each line", panel=WHICH_LAYERS
    )
    against: str | None = option(
        None,
        help="another source whose alphas are shown beside these, or base for the bundle's own",
        panel=STABILITY,
        known=("base",),
        completes="source",
    )
    out: Path | None = option(None, also=("-o",), help="new folder for report and pictures", panel=_REPORT)
    plot: Path | None = option(None, help="picture of the whole tower, .png or .svg", panel=_REPORT)
    esd: tuple[str, ...] = option(
        (),
        help="draw the spectra of these layers in --plot and --out (glob, repeatable)",
        panel=_REPORT,
        completes="layer",
    )


@command
def analyze_command(
    options: AnalyzeOptions, asked: AnalyzeRequest, costs: CostChoice, base: BaseChoice, write: Force, talk: Talk
) -> None:
    """Fit the spectrum of every layer and decide which are well trained (small alpha) and so frozen by finetune.

    opentrans analyze subnet
    opentrans analyze subnet --against base --bootstrap 200 --null
    opentrans analyze RN50-quickgelu:openai --plot tower.png
    """
    from opentrans_cli.steps.analyze.analyze import analyze

    result = analyze(**vars(options), **vars(asked), **vars(costs), **vars(base), **vars(write), reporter=talk.reporter)
    talk.emit(result.to_json(), lambda console: _show(console, result), result.path)


def _show(console: Console, result: AnalyzeResult) -> None:
    console.print(_layers(console, result))
    for group in result.left_out:
        named = ", ".join(group.names[:_NAMED]) + (", ..." if len(group.names) > _NAMED else "")
        text = f"left out, {group.reason}: {group.count}{f' ({named})' if named else ''}"
        console.print(_plain(text), soft_wrap=True)
    if result.frontier:
        console.print(_frontier(result))
    frozen = f"{len(result.frozen)} of {len(result.layers)} layers frozen by {result.rule}"
    random = f" ({result.frozen_random} of them random-like: no sign of training)" if result.frozen_random else ""
    console.print(f"{frozen}{random}: heavy tail = small alpha = well trained", soft_wrap=True)
    if result.unstable:
        resamples = " or in resamples" if result.options.bootstrap else ""
        console.print(
            f"{result.unstable} of {len(result.layers)} decisions would change (?) under another rule for the tail"
            f"{resamples}; look at such layers with --plot and --esd, and decide them by name with --freeze-layer",
            soft_wrap=True,
        )


def _plain(text: str) -> str:
    """Names and paths may come from anybody, so console and terminal show them but follow no codes in them."""
    from rich.markup import escape

    return escape("".join(char if char.isprintable() else "?" for char in text))


def _layers(console: Console, result: AnalyzeResult) -> Table:
    """The table with as many columns as fit; the others are in the output of --json."""
    table = _table(result, columns := _columns(result))
    for dropped in (">tail", ">KS"):
        if _too_wide(table, console):
            del columns[dropped]
            table = _table(result, columns)
    if _too_wide(table, console):
        columns["verdict"] = [cell.removesuffix("-tailed") for cell in columns["verdict"]]
        table = _table(result, columns)
    return table


def _too_wide(table: Table, console: Console) -> bool:
    unbounded = console.options.update(max_width=10_000)
    return console.measure(table, options=unbounded).maximum > console.width


def _table(result: AnalyzeResult, columns: dict[str, list[str]]) -> Table:
    median = f"median alpha {_alpha(result.median_alpha)}"
    if math.isinf(result.median_alpha):
        median = "no median alpha, for most layers have no fit"
    title = f"{result.source}: {median} ({result.report.estimator})"
    table = plain_table(_plain(title), *columns)
    table.padding = (0, 1, 0, 0)
    for name, column in zip(columns, table.columns, strict=True):
        column.no_wrap = name not in ("layer", "verdict")
    for layer, *cells in zip(result.layers, *columns.values(), strict=True):
        table.add_row(*cells, style="cyan" if layer.frozen else None)
    return table


def _columns(result: AnalyzeResult) -> dict[str, list[str]]:
    """Cells by column, one per layer; a column whose name starts with ">" is aligned right."""
    layers = result.layers
    columns = {
        "layer": [_plain(layer.name) for layer in layers],
        ">alpha": [_alpha(layer.fit.alpha) for layer in layers],
    }
    if result.options.bootstrap:
        columns[">95 %"] = [_interval(layer.interval) for layer in layers]
    if result.options.null:
        columns[">null"] = [_alpha(x.stability.null_median, digits=2) for x in layers if x.stability is not None]
    if result.against_source is not None:
        name = ">base" if result.against_source == "base" else ">other"
        columns[name] = [_alpha(result.against.get(layer.name)) for layer in layers]
    columns[">KS"] = [f"{layer.fit.ks_distance:.3f}" for layer in layers]
    columns[">tail"] = [f"{layer.fit.tail_size}/{len(layer.eigenvalues)}" for layer in layers]
    columns["decision"] = [layer.decision + "?" * layer.unstable for layer in layers]
    columns["verdict"] = [layer.verdict for layer in layers]
    return columns


def _interval(ends: tuple[float, float] | None) -> str:
    return "-" if ends is None or math.isinf(ends[0]) else f"{ends[0]:.2f}-{ends[1]:.2f}"


def _alpha(value: float | None, *, digits: int = 3) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _frontier(result: AnalyzeResult) -> Table:
    size = " x ".join(str(side) for side in result.image_size or ())
    title = f"training one {size} image, the tower alone; saved: of all, dense"
    table = plain_table(title, ">ratio", ">frozen", ">MACs", ">saved, %", ">as the paper counts, %", "")
    for point in result.frontier:
        table.add_row(
            f"{point.ratio:.2f}",
            str(point.frozen),
            human_count(point.total),
            percent(point.saved),
            percent(point.saved_paper),
            f"by {result.rule}" if point.chosen else "",
        )
    return table
