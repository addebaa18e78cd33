"""Numbers as JSON can hold them."""

from __future__ import annotations

import math


def finite(value: float) -> float | None:
    """`value`, or None for infinity and NaN, which JSON does not have."""
    return value if math.isfinite(value) else None
