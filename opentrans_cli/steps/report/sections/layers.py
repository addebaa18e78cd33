"""The layers of a tower: how many weights are kept, how heavy the tail of the spectrum is, and the spectra."""

from __future__ import annotations

import math
from collections.abc import Sequence

from opentrans_cli.bundle.manifest import LayerEntry
from opentrans_cli.files.figures import percent
from opentrans_cli.pictures.page import BarCell, Page, PageCell, PageChart
from opentrans_cli.pictures.svg_spectrum import spectrum_panel
from opentrans_cli.spectral.report import AlphaReport, LayerAlpha

_BEYOND = 2.0  # the bar of an alpha ends at this multiple of the median


def layers_section(page: Page, layers: Sequence[LayerEntry], report: AlphaReport | None) -> None:
    """A row for each prunable layer, with its alpha if there is a report; the last row is all layers together. Then
    the spectra.
    """
    alphas = {} if report is None else {layer.name: layer for layer in report.layers}
    median = math.inf if report is None else report.median
    columns = ["layer", "weights kept, %", "kept", "of", "shape"]
    rows: list[list[PageCell]] = []
    for layer in layers:
        share = layer.kept / layer.total
        shape = " x ".join(map(str, layer.shape))
        row: list[PageCell] = [layer.name, BarCell(percent(share), share), f"{layer.kept:,}", f"{layer.total:,}", shape]
        if alphas:
            found = alphas.get(layer.name)
            row += ["-", "-"] if found is None else [alpha_cell(found, median), found.decision]
        rows.append(row)
    kept, total = (sum(getattr(layer, name) for layer in layers) for name in ("kept", "total"))
    together: list[PageCell] = [
        "all layers",
        BarCell(percent(kept / total), kept / total),
        f"{kept:,}",
        f"{total:,}",
        "",
    ]
    rows.append([*together, f"median {told_alpha(median)}", ""] if alphas else together)
    page.table([*columns, "alpha", "decision"] if alphas else columns, rows)
    if report is not None:
        page.note(
            f"Alpha by {report.fitted_by}; {len(report.frozen)} of {len(alphas)} layers are frozen in fine-tuning. A "
            "small alpha is a heavy tail of the spectrum, of a layer that is well trained."
        )
        spectra(page, report.layers)


def alpha_table(page: Page, layers: Sequence[LayerAlpha], median: float) -> None:
    """A row for each layer with the fit of its tail."""
    page.table(
        ["layer", "alpha", "decision", "KS distance", "xmin", "tail", "verdict"],
        [
            [
                layer.name,
                alpha_cell(layer, median),
                layer.decision,
                f"{layer.fit.ks_distance:.3f}",
                f"{layer.fit.xmin:.4g}",
                str(layer.fit.tail_size),
                layer.verdict,
            ]
            for layer in layers
        ],
        texts=(6,),
    )


def spectra(page: Page, layers: Sequence[LayerAlpha]) -> None:
    """A small picture of every spectrum that is known."""
    shown = [layer for layer in layers if len(layer.eigenvalues)]
    if not shown:
        return
    page.heading("Spectra")
    page.note(
        "The eigenvalues of each layer on two logarithmic axes, as an area, with the line of its tail: its slope is "
        "-alpha. The dotted line is xmin, where the tail begins."
    )
    page.charts(
        [PageChart(spectrum_panel(layer), f"{layer.name}, alpha {told_alpha(layer.alpha)}") for layer in shown],
        least=140,
    )


def alpha_cell(layer: LayerAlpha, median: float) -> PageCell:
    """The alpha of a layer with a bar, short for a heavy tail; a bar ends at twice the median."""
    if not math.isfinite(layer.alpha):
        return "no fit"
    return BarCell(told_alpha(layer.alpha), layer.alpha / (_BEYOND * median) if math.isfinite(median) else 0.5)


def told_alpha(alpha: float) -> str:
    """An alpha as text."""
    return f"{alpha:.2f}" if math.isfinite(alpha) else "no fit"
