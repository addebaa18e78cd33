"""Charts: same numbers, same bytes; legible at any depth; odd alphas have a place."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from opentrans_cli.errors import OptionError
from opentrans_cli.pictures.charts import alpha_chart, density_chart, draw_alphas
from opentrans_cli.pictures.curve import CurvePoint, curve_chart
from opentrans_cli.pictures.esd import esd_chart
from opentrans_cli.pictures.tower_page import tower_page
from opentrans_cli.spectral.report import LayerAlpha, PowerLawFit, Stability

LAYERS = [("conv1", 5, 10), ("layer1.0.conv1", 1, 100)]


def layer(name: str, alpha: float, stability: Stability | None = None, *, frozen: bool = False) -> LayerAlpha:
    fit = PowerLawFit(alpha, 1.0, 0.1, 60, 0.1)
    return LayerAlpha(name, fit, "heavy-tailed", frozen, stability, np.arange(1.0, 61))


UNSTABLE, WIDE = Stability(False, interval=(1.5, 2.5)), Stability(True, interval=(3.0, math.inf))
TOWER = [layer("a", 2.0, UNSTABLE, frozen=True), layer("b", 4.0, WIDE), layer("c", math.inf)]
OTHERS = {"a": 2.2, "b": 90.0}
POINTS = [
    CurvePoint(1 - 0.9**n, 0.5 - 0.01 * n, 0.6 - 0.01 * n, 0.3 - 0.01 * n, 900_000 - 20_000 * n) for n in range(22)
]
CHARTS: dict[str, Callable[[Path], None]] = {
    "density": lambda path: density_chart(path, LAYERS, title="kept", control=LAYERS),
    "alpha": lambda path: alpha_chart(path, TOWER, 3.0, title="alpha"),
    "esd": lambda path: esd_chart(path, TOWER[:1], title="spectra"),
    "tower": lambda path: tower_page(path, TOWER, source="tiny", estimator="xmin_ks", median=3.0),
    "curve": lambda path: curve_chart(path, POINTS, title="maskclip on shapes"),
}


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG" and "Software" not in image.info
        return image.size


def test_charts_are_the_same_byte_for_byte_whatever_the_users_settings_and_name_no_maker(tmp_path: Path) -> None:
    for name, draw in CHARTS.items():
        for suffix in (".png", ".svg"):
            first, again = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
            draw(first)
            with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.hashsalt": "other"}):
                draw(again)
                assert matplotlib.rcParams["font.size"] == 30
            assert first.read_bytes() == again.read_bytes(), name
        size_of(tmp_path / "a.png")
        text = (tmp_path / "a.svg").read_text()
        assert ET.fromstring(text).tag.endswith("svg") and "<dc:date>" not in text and "<dc:creator>" not in text


def test_another_kind_of_picture_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    for draw in CHARTS.values():
        for name in ("x.pdf", "x", "x.jpeg"):
            with pytest.raises(OptionError, match=rf"not a kind of picture: '{name}'; end the name in \.png or \.svg"):
                draw(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_charts_grow_with_the_number_of_layers(tmp_path: Path) -> None:
    sizes = []
    for count in (1, 19, 55):
        density_chart(tmp_path / "x.png", [(f"layer{i}", i, 60) for i in range(count)], title="kept")
        sizes.append(size_of(tmp_path / "x.png"))
    assert len({width for width, _ in sizes}) == 1
    assert sizes[2][1] - sizes[1][1] > 36 * 20  # at least 20 pixels for a line of text


def test_alphas_without_a_fit_and_far_ones_do_not_stretch_the_axis() -> None:
    axes = Figure().add_subplot()
    draw_alphas(axes, [*TOWER, layer("far", 1e9)], 3.0, others=OTHERS)
    assert axes.get_xlim()[1] < 12
    assert [text.get_text() for text in axes.texts] == ["2.00", "4.00", "no fit", "1000000000.00"]
    alone = Figure().add_subplot()
    draw_alphas(alone, TOWER[2:], math.inf)
    assert np.isfinite(alone.get_xlim()).all()


def test_marks_stand_where_their_numbers_are() -> None:
    axes = Figure().add_subplot()
    draw_alphas(axes, TOWER[:1], 3.0, others=OTHERS)
    assert [list(line.get_xdata()) for line in axes.get_lines()] == [[3.0, 3.0], [1.5, 2.5]]  # median, interval
    marks = [tuple(marks.get_offsets()[0]) for marks in axes.collections if len(marks.get_offsets())]
    assert marks == [(2.2, 0.0), (2.0, 0.0), (2.0, 0.0)]  # other, dot, ring
    low, high = axes.get_xlim()
    assert low < 1.5 and high > 3.0


def test_a_control_with_other_layers_is_a_mistake_of_the_program(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="other layers"):
        density_chart(tmp_path / "x.png", LAYERS, title="kept", control=[("b", 1, 2)])
    assert not (tmp_path / "x.png").exists()


def test_odd_curves_have_a_chart_of_the_same_size_and_the_order_of_points_does_not_matter(tmp_path: Path) -> None:
    curve_chart(tmp_path / "all.png", POINTS, title="x")
    curve_chart(tmp_path / "x.png", POINTS[::-1], title="x")
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "all.png").read_bytes()
    for points in (
        POINTS[:1],
        [point._replace(miou_unseen=None) for point in POINTS],
        [CurvePoint(0.5, None, None, None, 100), CurvePoint(0.9, None, None, None, 50)],  # nothing scored
        [CurvePoint(0.0, 0.0, None, 0.0, 2_000_000), CurvePoint(1.0, 0.0, None, None, 1_000_000)],
    ):
        curve_chart(tmp_path / "x.png", points, title="x")
        assert size_of(tmp_path / "x.png") == size_of(tmp_path / "all.png") == (1125, 780)
        assert (tmp_path / "x.png").read_bytes() != (tmp_path / "all.png").read_bytes()
