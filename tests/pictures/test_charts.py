"""Charts: same numbers, same bytes; legible at any depth; odd alphas have a place."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from opentrans_cli.pictures.charts import AlphaDot, alpha_chart, density_chart, draw_alphas


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert "Software" not in image.info
        return image.size


def test_charts_are_the_same_byte_for_byte_whatever_the_users_settings(tmp_path: Path) -> None:
    import matplotlib

    layers = [("conv1", 5, 10), ("layer1.0.conv1", 1, 100)]
    alphas = [("conv1", 2.5, "frozen"), ("layer1.0.conv1", 3.5, "trained")]
    density_chart(tmp_path / "a.png", layers, title="kept", twin=layers)
    alpha_chart(tmp_path / "b.png", alphas, 3.0, title="alpha")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 30}):
        density_chart(tmp_path / "c.png", layers, title="kept", twin=layers)
        alpha_chart(tmp_path / "d.png", alphas, 3.0, title="alpha")
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "c.png").read_bytes()
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "d.png").read_bytes()


def test_charts_grow_with_the_number_of_layers(tmp_path: Path) -> None:
    sizes = []
    for count in (1, 19, 55):
        density_chart(tmp_path / "x.png", [(f"layer{i}", i, 60) for i in range(count)], title="kept")
        sizes.append(size_of(tmp_path / "x.png"))
    assert len({width for width, _ in sizes}) == 1
    assert sizes[2][1] - sizes[1][1] > 36 * 20  # at least 20 pixels for a line of text


@pytest.mark.parametrize("median", [3.0, math.inf])
def test_alphas_without_a_fit_and_far_ones_do_not_stretch_the_axis(tmp_path: Path, median: float) -> None:
    layers = [("a", 2.0, "frozen"), ("b", math.inf, "trained"), ("c", 1e9, "trained"), ("d", 3.0, "other")]
    alpha_chart(tmp_path / "x.png", layers, median)
    assert size_of(tmp_path / "x.png")[0] == 1125


ALPHAS = [("a", 2.0, "frozen"), ("b", 4.0, "trained"), ("c", math.inf, "trained")]
FURTHER: list[dict[str, Any]] = [
    {"intervals": [(1.5, 2.5), (3.0, math.inf), None]},
    {"other": [2.2, 90.0, None], "other_label": "random weights"},
    {"unstable": ["b"]},
]


@pytest.mark.parametrize("further", FURTHER, ids=lambda further: next(iter(further)))
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_intervals_other_alphas_and_unstable_layers_are_drawn(
    tmp_path: Path, further: dict[str, Any], suffix: str
) -> None:
    paths = [tmp_path / f"{name}{suffix}" for name in ("plain", "further", "again")]
    for path, options in zip(paths, ({}, further, further), strict=True):
        alpha_chart(path, ALPHAS, 3.0, **options)
    plain, drawn, again = (path.read_bytes() for path in paths)
    assert plain != drawn == again


def test_marks_stand_where_their_numbers_are() -> None:
    axes = Figure().add_subplot()
    draw_alphas(axes, [AlphaDot("a", 2.0, "frozen", (1.5, 2.5), 2.2, True)], 3.0)
    assert [list(line.get_xdata()) for line in axes.get_lines()] == [[3.0, 3.0], [1.5, 2.5]]  # median, interval
    marks = [tuple(marks.get_offsets()[0]) for marks in axes.collections if len(marks.get_offsets())]
    assert marks == [(2.2, 0.0), (2.0, 0.0), (2.0, 0.0)]  # other, dot, ring
    low, high = axes.get_xlim()
    assert low < 1.5 and high > 3.0


def test_series_of_another_length_are_a_mistake_of_the_program(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        alpha_chart(tmp_path / "x.png", ALPHAS, 3.0, other=[1.0])
    assert not list(tmp_path.iterdir())


def test_a_tower_without_any_fit_still_has_a_chart(tmp_path: Path) -> None:
    alpha_chart(tmp_path / "x.png", [("a", math.inf, "trained")], math.inf)
    assert size_of(tmp_path / "x.png")[0] == 1125


def test_a_twin_with_other_layers_is_a_mistake_of_the_program(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="other layers"):
        density_chart(tmp_path / "x.png", [("a", 1, 2)], title="kept", twin=[("b", 1, 2)])
    assert not (tmp_path / "x.png").exists()
