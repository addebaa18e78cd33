"""What a training costs: multiply-accumulates (MACs) of a run beside those of full training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentrans_cli.files.figures import human_count, percent
from opentrans_cli.pictures.page import BarCell, Page, PageCell
from opentrans_cli.steps.report.exhibit import Exhibit
from opentrans_cli.steps.report.sections.facts import plain_facts

_WORK = {
    "forward": "forward",
    "input_gradient": "input gradients",
    "weight_gradient": "weight gradients",
    "total": "total",
}
_COLUMNS = {"dense": "zeros multiplied", "sparse": "zeros skipped"}
_SAVED = {
    "dense": "of full training, zeros multiplied in both",
    "sparse": "of full training, zeros skipped in both",
    "all": "of ordinary dense training, zeros skipped in the run alone",
}
_IN_TABLES = {
    *_WORK,
    "run",
    "full",
    "saved",
    "phases",
    "parts",
    "frozen_tensors",
    "unit",
    "dense_total",
    "unmasked_total",
}


def cost_section(page: Page, exhibit: Exhibit) -> None:
    """The receipt of a run."""
    cost_tables(page, exhibit.document)


def estimate_section(page: Page, exhibit: Exhibit) -> None:
    """A receipt that was counted without training, and what it was counted for."""
    document = exhibit.document
    page.facts(plain_facts(document, without=("cost",)))
    if isinstance(document["cost"], Mapping):
        page.heading("Cost")
        cost_tables(page, document["cost"])


def cost_tables(page: Page, receipt: Mapping[str, Any]) -> None:
    """All figures of a receipt; one of an early version has only the totals."""
    if "run" in receipt and "full" in receipt:
        rows = {
            f"{who}, {words}": receipt[way][column]
            for way, who in (("run", "this run"), ("full", "full training"))
            for column, words in _COLUMNS.items()
        }
        most = max(figures["total"] for figures in rows.values())
    else:
        rows = {"this run": receipt}
        most = receipt["dense_total"]
    page.table(
        ["MACs", "total", *list(_WORK.values())[:-1]],
        [_row(name, figures, most) for name, figures in rows.items()],
    )
    if "saved" in receipt:
        page.table(
            ["saved, %", ""],
            [
                [words, BarCell(percent(receipt["saved"][name]), receipt["saved"][name])]
                for name, words in _SAVED.items()
            ],
        )
    else:
        page.facts({"MACs with every layer trained": human_count(receipt["dense_total"])})
    if parts := [
        [f"{part['name']}, {who}", *(human_count(part[way][column]["total"]) for column in _COLUMNS)]
        for part in receipt.get("parts", ())
        for way, who in (("run", "this run"), ("full", "full training"))
    ]:
        page.table(["part", *_COLUMNS.values()], parts)
    if phases := receipt.get("phases"):
        page.table(
            ["phase", "steps", "images", "views from the cache", *_COLUMNS.values()],
            [
                [
                    phase["name"],
                    f"{phase['steps']:,}",
                    f"{phase['images']:,}",
                    "-" if phase["cached_views"] is None else f"{phase['cached_views']:,}",
                    *(human_count(phase[column]["total"]) for column in _COLUMNS),
                ]
                for phase in phases
            ],
        )
    page.facts(plain_facts(receipt, without=_IN_TABLES))


def _row(name: str, figures: Mapping[str, int], most: int) -> list[PageCell]:
    rest = [human_count(figures[work]) for work in _WORK if work != "total"]
    return [name, BarCell(human_count(figures["total"]), figures["total"] / most if most else 0), *rest]
