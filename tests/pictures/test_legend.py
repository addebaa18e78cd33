"""Legends list what is there, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from opentrans_cli.pictures.legend import LegendItem, class_shares, legend_panel, percent


def colours_in(panel: object) -> set[tuple[int, int, int]]:
    return {tuple(pixel) for pixel in np.asarray(panel).reshape(-1, 3).tolist()}


def test_exactly_the_classes_present_are_listed_by_area() -> None:
    label_map = np.array([[2, 2, 2, 255], [0, 0, -1, 9]])
    shares = class_shares(label_map, ("cat", "dog", "bus"))
    assert [(entry.index, entry.name, entry.share) for entry in shares] == [
        (2, "bus", 3 / 8),
        (0, "cat", 2 / 8),
    ]


def test_equal_areas_are_listed_in_the_order_of_classes() -> None:
    assert [entry.index for entry in class_shares(np.array([[2, 0, 1]]), "abc")] == [0, 1, 2]


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (1.0, "100 %"),
        (0.5, "50 %"),
        (0.0996, "10 %"),
        (0.0994, "9.9 %"),
        (0.0006, "0.1 %"),
        (0.0004, "<0.1 %"),
    ],
)
def test_percentages_are_short_and_never_hide_a_class(share: float, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize("limits", [{"height": 100}, {"height": 10}, {"width": 300}, {"width": 10}])
def test_every_item_is_drawn_whatever_the_space(limits: dict[str, int]) -> None:
    items = [LegendItem(f"class {i}", (10 * i, 50, 200), note="1 %") for i in range(1, 20)]
    panel = legend_panel(items, font_size=15, **limits)
    assert {item.colour for item in items} <= colours_in(panel)


def test_items_without_room_go_to_further_columns_or_rows() -> None:
    items = [LegendItem(f"class {i}", (10 * i, 50, 200)) for i in range(12)]
    low, high = (legend_panel(items, font_size=15, height=height) for height in (80, 800))
    assert low.width > high.width
    assert low.height <= 80 < high.height
    strip = legend_panel(items, font_size=15, width=400)
    assert strip.width <= 400


def test_a_long_name_does_not_widen_the_panel_without_end() -> None:
    panels = [legend_panel([LegendItem("x" * count, None)], font_size=15, height=99) for count in (40, 400)]
    assert panels[0].size == panels[1].size
