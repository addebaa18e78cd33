"""Charts: same numbers, same bytes; legible at any depth; odd alphas have a place."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from PIL import Image

from opentrans_cli.pictures.charts import alpha_chart, density_chart


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


def test_a_tower_without_any_fit_still_has_a_chart(tmp_path: Path) -> None:
    alpha_chart(tmp_path / "x.png", [("a", math.inf, "trained")], math.inf)
    assert size_of(tmp_path / "x.png")[0] == 1125


def test_a_twin_with_other_layers_is_a_mistake_of_the_program(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="other layers"):
        density_chart(tmp_path / "x.png", [("a", 1, 2)], title="kept", twin=[("b", 1, 2)])
    assert not (tmp_path / "x.png").exists()
