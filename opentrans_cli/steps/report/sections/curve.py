"""Accuracy and size at every sparsity of a run."""

from __future__ import annotations

from opentrans_cli.files.figures import human_bytes, percent
from opentrans_cli.pictures.page import BarCell, Page, PageChart
from opentrans_cli.pictures.svg_lines import DrawnLine, line_chart, line_key
from opentrans_cli.steps.report.exhibit import Exhibit
from opentrans_cli.steps.report.sections.facts import plain_facts

_GROUPS = {"miou": "all classes", "miou_seen": "seen", "miou_unseen": "unseen"}
_REMOVED = "weights removed, %"


def curve_section(page: Page, exhibit: Exhibit) -> None:
    """Both charts, and the table of all points."""
    report = exhibit.document
    points = sorted(report["points"], key=lambda point: point["sparsity"])
    accuracies = [
        DrawnLine(label, [(100 * point["sparsity"], 100 * point[name]) for point in points if point[name] is not None])
        for name, label in _GROUPS.items()
        if any(point[name] is not None for point in points)
    ]
    sizes = DrawnLine("size", [(100 * point["sparsity"], point["bytes"] / 1e6) for point in points])
    charts = []
    if accuracies:
        charts.append(PageChart(line_chart(accuracies, x=_REMOVED, y="mIoU, %"), "mIoU, %", line_key(accuracies)))
    charts.append(PageChart(line_chart([sizes], x=_REMOVED, y="size, MB"), "size of a bundle, MB"))
    page.charts(charts)
    page.table(
        ["weights removed, %", "mIoU, %", "seen, %", "unseen, %", "kept", "size", "round"],
        [
            [
                percent(point["sparsity"]),
                "-" if point["miou"] is None else BarCell(percent(point["miou"]), point["miou"]),
                percent(point["miou_seen"]),
                percent(point["miou_unseen"]),
                f"{point['kept']:,}",
                human_bytes(point["bytes"]),
                str(point["round"]),
            ]
            for point in points
        ],
    )
    page.facts(plain_facts(report, without=("points",)))
