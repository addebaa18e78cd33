"""opentrans analyze."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from opentrans_cli.cli import options as o
from opentrans_cli.cli.output import ConsoleReporter, emit, human_count, percent, plain_table
from opentrans_cli.steps.analyze.options import AnalyzeOptions as Defaults

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from opentrans_cli.steps.analyze.result import AnalyzeResult

_NAMED = 3  # layers named of those left out for a reason
_FREEZE, _TRUST, _REPORT = "Which layers to freeze", "Trust", "Report"
_FREEZE_LIST = "Price and draw this list instead: a layer name per line."
_FRONTIER = "Training cost that each share of frozen layers saves."

EstimatorOpt = Annotated[str, Option(help="How the tail is found: xmin_peak, xmin_mid or xmin_ks.")]
WindowOpt = Annotated[str, Option(help="xmin_peak: log (as published) or linear (mended).")]
IncludeOpt = Annotated[list[str] | None, Option(help="Layers to analyze as well (glob).")]
ExcludeOpt = Annotated[list[str] | None, Option(help="Layers to leave out (glob).")]
BaseOpt = Annotated[str | None, Option("--base", help="Where a mask-only bundle's base lies now.")]
FreezeOpt = Annotated[str, Option(help="heavy (small alpha), light, random or none.", rich_help_panel=_FREEZE)]
RatioOpt = Annotated[float | None, Option(help="Share to freeze (default: below the median).", rich_help_panel=_FREEZE)]
ThresholdOpt = Annotated[float | None, Option(help="Freeze alphas below it (light: above).", rich_help_panel=_FREEZE)]
TopOpt = Annotated[int | None, Option(help="Freeze the so many that save most.", rich_help_panel=_FREEZE)]
FreezeListOpt = Annotated[Path | None, Option(help=_FREEZE_LIST, rich_help_panel=_FREEZE)]
FrontierOpt = Annotated[bool, Option("--frontier", help=_FRONTIER, rich_help_panel=_FREEZE)]
ResolutionOpt = Annotated[
    int | None, Option(help="Side of the images that cost is counted for.", rich_help_panel=_FREEZE)
]
BootstrapOpt = Annotated[int, Option(help="Resamples for intervals and stability.", min=0, rich_help_panel=_TRUST)]
NullOpt = Annotated[bool, Option("--null", help="Alpha of random weights beside each.", rich_help_panel=_TRUST)]
AgainstOpt = Annotated[str | None, Option(help="A source to compare with, or base.", rich_help_panel=_TRUST)]
OutOpt = Annotated[Path | None, Option("--out", "-o", help="New folder for the report.", rich_help_panel=_REPORT)]
PlotOpt = Annotated[Path | None, Option(help="Page of the tower, .png or .svg.", rich_help_panel=_REPORT)]
EsdOpt = Annotated[list[str] | None, Option(help="--plot: the spectra of these (glob).", rich_help_panel=_REPORT)]


def analyze(
    source: o.SourceArg,
    estimator: EstimatorOpt = Defaults.estimator,
    window: WindowOpt = Defaults.window,
    include: IncludeOpt = None,
    exclude: ExcludeOpt = None,
    base: BaseOpt = None,
    freeze: FreezeOpt = Defaults.freeze,
    freeze_ratio: RatioOpt = None,
    freeze_threshold: ThresholdOpt = None,
    freeze_top: TopOpt = None,
    freeze_list: FreezeListOpt = None,
    frontier: FrontierOpt = False,
    resolution: ResolutionOpt = None,
    bootstrap: BootstrapOpt = 0,
    null: NullOpt = False,
    against: AgainstOpt = None,
    out: OutOpt = None,
    plot: PlotOpt = None,
    esd: EsdOpt = None,
    seed: o.SeedOpt = 0,
    force: o.ForceOpt = False,
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
) -> None:
    """Fit the spectrum of every layer: alpha, how far to trust it, and which are well trained (small alpha)."""
    from opentrans_cli.steps.analyze.analyze import analyze as step

    values = {**locals(), "include": tuple(include or ()), "exclude": tuple(exclude or ())}
    result = step(
        source,
        **vars(o.chosen(Defaults, values)),
        freeze_list=freeze_list,
        frontier=frontier,
        resolution=resolution,
        against=against,
        base=base,
        out=out,
        plot=plot,
        esd=tuple(esd or ()),
        force=force,
        reporter=ConsoleReporter(quiet=quiet),
    )
    emit(result.to_json(), lambda console: _show(console, result), as_json=as_json, path=result.path, quiet=quiet)


def _show(console: Console, result: AnalyzeResult) -> None:
    console.print(_layers(console, result))
    for group in result.left_out:
        named = ", ".join(group.names[:_NAMED]) + (", ..." if len(group.names) > _NAMED else "")
        text = f"left out, {group.reason}: {group.count}{f' ({named})' if named else ''}"
        console.print(_plain(text), soft_wrap=True)
    if result.frontier:
        console.print(_frontier(result))
    unstable = sum(not result.trust[layer.name].stability.stable for layer in result.layers)
    console.print(
        f"{len(result.frozen)} of {len(result.layers)} layers frozen by {result.rule}: heavy tail = small alpha = "
        f"well trained; {unstable} decisions would change (?) under another rule for the tail"
        f"{' or in resamples' if result.options.bootstrap else ''}",
        soft_wrap=True,
    )


def _plain(text: str) -> str:
    """Names and paths come from strangers: they are shown, not obeyed, by the console as by the terminal."""
    from rich.markup import escape

    return escape("".join(char if char.isprintable() else "?" for char in text))


def _layers(console: Console, result: AnalyzeResult) -> Table:
    """The table with as many columns as fit; what is dropped is in --json."""
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
    title = f"{result.source}: median alpha {result.median_alpha:.3f} ({result.estimator})"
    table = plain_table(_plain(title), *columns)
    table.padding = (0, 1, 0, 0)
    for name, column in zip(columns, table.columns, strict=True):
        column.no_wrap = name not in ("layer", "verdict")
    for layer, *cells in zip(result.layers, *columns.values(), strict=True):
        table.add_row(*cells, style="cyan" if result.decision(layer.name) == "frozen" else None)
    return table


def _columns(result: AnalyzeResult) -> dict[str, list[str]]:
    """Cells by column, one a layer; a name that starts with ">" is set to the right."""
    layers, trust = result.layers, [result.trust[layer.name] for layer in result.layers]
    columns = {
        "layer": [_plain(layer.name) for layer in layers],
        ">alpha": [_alpha(layer.fit.alpha) for layer in layers],
    }
    if result.options.bootstrap:
        columns[">95 %"] = [_interval(t.interval) for t in trust]
    if result.options.null:
        columns[">null"] = [_alpha(t.null_median, digits=2) for t in trust]
    if result.against_source is not None:
        name = ">base" if result.against_source == "base" else ">other"
        columns[name] = [_alpha(result.against.get(layer.name)) for layer in layers]
    columns[">KS"] = [f"{layer.fit.ks_distance:.3f}" for layer in layers]
    columns[">tail"] = [f"{layer.fit.tail_size}/{len(layer.eigenvalues)}" for layer in layers]
    firm = [t.stability.stable for t in trust]
    columns["decision"] = [result.decision(x.name) + "?" * (not ok) for x, ok in zip(layers, firm, strict=True)]
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
