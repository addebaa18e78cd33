"""The page of a tower: every layer has its dot and its spectrum, at any number of layers."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opentrans_cli.pictures.charts import AlphaDot, literal
from opentrans_cli.pictures.esd import SpectrumPanel
from opentrans_cli.pictures.tower_page import _end_of, _grid, tower_page


def tower(count: int) -> tuple[list[AlphaDot], list[SpectrumPanel]]:
    rng = np.random.default_rng(0)
    spectra = [
        SpectrumPanel(f"layer{i}", np.sort(rng.pareto(1.5, 60) + 1), 2 + i / 10, 1.0, 0.1, 60, "heavy-tailed")
        for i in range(count - 1)
    ]
    spectra.append(SpectrumPanel("fc", np.ones(3), math.inf, 1.0, 1.0, 0, "too few eigenvalues"))
    return [AlphaDot(s.name, s.alpha, "trained", (1.5, 9.0), 3.0, True) for s in spectra], spectra


def draw(path: Path, dots: list[AlphaDot], spectra: list[SpectrumPanel], **changes: str) -> tuple[int, int]:
    facts = {"source": "tiny", "estimator": "xmin_peak", **changes}
    tower_page(path, dots, spectra, median=2.5, **facts)  # type: ignore[arg-type]
    with Image.open(path) as image:
        return image.size


def test_the_page_grows_with_the_layers_and_narrows_with_the_chosen_ones(tmp_path: Path) -> None:
    dots, spectra = tower(25)
    whole = draw(tmp_path / "x.png", dots, spectra)
    few = draw(tmp_path / "x.png", dots, spectra[:4])
    small = draw(tmp_path / "x.png", *tower(4))
    none = draw(tmp_path / "x.png", dots, [])
    assert whole[1] == few[1] == none[1] > small[1] and whole[0] > few[0] == small[0] == none[0]


def test_every_spectrum_has_a_place_that_is_large_enough_to_read() -> None:
    for count, height in product((0, 1, 2, 3, 4, 19, 55, 147, 400), (4.7, 11.0, 29.0)):
        columns, rows, places = _grid(count, height)
        assert columns * rows >= count and (columns - 1) * rows < max(count, 1)
        assert rows <= places and 1.0 <= height / places <= 3.2


def test_the_title_names_source_estimator_median_and_counts(tmp_path: Path) -> None:
    """A word of the title that changes changes the picture; a long path keeps its end."""
    dots, spectra = tower(2)
    draw(tmp_path / "a.png", dots, spectra)
    for change in ({"source": "RN50"}, {"estimator": "xmin_ks"}):
        draw(tmp_path / "b.png", dots, spectra, **change)
        assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    assert _end_of("a/long/path/to/subnet", 12) == "…h/to/subnet" and _end_of("tiny", 12) == "tiny"
    assert len(_end_of("x" * 99, -5)) == 10


def test_spectra_of_other_layers_are_a_mistake_of_the_program(tmp_path: Path) -> None:
    dots, spectra = tower(3)
    for few in ([], dots[:1]):
        with pytest.raises(ValueError, match="other layers"):
            draw(tmp_path / "x.png", few, spectra)
    assert not list(tmp_path.iterdir())


def test_names_are_shown_letter_by_letter(tmp_path: Path) -> None:
    r"""`$\frac$` is a formula to matplotlib, and a wrong one."""
    name = "a$\\frac$\n"
    spectrum = SpectrumPanel(name, np.arange(1.0, 61), 2.0, 1.0, 0.1, 60, "heavy-tailed")
    draw(tmp_path / "x.png", [AlphaDot(name, 2.0, "trained", other=2.0)], [spectrum], source=name, other_label=name)
    assert literal(name) == "a\\$\\frac\\$?"
