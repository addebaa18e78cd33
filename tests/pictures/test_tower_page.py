"""The page of a tower: every layer has its dot and its spectrum, at any number of layers."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from opentrans_cli.pictures.charts import literal
from opentrans_cli.pictures.tower_page import _end_of, _grid, tower_page
from opentrans_cli.spectral.report import LayerAlpha, PowerLawFit, Stability


def layer(name: str, alpha: float, eigenvalues: np.ndarray, verdict: str = "heavy-tailed") -> LayerAlpha:
    stability = Stability(False, interval=(1.5, 9.0))
    return LayerAlpha(name, PowerLawFit(alpha, 1.0, 0.1, 60, 0.1), verdict, False, stability, eigenvalues)


def tower(count: int) -> list[LayerAlpha]:
    rng = np.random.default_rng(0)
    layers = [layer(f"layer{i}", 2 + i / 10, np.sort(rng.pareto(1.5, 60) + 1)) for i in range(count - 1)]
    return [*layers, layer("fc", math.inf, np.ones(3), "too few eigenvalues")]


def draw(path: Path, layers: list[LayerAlpha], **changes: Any) -> tuple[int, int]:
    facts = {"source": "tiny", "estimator": "xmin_peak", "median": 2.5, **changes}
    tower_page(path, layers, others={layer.name: 3.0 for layer in layers}, **facts)
    with Image.open(path) as image:
        return image.size


def test_the_page_grows_with_the_layers(tmp_path: Path) -> None:
    whole, small = (draw(tmp_path / "x.png", tower(count)) for count in (25, 4))
    assert whole[0] > small[0] and whole[1] > small[1]


def test_every_spectrum_has_a_place_that_is_large_enough_to_read() -> None:
    for count, height in product((0, 1, 2, 3, 4, 19, 55, 147, 400), (4.7, 11.0, 29.0)):
        columns, rows, places = _grid(count, height)
        assert columns * rows >= count and (columns - 1) * rows < max(count, 1)
        assert rows <= places and 1.0 <= height / places <= 3.2


def test_the_title_names_source_estimator_median_and_counts(tmp_path: Path) -> None:
    """A word of the title that changes changes the picture; a long path keeps its end."""
    draw(tmp_path / "a.png", tower(2))
    for change in ({"source": "RN50"}, {"estimator": "xmin_ks"}, {"median": math.inf}):
        draw(tmp_path / "b.png", tower(2), **change)
        assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    assert _end_of("a/long/path/to/subnet", 12) == "…h/to/subnet" and _end_of("tiny", 12) == "tiny"
    assert len(_end_of("x" * 99, -5)) == 10


def test_no_layers_are_a_mistake_of_the_program(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no layers"):
        draw(tmp_path / "x.png", [])
    assert not list(tmp_path.iterdir())


def test_names_are_shown_letter_by_letter(tmp_path: Path) -> None:
    r"""`$\frac$` is a formula to matplotlib, and a wrong one."""
    name = "a$\\frac$\n"
    draw(tmp_path / "x.png", [layer(name, 2.0, np.arange(1.0, 61))], source=name, other_label=name)
    assert literal(name) == "a\\$\\frac\\$?"
