"""The table of several evaluations: a row for each segmentor, data sets as columns, and where protocols differ."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from opentrans_cli.files.records import json_bytes
from opentrans_cli.steps.eval.found_reports import Evaluated, set_and_classes, short_names
from opentrans_cli.steps.eval.published_scores import PublishedScores

PAPER: Mapping[str, str] = {
    "coco": "COCO",
    "cityscapes": "Cityscapes",
    "ade20k-150": "A-150",
    "ade20k-847": "A-847",
    "voc-20": "PAS-20",
    "context-59": "PC-59",
    "context-459": "PC-459",
}
"""The paper's data sets, in the order of its tables, with their titles there."""

_TITLES = {**PAPER, "voc-21": "PAS-21", "coco-stuff": "COCO-Stuff"}

METRICS: Mapping[str, str] = {"miou": "mIoU", "pq": "PQ", "ap": "AP"}
"""Scores that have columns; the last two only where something has them."""

_PARTS: Mapping[str, str] = {"pq": "panoptic", "ap": "instance"}
"""The part of a report that holds a score; mIoU stands in the report itself."""


@dataclass(frozen=True)
class ScoreColumn:
    """One score on one data set."""

    key: str  # "coco miou"; own folders of other classes are numbered: "folder 2 miou"
    dataset: str
    metric: str  # of METRICS
    title: str  # of the data set


@dataclass(frozen=True)
class ScoreCell:
    """One figure."""

    value: float  # a fraction
    best: bool  # the largest of the measured ones whose protocols agree
    notes: tuple[str, ...]  # letters of the notes about it


@dataclass(frozen=True)
class ScoreRow:
    """One segmentor, measured or published; None is not known. Size, arithmetic and time are those of one data set."""

    name: str
    published: str | None  # where it was published; None: measured
    framework: str
    cells: Mapping[str, ScoreCell]  # by key of a column
    params_kept: int | None
    params: int | None
    macs_kept: int | None
    macs: int | None
    resolution: tuple[int, int] | None  # height and width in pixels, of the MACs and the time
    seconds_per_image: float | None
    device: str | None


@dataclass(frozen=True)
class ScoreTable:
    """Several evaluations side by side."""

    columns: tuple[ScoreColumn, ...]
    rows: tuple[ScoreRow, ...]
    notes: tuple[tuple[str, str], ...]  # letter and text
    remarks: tuple[str, ...]  # what has to be known of the published rows

    def to_json(self) -> dict[str, Any]:
        """The document of `--json`, `score_table` in artifacts.schema.json."""
        notes = [{"letter": letter, "text": text} for letter, text in self.notes]
        document: dict[str, Any] = json.loads(json_bytes({**asdict(self), "notes": notes}))
        return document


def score_table(evaluated: Sequence[Evaluated], published: PublishedScores | None) -> ScoreTable:
    """The table of what was measured and, if they are given, of published rows."""
    kinds = _kinds(evaluated, published)
    notes = _Notes()
    names = short_names(evaluated)
    columns = [
        ScoreColumn(f"{key} {metric}", kind[0], metric, title)
        for metric in METRICS
        for kind, (key, title) in kinds.items()
        if any(_score(row.reports, kind, metric) is not None for row in evaluated)
        or _beside(kind[0], metric, published, alone=not evaluated)
    ]
    cells: list[dict[str, ScoreCell]] = [{} for _ in evaluated]
    for column in columns:
        kind = next(kind for kind, (key, _) in kinds.items() if column.key == f"{key} {column.metric}")
        for index, cell in _compared(evaluated, names, kind, column.metric, notes):
            cells[index][column.key] = cell
    rows = [_measured(row, name, own, kinds) for row, name, own in zip(evaluated, names, cells, strict=True)]
    if published is not None:
        rows += _published_rows(published, columns)
    remarks = () if published is None else published.notes
    return ScoreTable(tuple(columns), tuple(rows), notes.all(), remarks)


