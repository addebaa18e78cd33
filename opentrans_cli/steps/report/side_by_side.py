"""Several results beside each other: a row for each bundle, each evaluation, and the same pictures in one line."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from opentrans_cli.files.figures import human_bytes, human_count, percent
from opentrans_cli.pictures.gallery import label_picture, photo_picture
from opentrans_cli.pictures.page import BarCell, LinkCell, Page, PageCell, PageChart
from opentrans_cli.pictures.svg_lines import DrawnLine, line_chart, line_key
from opentrans_cli.steps.eval.score_table import where_protocols_differ
from opentrans_cli.steps.report.exhibit import Exhibit
from opentrans_cli.steps.report.gallery import gallery_colours, gallery_items
from opentrans_cli.steps.report.sections.scores import scores_table

_MOST_LINES = 4
_MOST_SCENES = 24
_SIDE = 480  # pixels


@dataclass(frozen=True)
class Compared:
    """A thing on the page, and where its part is."""

    exhibit: Exhibit
    anchor: str

    @property
    def called(self) -> LinkCell:
        """Its name, which leads to its part."""
        return LinkCell(self.exhibit.name, f"#{self.anchor}")


def compare_things(page: Page, things: Sequence[Compared]) -> None:
    """A row for each bundle and each evaluation among `things`, and where several have curves these in one chart."""
    bundles = [thing for thing in things if thing.exhibit.bundle is not None]
    if bundles:
        page.heading("Bundles")
        _bundles(page, bundles)
    scored: list[tuple[PageCell, Mapping[str, Any]]] = [
        (thing.called, report) for thing in things for report in thing.exhibit.documents("eval_report")
    ]
    if scored:
        page.heading("Scores")
        scores_table(page, scored)
        named = [(thing.exhibit.name, report) for thing in things for report in thing.exhibit.documents("eval_report")]
        for line in where_protocols_differ(named):
            page.note(f"{line}.")
    _curves(page, things)


def _bundles(page: Page, things: Sequence[Compared]) -> None:
    """A row for each bundle, with the columns that any of them fills."""
    columns: dict[str, Callable[[Compared], PageCell]] = {
        "weights removed, %": _removed,
        **{
            f"mIoU on {name}, %": lambda thing, name=name: _miou(thing, name)  # type: ignore[misc]
            for name in sorted(
                {report["dataset"] for thing in things for report in thing.exhibit.documents("eval_report")}
            )
        },
        "weights kept": lambda thing: human_count(_manifest(thing).kept),
        "size": lambda thing: human_bytes(thing.exhibit.bundle.size_bytes) if thing.exhibit.bundle else "-",
        "base": lambda thing: _manifest(thing).base.architecture,
        "pattern": lambda thing: _manifest(thing).pattern,
        "segmentor": lambda thing: _manifest(thing).segmentor.framework if _manifest(thing).segmentor else "-",
        "median alpha": _median_alpha,
        "training, MACs": lambda thing: _receipt(thing, lambda receipt: human_count(receipt["total"])),
        "saved, %": lambda thing: _receipt(
            thing, lambda receipt: percent(receipt["saved"]["all"]) if "saved" in receipt else "-"
        ),
        "made by": lambda thing: ", ".join(step.verb for step in _manifest(thing).steps),
    }
    filled = {name: [read(thing) for thing in things] for name, read in columns.items()}
    shown = {name: cells for name, cells in filled.items() if any(cell != "-" for cell in cells)}
    rows = [[thing.called, *(cells[place] for cells in shown.values())] for place, thing in enumerate(things)]
    names = ["bundle", *shown]
    page.table(names, rows, texts=(len(names) - 1,))
    _parents(page, things)


def _parents(page: Page, things: Sequence[Compared]) -> None:
    """Which bundle on the page was made from which other."""
    by_digest = {thing.exhibit.bundle.digest: thing for thing in things if thing.exhibit.bundle is not None}
    for thing in things:
        own = thing.exhibit.bundle
        if own is None:
            continue
        parents = [step.parent for step in reversed(own.manifest.steps) if step.parent not in (None, own.digest)]
        nearest = next((by_digest[parent] for parent in parents if parent in by_digest), None)
        if nearest is not None:
            page.note(f"{thing.exhibit.name} was made from {nearest.exhibit.name}.")


def _manifest(thing: Compared) -> Any:
    assert thing.exhibit.bundle is not None
    return thing.exhibit.bundle.manifest


def _removed(thing: Compared) -> PageCell:
    share = _manifest(thing).achieved_sparsity
    return BarCell(percent(share), share)


def _miou(thing: Compared, dataset: str) -> PageCell:
    """The score of the whole bundle; at a sparsity of an earlier round only if there is no other."""
    found = [report for report in thing.exhibit.documents("eval_report") if report["dataset"] == dataset]
    found.sort(key=lambda report: "at_sparsity" in report)
    if not found or found[0]["miou"] is None:
        return "-"
    return BarCell(percent(found[0]["miou"]), found[0]["miou"])


def _median_alpha(thing: Compared) -> str:
    report = thing.exhibit.alphas
    return "-" if report is None or not math.isfinite(report.median) else f"{report.median:.2f}"


def _receipt(thing: Compared, read: Callable[[Mapping[str, Any]], str]) -> str:
    return next((read(receipt) for receipt in thing.exhibit.documents("cost_receipt")), "-")


def _curves(page: Page, things: Sequence[Compared]) -> None:
    """For each data set on which several runs were scored by sparsity, their curves in one chart."""
    curves: defaultdict[str, list[tuple[str, Mapping[str, Any]]]] = defaultdict(list)
    for thing in things:
        for report in thing.exhibit.documents("curve_report"):
            curves[report["dataset"]].append((thing.exhibit.name, report))
    for dataset, runs in curves.items():
        lines = [
            DrawnLine(
                name,
                [
                    (100 * point["sparsity"], 100 * point["miou"])
                    for point in sorted(report["points"], key=lambda point: point["sparsity"])
                    if point["miou"] is not None
                ],
            )
            for name, report in runs
        ]
        lines = [line for line in lines if line.points][:_MOST_LINES]
        if len(lines) < 2:
            continue
        page.heading(f"mIoU by sparsity on {dataset}")
        svg = line_chart(lines, x="weights removed, %", y="mIoU, %")
        page.charts([PageChart(svg, "mIoU, %", line_key(lines))])
        if len(lines) < len(runs):
            page.note(f"{len(lines)} of {len(runs)} runs are drawn; the figures of all stand in their parts.")


def same_pictures(page: Page, exhibits: Sequence[Exhibit]) -> None:
    """The pictures that at least two segment reports have, one line each: the photo, then what each makes of it."""
    things = [exhibit for exhibit in exhibits if exhibit.kind == "segment_report"]
    if len(things) < 2:
        return
    items = [gallery_items(page, thing.folder, thing.document, home=thing.folder) for thing in things]
    colours = [gallery_colours(thing.document) for thing in things]
    common = [name for name in dict.fromkeys(chain(*items)) if sum(name in own for own in items) > 1]
    if not common:
        return
    page.heading("The same pictures")
    faults = []
    for name in common[:_MOST_SCENES]:
        shown = []
        try:
            photos = (photo_picture(own[name], _SIDE) for own in items if name in own)
            shown += [photo for photo in photos if photo is not None][:1]
            for thing, own, colour in zip(things, items, colours, strict=True):
                if name in own:
                    shown.append(label_picture(own[name], colour, _SIDE, caption=f"{name}: {thing.name}"))
        except OSError as error:
            faults.append(f"{name} ({error})")
        page.pictures(shown, least=150)
    if len(common) > _MOST_SCENES:
        page.note(f"The first {_MOST_SCENES} of {len(common):,} pictures are shown.")
    if faults:
        page.note(f"Not readable: {', '.join(faults)}.")
