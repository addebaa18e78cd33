"""The curve chart: same numbers, same bytes; legible for one round or many, and where nothing was scored."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from opentrans_cli.pictures.curve import CurvePoint, curve_chart

POINTS = [
    CurvePoint(1 - 0.9**n, 0.5 - 0.01 * n, 0.6 - 0.01 * n, 0.3 - 0.01 * n, 900_000 - 20_000 * n) for n in range(22)
]


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert "Software" not in image.info
        return image.size


def test_the_chart_is_the_same_byte_for_byte_whatever_the_order_and_the_users_settings(tmp_path: Path) -> None:
    import matplotlib

    curve_chart(tmp_path / "a.png", POINTS, title="maskclip on shapes")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 30}):
        curve_chart(tmp_path / "b.png", POINTS[::-1], title="maskclip on shapes")
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    "points",
    [
        POINTS[:1],
        [point._replace(miou_unseen=None) for point in POINTS],
        [CurvePoint(0.5, None, None, None, 100), CurvePoint(0.9, None, None, None, 50)],
        [CurvePoint(0.0, 0.0, None, 0.0, 2_000_000), CurvePoint(1.0, 0.0, None, None, 1_000_000)],
    ],
    ids=["one round", "no unseen classes", "nothing scored", "nothing recognised"],
)
def test_odd_curves_have_a_chart_of_the_same_size(tmp_path: Path, points: list[CurvePoint]) -> None:
    curve_chart(tmp_path / "all.png", POINTS, title="x")
    curve_chart(tmp_path / "x.png", points, title="x")
    assert size_of(tmp_path / "x.png") == size_of(tmp_path / "all.png") == (1125, 780)
    assert (tmp_path / "x.png").read_bytes() != (tmp_path / "all.png").read_bytes()