def _beside(dataset: str, metric: str, published: PublishedScores | None, *, alone: bool) -> bool:
    """Whether published rows get a column that nothing was measured for: those of the paper do, `alone` all."""
    if published is None or not (alone or (dataset in PAPER and metric == "miou")):
        return False
    return any(metric in row.scores.get(dataset, {}) for row in published.rows)


Kind = tuple[str, tuple[str, ...]]
"""A data set and, of an own folder, the names of its classes."""


def _kinds(evaluated: Sequence[Evaluated], published: PublishedScores | None) -> dict[Kind, tuple[str, str]]:
    """By kind the key and title of its columns: first the paper's data sets in its order, then others as they come."""
    found = [set_and_classes(report) for row in evaluated for report in row.reports]
    if published is not None:
        found += [(dataset, ()) for row in published.rows for dataset in row.scores]
    place = {dataset: number for number, dataset in enumerate(PAPER)}
    ordered = sorted(dict.fromkeys(found), key=lambda kind: place.get(kind[0], len(place)))
    counts: dict[str, int] = {}
    made: dict[Kind, tuple[str, str]] = {}
    several = {dataset for dataset, _ in ordered if sum(other == dataset for other, _ in ordered) > 1}
    for dataset, classes in ordered:
        counts[dataset] = counts.get(dataset, 0) + 1
        number = f" {counts[dataset]}" if counts[dataset] > 1 else ""
        title = _TITLES.get(dataset, dataset)
        if dataset in several:
            title += f"{number} ({len(classes)} classes)"
        made[(dataset, classes)] = (f"{dataset}{number}", title)
    return made


def _of_kind(reports: Sequence[Mapping[str, Any]], kind: Kind) -> Mapping[str, Any] | None:
    return next((report for report in reports if set_and_classes(report) == kind), None)


def _score(reports: Sequence[Mapping[str, Any]], kind: Kind, metric: str) -> float | None:
    report: Mapping[str, Any] | None = _of_kind(reports, kind)
    if report is not None and metric in _PARTS:
        report = report.get(_PARTS[metric])
    value = None if report is None else report.get(metric)
    return None if value is None else float(value)


