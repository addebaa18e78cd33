"""Numbers as people read them, in tables, on pages and in percent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def human_bytes(count: int) -> str:
    """1234567 -> "1.2 MB" (powers of 1000)."""
    value, units = float(count), ["B", "kB", "MB", "GB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def human_count(count: float) -> str:
    """1234567 -> "1.23 M" (powers of 1000)."""
    value, units = float(count), ["", " k", " M", " G", " T", " P", " E"]
    while abs(value) >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.3g}{units[0]}"


def percent(value: float | None) -> str:
    """0.1234 -> "12.3"; None -> "-"."""
    return "-" if value is None else f"{100 * value:.1f}"


def in_percent(report: Any) -> Any:
    """The fractions of a report, which are floats, in percent, at any depth; all else as it is."""
    if isinstance(report, Mapping):
        return {name: in_percent(part) for name, part in report.items()}
    return 100 * report if isinstance(report, float) else report


def in_words(seconds: float) -> str:
    """8.2 -> "8 s"; 100 -> "2 min"; 7500 -> "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return " ".join(filter(None, (f"{hours} h" if hours else "", f"{minutes} min" if minutes else "")))
