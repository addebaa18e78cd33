"""The evaluations behind a name: a bundle, a folder of runs, or the file of a report. No torch is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentrans_cli.bundle.folder import MANIFEST
from opentrans_cli.bundle.hub.source import hub_ref, local_bundle
from opentrans_cli.bundle.schema import check_document, document_kind, read_report, report_kind
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.errors import BundleError, DataError, OptionError
from opentrans_cli.files.near import near_path
from opentrans_cli.files.records import is_clean, parse_json
from opentrans_cli.reporter import Reporter

_KIND = "eval_report"
_LARGEST = 64 << 20  # bytes of a JSON file in a folder that is looked into; a report of 847 classes has 100 thousand
_DEEPEST = 4  # folders inside a folder of runs


@dataclass(frozen=True)
class Evaluated:
    """One segmentor with its evaluations, at most one a data set and kind of classes."""

    parts: tuple[str, ...]  # of its path; the last ones are its name
    reports: tuple[Mapping[str, Any], ...]

    @property
    def at(self) -> str:
        """ " at 0.5" for an earlier round of a bundle, else ""."""
        sparsity = self.reports[0].get("at_sparsity")
        return "" if sparsity is None else f" at {sparsity:g}"


def evaluations(sources: Sequence[str | Path], reporter: Reporter) -> list[Evaluated]:
    """Everything that was evaluated in `sources`, in their order.

    Raises OptionError for a source that is named twice, DataError for one without a report, and BundleError or HubError
    for one that cannot be read.
    """
    found: list[Evaluated] = []
    known: set[str] = set()
    for source in sources:
        place = local_bundle(source, reporter)
        if (real := os.path.realpath(place)) in known:
            raise OptionError(f"named twice: {source}; name it once")
        known.add(real)
        parts = (str(source),) if hub_ref(source) is not None else Path(os.path.abspath(place)).parts
        here = list(_of(place, parts))
        if not here:
            raise DataError(_nothing(source, place))
        found += here
    return found


def _of(place: Path, parts: tuple[str, ...]) -> Iterator[Evaluated]:
    if place.is_file():
        document = read_report(place)
        _check(document, place)
        yield Evaluated((*parts[:-1], place.stem), (document,))
    elif (place / MANIFEST).exists():
        yield from _of_bundle(place, parts)
    elif place.is_dir():
        yield from _of_folder(place, parts, _DEEPEST)


def _nothing(source: str | Path, place: Path) -> str:
    """What is missing, and which command makes it."""
    if (place / MANIFEST).exists():
        return f"nothing was evaluated: {source} holds no report of eval; run `opentrans eval {source}`"
    if place.is_dir():
        return (
            f"nothing was evaluated: {source} holds no report of eval; run `opentrans eval SOURCE --out "
            f"{Path(source) / 'NAME.json'}`"
        )
    if place.exists():
        return f"not a file or folder: {source}; name a bundle, a folder of runs, or the report of eval"
    return (
        f"no such bundle, folder or report: {source}; check the path, or run `opentrans eval {source} --out NAME.json` "
        f"for a source and name that file{near_path(place)}"
    )


def _check(document: Any, path: Path) -> None:
    try:
        check_document(document, _KIND)
    except BundleError as error:
        raise BundleError(f"{str(path)!r} is {error}") from error
    protocol = document.get("protocol", {})
    origin = protocol.get("words_from", {}).get("file")
    shown = (document["dataset"], document["framework"], document["environment"].get("device"), origin)
    if not all(is_clean(str(text)) for text in (*shown, protocol.get("split"))):
        raise BundleError(f"text with control characters: {str(path)!r}; run eval again")


def _of_bundle(place: Path, parts: tuple[str, ...]) -> Iterator[Evaluated]:
    bundle = open_bundle(place)
    names = [entry.name for entry in bundle.manifest.files if report_kind(entry.name) == _KIND]
    documents = []
    for name in names:
        document = parse_json(bundle.read(name), f"{name} of {str(place)!r}")
        _check(document, place / name)
        documents.append((Path(name).stem, document))
    yield from _grouped(documents, parts)


def _of_folder(folder: Path, parts: tuple[str, ...], depth: int) -> Iterator[Evaluated]:
    documents = []
    inside = sorted(each for each in folder.iterdir() if not each.name.startswith("."))
    for path in inside:
        if path.suffix == ".json" and path.is_file() and path.stat().st_size <= _LARGEST:
            document = _report_in(path)
            if document is not None:
                documents.append((path.stem, document))
    yield from _grouped(documents, parts)
    for path in inside:
        if path.is_dir() and not path.is_symlink():
            below = (*parts, path.name)
            if (path / MANIFEST).exists():
                yield from _of_bundle(path, below)
            elif depth > 1:
                yield from _of_folder(path, below, depth - 1)


def _report_in(path: Path) -> Mapping[str, Any] | None:
    """The eval report in a JSON file; None for other JSON. Raises BundleError for one that is not sound."""
    try:
        document = read_report(path)
    except BundleError:
        return None
    if document_kind(document) != _KIND:
        return None
    _check(document, path)
    found: Mapping[str, Any] = document
    return found


def _grouped(documents: Sequence[tuple[str, Mapping[str, Any]]], parts: tuple[str, ...]) -> Iterator[Evaluated]:
    """Reports of one folder or bundle by what they measured: one with several data sets is one row.

    documents: each with its name. A segmentor is told by framework, checkpoint, round and number of weights.
    """
    groups: dict[tuple[Any, ...], list[tuple[str, Mapping[str, Any]]]] = {}
    for name, report in documents:
        checkpoint = report.get("checkpoint", {}).get("sha256")
        sizes = (report["params_dense"], report["params_kept"])
        key = (report["framework"], checkpoint, report.get("at_sparsity"), *sizes)
        groups.setdefault(key, []).append((name, report))
    rows: list[tuple[str, tuple[Mapping[str, Any], ...]]] = []
    for members in groups.values():
        kinds = [set_and_classes(report) for _, report in members]
        if len(set(kinds)) == len(kinds):
            rows.append((members[0][0], tuple(report for _, report in members)))
        else:
            rows += [(name, (report,)) for name, report in members]
    rounds = [row[1][0].get("at_sparsity") for row in rows]
    for name, reports in rows:
        # A round is told by its sparsity, so a bundle with several needs no further name.
        alone = len(rows) == 1 or rounds.count(reports[0].get("at_sparsity")) == 1
        yield Evaluated(parts if alone else (*parts, name), reports)


def set_and_classes(report: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Which column a report belongs to: own folders are told apart by their classes, benchmarks by name."""
    names = tuple(entry["name"] for entry in report["per_class"]) if report["dataset"] == "folder" else ()
    return report["dataset"], names


def short_names(rows: Sequence[Evaluated]) -> list[str]:
    """A name for each row: the last parts of its path, as many as tell it from all others."""
    sizes = [1] * len(rows)

    def name(index: int) -> str:
        return "/".join(rows[index].parts[-sizes[index] :]) + rows[index].at

    while True:
        names = [name(index) for index in range(len(rows))]
        again = [index for index, each in enumerate(names) if names.count(each) > 1]
        grown = [index for index in again if sizes[index] < len(rows[index].parts)]
        if not grown:
            break
        for index in grown:
            sizes[index] += 1
    numbers = [names[:index].count(each) + 1 for index, each in enumerate(names)]  # the folder a and the file a.json
    return [each if number == 1 else f"{each} ({number})" for each, number in zip(names, numbers, strict=True)]
