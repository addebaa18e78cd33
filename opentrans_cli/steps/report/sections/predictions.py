"""Scores of predictions that another tool made: they are in percent, and classes are a mapping."""

from __future__ import annotations

from typing import Any

from opentrans_cli.pictures.page import Page
from opentrans_cli.steps.report.exhibit import Exhibit
from opentrans_cli.steps.report.sections.facts import plain_facts
from opentrans_cli.steps.report.sections.scores import bar_of, instance_tables, panoptic_tables

_MEANS = {"miou": "mIoU", "fwiou": "fwIoU", "macc": "mACC", "pacc": "pACC"}


def semantic_section(page: Page, exhibit: Exhibit) -> None:
    """Scores of label maps."""
    scores = exhibit.document
    page.table(["", "score, %"], [[label, bar_of(scores[name], 100)] for name, label in _MEANS.items()])
    page.facts(plain_facts(scores, without=(*_MEANS, "per_class")))
    page.heading("Classes")
    classes = sorted(scores["per_class"].items(), key=lambda pair: -(pair[1] or 0))
    page.table(["class", "IoU, %"], [[name, bar_of(iou, 100)] for name, iou in classes])


def panoptic_section(page: Page, exhibit: Exhibit) -> None:
    """Scores of segments."""
    page.text(f"{exhibit.document['images']:,} images.")
    panoptic_tables(page, _with_list(exhibit.document), most=100)


def instance_section(page: Page, exhibit: Exhibit) -> None:
    """Scores of objects."""
    page.text(f"{exhibit.document['images']:,} images.")
    instance_tables(page, _with_list(exhibit.document), most=100)


def _with_list(scores: dict[str, Any]) -> dict[str, Any]:
    """The scores with the classes as a list, as a report of a segmentor has them."""
    return {**scores, "per_class": [{"name": name, **entry} for name, entry in scores["per_class"].items()]}