class _Notes:
    """Texts and their letters, the same text once."""

    def __init__(self) -> None:
        self._letters: dict[str, str] = {}

    def letter(self, text: str) -> str:
        number = len(self._letters)
        return self._letters.setdefault(text, (chr(96 + number // 26) if number >= 26 else "") + chr(97 + number % 26))

    def all(self) -> tuple[tuple[str, str], ...]:
        return tuple((letter, text) for text, letter in self._letters.items())


def _compared(
    evaluated: Sequence[Evaluated], names: Sequence[str], kind: Kind, metric: str, notes: _Notes
) -> Iterator[tuple[int, ScoreCell]]:
    """The measured cells of a column by row. The first one with a protocol is what the others are compared with."""
    there = [
        (index, value, report)
        for index, row in enumerate(evaluated)
        if (value := _score(row.reports, kind, metric)) is not None
        and (report := _of_kind(row.reports, kind)) is not None
    ]
    if not there:
        return
    told = _told([(names[index], report) for index, _, report in there])
    agreed = [value for (_, value, _), own in zip(there, told, strict=True) if not own]
    best = max(agreed) if len(agreed) > 1 else None
    for (index, value, _), own in zip(there, told, strict=True):
        letters = tuple(notes.letter(text) for text in own)
        yield index, ScoreCell(value, best=not own and value == best, notes=letters)


def _told(named: Sequence[tuple[str, Mapping[str, Any]]]) -> list[list[str]]:
    """For each of several reports of one data set where its protocol is not that of the first that has one."""
    first, reference = next((each for each in named if "protocol" in each[1]), named[0])
    told = []
    for _, report in named:
        texts = [] if report is reference else [f"{text}, unlike {first}" for text in differences(report, reference)]
        if "protocol" not in report:
            texts.append("the report says no words, prompts and rules: it is from an older version, run eval again")
        told.append(texts)
    return told


def where_protocols_differ(named: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """A line for each eval report, given with the name of what it is of, that cannot be compared with the others of its
    data set.
    """
    kinds: dict[Kind, list[tuple[str, Mapping[str, Any]]]] = {}
    for name, report in named:
        kinds.setdefault(set_and_classes(report), []).append((name, report))
    return [
        f"{name} on {kind[0]}: {'; '.join(texts)}"
        for kind, several in kinds.items()
        if len(several) > 1
        for (name, _), texts in zip(several, _told(several), strict=True)
        if texts
    ]


_ABSENT = {"exclude": "absent classes are left out of the mean", "zero": "absent classes count as 0"}


def _prompts(protocol: Mapping[str, Any]) -> str:
    templates = protocol["templates"]
    if templates is not None:
        return f"{len(templates)} prompts of SHA-256 {protocol['templates_sha256'][:8]}"
    if protocol["synonyms"] is None:
        return "no prompts"
    pack = protocol["words_from"]
    return f"prompts of the pack {pack['file']} ({(pack['sha256'] or '')[:8]}), which does not name them"


def _size(protocol: Mapping[str, Any]) -> str:
    resolution, windows = protocol["resolution"], protocol.get("windows")
    size = "pictures at their own size"
    if resolution is not None:
        size = f"short side {resolution['short']}, long one at most {resolution['long']}"
    return (
        size if windows is None else f"{size}, in windows of {windows['side']} that overlap by {windows['overlap']:g}"
    )


Told = Callable[[Mapping[str, Any]], str]

_ASPECTS: tuple[Told, ...] = (
    lambda protocol: f"words of SHA-256 {protocol['classes_sha256'][:8]}",
    _prompts,
    lambda protocol: "no words are read" if protocol["synonyms"] is None else "the best word counts",
    lambda protocol: f"ignored ids {', '.join(map(str, protocol['ignored_ids']))}",
    lambda protocol: _ABSENT[protocol["absent"]],
    _size,
    lambda protocol: f"split {protocol['split']}",
)
"""What two protocols may differ in, as words; the data are compared apart."""


def differences(report: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    """Where the protocol of an eval report is not that of another, a text for each point; empty if they agree.

    Of two reports only those points are compared that both have.
    """
    found = []
    if report["images"] != reference["images"]:
        found.append(f"{report['images']:,} images")
    elif report.get("data") != reference.get("data"):
        found.append("other images or label maps")
    own, other = report.get("protocol"), reference.get("protocol")
    if own is None or other is None:
        if [entry["name"] for entry in report["per_class"]] != [entry["name"] for entry in reference["per_class"]]:
            found.append("other classes")
        return found
    return found + [told(own) for told in _ASPECTS if told(own) != told(other)]


def _measured(row: Evaluated, name: str, cells: Mapping[str, ScoreCell], kinds: Mapping[Kind, object]) -> ScoreRow:
    """Size and cost are those on the first of its data sets."""
    report = next(found for kind in kinds if (found := _of_kind(row.reports, kind)) is not None)
    height, width = report["resolution"]
    device = report["environment"].get("device")
    return ScoreRow(
        name,
        None,
        report["framework"],
        cells,
        params_kept=report["params_kept"],
        params=report["params_dense"],
        macs_kept=report["macs_kept"],
        macs=report["macs"],
        resolution=(height, width),
        seconds_per_image=report["seconds_per_image"],
        device=None if device is None else str(device),
    )


def _published_rows(published: PublishedScores, columns: Sequence[ScoreColumn]) -> Iterator[ScoreRow]:
    for row in published.rows:
        cells = {
            column.key: ScoreCell(value, best=False, notes=())
            for column in columns
            if (value := row.scores.get(column.dataset, {}).get(column.metric)) is not None
        }
        size = {"params_kept": row.params, "params": None, "macs_kept": row.macs, "macs": None}
        yield ScoreRow(
            row.name,
            row.published,
            row.framework,
            cells,
            **size,
            resolution=row.resolution,
            seconds_per_image=None,
            device=None,
        )
