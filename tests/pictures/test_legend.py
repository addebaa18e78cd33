"""Legends list what is there, and nothing else."""

from __future__ import annotations

import numpy as np

from opentrans_cli.pictures.legend import LegendItem, class_shares, legend_panel, percentage


def test_exactly_the_classes_present_are_listed_by_area() -> None:
    label_map = np.array([[2, 2, 2, 255], [0, 0, -1, 9]])
    shares = class_shares(label_map, ("cat", "dog", "bus"))
    assert [(entry.index, entry.name, entry.share) for entry in shares] == [
        (2, "bus", 3 / 8),
        (0, "cat", 2 / 8),
    ]
    assert [entry.index for entry in class_shares(np.array([[2, 0, 1]]), "abc")] == [0, 1, 2]


def test_percentages_are_short_and_never_hide_a_class() -> None:
    shares = {1.0: "100 %", 0.5: "50 %", 0.0996: "10 %", 0.0994: "9.9 %", 0.0006: "0.1 %", 0.0004: "<0.1 %"}
    assert {share: percentage(share) for share in shares} == shares


def test_every_item_is_drawn_whatever_the_space() -> None:
    items = [LegendItem(f"class {i}", (10 * i, 50, 200), note="1 %") for i in range(1, 20)]
    for limits in ({"height": 100}, {"height": 10}, {"width": 300}, {"width": 10}):
        panel = np.asarray(legend_panel(items, font_size=15, **limits)).reshape(-1, 3).tolist()
        assert {item.colour for item in items} <= {tuple(pixel) for pixel in panel}, limits


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
