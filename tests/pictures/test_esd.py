"""Spectra: densities integrate to one, the line is the fit, and a spectrum without a fit says why."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from opentrans_cli.pictures.esd import draw_esd, esd_chart, facts, log_density
from opentrans_cli.spectral.report import LayerAlpha, PowerLawFit

PARETO = np.sort((1 - np.random.default_rng(0).random(500)) ** (-1 / 1.5))  # density 1.5 * x**-2.5 from 1 on


def layer(alpha: float, xmin: float, ks_distance: float, tail_size: int, eigenvalues: Any = PARETO) -> LayerAlpha:
    fit = PowerLawFit(alpha, xmin, ks_distance, tail_size, 0.1)
    verdict = "degenerate spectrum" if math.isinf(alpha) else "heavy-tailed"
    return LayerAlpha("layer1.0.conv1", fit, verdict, eigenvalues=eigenvalues)


FITTED = layer(2.5, 1.0, 0.03, 500)
BAD = layer(math.inf, 1.0, 1.0, 0, np.ones(20))


def drawn(spectrum: LayerAlpha, **options: Any) -> Any:
    axes = Figure().add_subplot()
    draw_esd(axes, spectrum, **options)
    return axes


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=200), st.integers(0, 5))
def test_densities_times_widths_are_the_share_of_eigenvalues_above_zero(values: list[float], zeros: int) -> None:
    eigenvalues = np.sort(np.array([0.0] * zeros + values))
    density, edges = log_density(eigenvalues)
    assert np.all(np.diff(edges) > 0)
    assert (density * np.diff(edges)).sum() == pytest.approx(len(values) / len(eigenvalues))


def test_a_power_law_lies_on_its_line() -> None:
    """On logarithmic axes the line has the slope -alpha, and the bins of a true power law follow it."""
    line, marker = drawn(FITTED).get_lines()
    (x0, x1), (y0, y1) = line.get_data()
    assert math.log(y1 / y0) / math.log(x1 / x0) == pytest.approx(-2.5)
    assert (x0, x1, y0) == pytest.approx((1.0, PARETO[-1], 1.5))
    assert list(marker.get_xdata()) == [1.0, 1.0]
    density, edges = log_density(PARETO)
    middles = np.sqrt(edges[:-1] * edges[1:])
    assert np.abs(np.log(density / (1.5 * middles**-2.5)))[:8].max() < 0.3


def test_the_line_of_a_part_of_the_spectrum_has_the_share_of_the_tail() -> None:
    tail = layer(2.5, float(PARETO[250]), 0.03, 250)
    (x, y) = drawn(tail).get_lines()[0].get_data()
    area = y[0] * x[0] / 1.5 - y[1] * x[1] / 1.5  # of a power law between two points
    assert area == pytest.approx(0.5, abs=0.01)


def test_a_spectrum_without_a_fit_shows_no_line_and_says_why() -> None:
    for eigenvalues in (np.ones(20), np.zeros(3), np.array([0.5]), np.linspace(1, 2, 5)):
        spectrum = layer(math.inf, 1.0, 1.0, 0, eigenvalues)
        assert facts(spectrum) == f"no fit, {len(eigenvalues)} eigenvalues"
        for small, said in ((True, "degenerate spectrum"), (False, "no fit: degenerate spectrum")):
            axes = drawn(spectrum, small=small)
            assert not axes.get_lines() and [text.get_text() for text in axes.texts] == [said]


def test_the_start_of_the_line_is_inside_the_axes() -> None:
    steep = layer(40.0, float(PARETO[100]), 0.9, 400)
    axes = drawn(steep)
    assert axes.get_ylim()[0] < axes.get_lines()[0].get_ydata()[0] < axes.get_ylim()[1]


def test_a_page_gets_a_row_for_every_three_spectra(tmp_path: Path) -> None:
    heights = []
    for count in (3, 4):
        esd_chart(tmp_path / "x.png", [FITTED] * count, title="spectra")
        with Image.open(tmp_path / "x.png") as image:
            heights.append(image.size[1])
    assert heights[1] - heights[0] > 300


def test_a_page_without_spectra_is_a_mistake_of_the_program(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no spectrum"):
        esd_chart(tmp_path / "x.png", [], title="spectra")
