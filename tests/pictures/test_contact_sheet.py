"""The contact sheet: every photo unchanged, the label map's own colours beside it, and nothing over the edge."""

from __future__ import annotations

import numpy as np

from opentrans_cli.pictures.contact_sheet import SheetRow, contact_sheet


def test_a_row_holds_its_photo_as_it_is_and_beside_it_one_colour_a_class() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number, (height, width) in enumerate(((480, 300), (500, 700), (40, 60))):
        label_map = np.full((height, width), 65535)
        label_map[: height // 2, : width // 2], label_map[height // 2 :] = 7, 300
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        rows.append(SheetRow(f"row {number}", image, label_map, [f"class {name}" for name in range(301)]))
    sheet = np.asarray(contact_sheet(rows))
    assert sheet.shape[1] > 2 * 700
    top = 0
    for row in rows:
        factor = 8 if max(row.label_map.shape) == 60 else 1  # a small photo is enlarged until it can be looked at
        shown = row.image.repeat(factor, axis=0).repeat(factor, axis=1)
        height, width = shown.shape[:2]
        place = next(y for y in range(top, len(sheet)) if (sheet[y, 12 : 12 + width] == shown[0]).all())
        assert (sheet[place : place + height, 12 : 12 + width] == shown).all()
        beside = sheet[place : place + height, 24 + width : 24 + 2 * width].astype(int)
        moved = beside - shown
        unlabelled = np.s_[4 : height // 2 - 4, width // 2 + 4 :]
        assert not moved[unlabelled].any()  # where there is no class, the photo is left as it is
        assert moved[: height // 2 - 4, : width // 2 - 4].any() and moved[height // 2 + 4 :].any()
        top = place + height
