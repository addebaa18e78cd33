"""Where PASCAL Context lies, and which of its 459 classes are the 59 most frequent."""

from __future__ import annotations

CONTEXT_HOMES = ("VOCdevkit/VOC2010", "VOC2010", "")
"""Folders under the root where VOC 2010 lies."""

MOST_CONTEXT_ID = 459

# fmt: off
CONTEXT_59_IDS = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159,
    162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397,
    415, 416, 420, 424, 427, 440, 445, 454, 458,
)
# fmt: on
"""The ids, among those of the 459 classes, of the 59."""
