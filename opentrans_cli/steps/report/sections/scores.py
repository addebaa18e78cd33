"""Scores of a segmentor: one table for several evaluations, and all about one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opentrans_cli.files.figures import human_count, percent
from opentrans_cli.metrics.mask_ap import SUMMARY
from opentrans_cli.pictures.page import BarCell, Page, PageCell
from opentrans_cli.steps.report.exhibit import Exhibit
from opentrans_cli.steps.report.sections.facts import plain_facts

SCORES = {
    "miou": "mIoU, %",
    "miou_seen": "seen, %",
    "miou_unseen": "unseen, %",
    "fwiou": "fwIoU, %",
    "macc": "mACC, %",
    "pixel_accuracy": "pACC, %",
    "boundary/miou": "boundary mIoU, %",
    "panoptic/pq": "PQ, %",
    "instance/ap": "mask AP, %",
}
"""Fields of reports that are scores in [0, 1], and how tables call them."""

_OF_CLASSES = {"iou": "IoU, %", "accuracy": "accuracy, %", "boundary_iou": "boundary IoU, %"}
_TOLD_APART = {"protocol", "panoptic", "instance", *SCORES}
_TOLD_APART |= {"per_class", "images", "params_dense", "params_kept", "macs", "macs_kept"}


def scores_section(page: Page, exhibit: Exhibit) -> None:
    """The scores, how they were measured, and every class, best first."""
    report = exhibit.document
    scores_table(page, [("", report)])
    page.facts(
        {
            "weights kept": f"{report['params_kept']:,} of {report['params_dense']:,} parameters",
            "MACs of an image": f"{human_count(report['macs_kept'])} of {human_count(report['macs'])}",
            "images": f"{report['images']:,}",
            **plain_facts(report, without=_TOLD_APART),
        }
    )
    if "protocol" in report:
        page.heading("Protocol")
        page.facts(plain_facts(report["protocol"]))
    if "panoptic" in report:
        panoptic_tables(page, report["panoptic"])
    if "instance" in report:
        instance_tables(page, report["instance"])
    page.heading(f"Classes of {report['dataset']}")
    classes_table(page, report["per_class"])


def scores_table(page: Page, rows: Sequence[tuple[PageCell, Mapping[str, Any]]]) -> None:
    """A row for each report, with all scores that any of them has. The first cells name the rows."""
    known = {
        name: label for name, label in SCORES.items() if any(_score(report, name) is not None for _, report in rows)
    }
    named = any(name for name, _ in rows)
    body = []
    for name, report in rows:
        scores: list[PageCell] = [percent(_score(report, score)) for score in known]
        first = _score(report, next(iter(known), ""))
        if first is not None:
            scores[0] = BarCell(percent(first), first)
        facts: list[PageCell] = [
            f"{report['images']:,}",
            human_count(report["params_kept"]),
            human_count(report["macs_kept"]),
        ]
        where = report["dataset"]
        if "at_sparsity" in report:
            where += f" at sparsity {report['at_sparsity']:.4f}"
        body.append([*([name] if named else []), where, *scores, *facts])
    columns = ["data set", *known.values(), "images", "weights kept", "MACs kept"]
    page.table(["of", *columns] if named else columns, body)


def classes_table(page: Page, classes: Sequence[Mapping[str, Any]]) -> None:
    """The classes of one evaluation, best first; those that no image shows are told below."""
    scored = sorted((entry for entry in classes if _number(entry.get("iou"))), key=lambda entry: -entry["iou"])
    columns = {name: label for name, label in _OF_CLASSES.items() if any(_number(entry.get(name)) for entry in scored)}
    rows: list[list[PageCell]] = []
    for entry in scored:
        figures: list[PageCell] = [percent(entry.get(name)) for name in columns]
        figures[0] = BarCell(percent(entry["iou"]), entry["iou"])
        rows.append([entry["name"], *figures, "yes" if entry["seen"] else "no"])
    if rows:
        page.table(["class", *columns.values(), "labels in training"], rows)
    if missing := [entry["name"] for entry in classes if not _number(entry.get("iou"))]:
        page.note(f"In no image: {', '.join(missing)}.")


def panoptic_tables(page: Page, scores: Mapping[str, Any], *, most: float = 1) -> None:
    """Panoptic quality of all classes, of things and of stuff, and of each class; figures are of `most`."""
    page.heading("Panoptic quality")
    groups = {"all": scores, "things": scores["things"], "stuff": scores["stuff"]}
    page.table(
        ["classes", "PQ, %", "SQ, %", "RQ, %", "classes with segments"],
        [[name, *_qualities(group, most), str(group["classes"])] for name, group in groups.items()],
    )
    counts = {"true_positives": "found", "false_positives": "wrong", "false_negatives": "missed"}
    page.table(
        ["class", "PQ, %", "SQ, %", "RQ, %", *counts.values(), "kind"],
        [
            [
                entry["name"],
                *_qualities(entry, most),
                *(f"{entry[name]:,}" for name in counts),
                "thing" if entry["thing"] else "stuff",
            ]
            for entry in sorted(scores["per_class"], key=lambda entry: -(entry["pq"] or 0))
        ],
    )


def instance_tables(page: Page, scores: Mapping[str, Any], *, most: float = 1) -> None:
    """Mask AP by IoU and by size of the objects, and of each class; figures are of `most`."""
    page.heading("Mask AP")
    page.table(["", "AP, %"], [[label, bar_of(scores[name], most)] for name, label in SUMMARY.items()])
    entries = sorted(scores["per_class"], key=lambda entry: -(entry["ap"] or 0))
    page.table(["class", "AP, %"], [[entry["name"], bar_of(entry["ap"], most)] for entry in entries])


def bar_of(score: float | None, most: float = 1) -> PageCell:
    """A score of `most` in percent, with a bar."""
    return "-" if score is None else BarCell(percent(score / most), score / most)


def _qualities(entry: Mapping[str, Any], most: float) -> list[PageCell]:
    rest = (None if entry[name] is None else entry[name] / most for name in ("sq", "rq"))
    return [bar_of(entry["pq"], most), *map(percent, rest)]


def _score(report: Mapping[str, Any], name: str) -> float | None:
    """The field at a path such as "panoptic/pq"; None where there is none."""
    found: Any = report
    for part in name.split("/"):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found if _number(found) else None


def _number(value: object) -> bool:
    return type(value) in (int, float)
