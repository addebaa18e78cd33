"""What a page shows: bundles and documents, found by what they say they are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from opentrans_cli.bundle.folder import MANIFEST
from opentrans_cli.bundle.hub.source import hub_ref, local_bundle
from opentrans_cli.bundle.schema import check_document, document_kind, read_report, report_kind
from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.errors import BundleError, OptionError, without_move
from opentrans_cli.files.near import near_path
from opentrans_cli.reporter import Reporter
from opentrans_cli.spectral.report import AlphaReport, bundle_report
from opentrans_cli.steps.report.sections import SECTIONS
from opentrans_cli.steps.run_files import log_beside

BUNDLE, LOG = "manifest", "run_log_line"
"""Kinds that are no single JSON document: a folder with a manifest, and a file of JSON lines."""

OWNERS = ("demo_report", "segment_report", "check_report")
"""Kinds whose folder is theirs: what else lies in it is told with them."""

_LOG_END = ".log.jsonl"
_DEEPEST = 4  # levels of folders below one that is given
_KNOWN = "a bundle, a JSON report, a log (.log.jsonl), or a folder with some of them"
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
"""Ends of the names of pictures that a page can show."""


@dataclass(frozen=True)
class Exhibit:
    """One thing that a page shows."""

    kind: str  # a definition of `artifacts.schema.json`
    name: str  # as the page calls it
    path: Path  # the bundle's folder, or the file
    document: Any = field(repr=False)  # the parsed JSON; of a log its lines, of a bundle None
    bundle: Bundle | None = field(default=None, repr=False)
    alphas: AlphaReport | None = field(default=None, repr=False)  # in the bundle
    reports: tuple[Exhibit, ...] = ()  # in the bundle, and the log beside it

    @property
    def folder(self) -> Path:
        """The folder in which its files are."""
        return self.path if self.bundle is not None else self.path.parent

    def documents(self, kind: str) -> list[dict[str, Any]]:
        """The documents of one kind: its own, or those of its reports."""
        return [each.document for each in (self, *self.reports) if each.kind == kind]


@dataclass
class Finds:
    """All that the given paths hold, in order."""

    exhibits: list[Exhibit] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)  # that belong to none of them
    faults: list[str] = field(default_factory=list)  # what lies in a folder but cannot be shown, one line each

    def add(self, others: Finds, *, within: str) -> None:
        """Add those of a folder, bundles first; names are told without the folder `within` in front."""
        order = [*SECTIONS.targets]
        places = {exhibit.kind: order.index(exhibit.kind) for exhibit in others.exhibits if exhibit.kind in order}
        ordered = sorted(others.exhibits, key=lambda exhibit: places.get(exhibit.kind, len(order)))
        self.exhibits += [replace(each, name=each.name.removeprefix(f"{within}/")) for each in ordered]
        self.pictures += others.pictures
        self.faults += others.faults


def find_exhibits(sources: list[str], reporter: Reporter) -> Finds:
    """What `sources` hold: bundles (folders or hf://...), documents, logs, or folders with any of these.

    A source that is none of them is refused; what is damaged inside a folder is told among the faults. Raises
    OptionError, BundleError or HubError.
    """
    finds = Finds()
    taken: set[str] = set()
    for source in sources:
        path = local_bundle(source, reporter)
        if (real := os.path.realpath(path)) in taken:
            raise OptionError(f"given twice: {source}; name it once")
        taken.add(real)
        name = source if hub_ref(source) is not None else _short_name(path, [Path(other) for other in sources])
        if (path / MANIFEST).exists():
            finds.exhibits.append(_bundle(path, name))
        elif path.is_dir():
            inside = Finds()
            _look_into(path, path, name, inside)
            if inside == Finds():
                raise BundleError(f"nothing to report on in the folder: {source}; give {_KNOWN}")
            finds.add(inside, within=name if len(sources) == 1 else "")
        elif path.exists():
            finds.exhibits.append(_file(path, name))
        else:
            raise BundleError(f"no such file or folder: {source}; check the path{near_path(path)}")
    return finds


def _short_name(path: Path, others: list[Path]) -> str:
    """The last name of a path, or all of it where another one ends in the same name."""
    own = Path(os.path.abspath(path)).name
    same = [other for other in others if Path(os.path.abspath(other)).name == own]
    return own if len(same) < 2 else path.as_posix()


def _bundle(path: Path, name: str) -> Exhibit:
    bundle = open_bundle(path)
    return Exhibit(BUNDLE, name, path, None, bundle, bundle_report(bundle), tuple(_reports(bundle)))


def _reports(bundle: Bundle) -> Iterator[Exhibit]:
    for entry in bundle.manifest.files:
        if (kind := report_kind(entry.name)) is not None:
            path = bundle.file_path(entry.name)
            yield Exhibit(kind, entry.name, path, _checked(read_report(path), kind, path))
    log = log_beside(bundle.path)
    if log.is_file():
        yield Exhibit(LOG, log.name, log, _log_lines(log))


def _file(path: Path, name: str) -> Exhibit:
    """A file that was given by name."""
    if path.name.endswith(_LOG_END):
        return Exhibit(LOG, name, path, _log_lines(path))
    if path.suffix != ".json":
        raise BundleError(f"not a report: {path}; give {_KNOWN}")
    document = read_report(path)
    kind = document_kind(document)
    if kind is None:
        raise BundleError(f"JSON of another kind: {path} is no report of this program; give {_KNOWN}")
    if kind == BUNDLE:
        raise BundleError(f"a manifest without its bundle: {path}; give the folder it lies in")
    return Exhibit(kind, name, path, _checked(document, kind, path))


def _checked(document: Any, kind: str, path: Path) -> Any:
    try:
        check_document(document, kind)
    except BundleError as error:
        raise BundleError(f"{path} is {error}") from error
    return document


def _look_into(folder: Path, top: Path, prefix: str, finds: Finds, depth: int = 0) -> None:
    """Add what lies in `folder` and below. A folder that one document owns holds nothing else."""
    entries = sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=lambda e: e.name)
    own: list[Exhibit] = []
    for path in entries:
        if path.is_file() and path.name.endswith((".json", _LOG_END)):
            if path.name.endswith(_LOG_END) and (folder / path.name[: -len(_LOG_END)] / MANIFEST).exists():
                continue  # it is told with its bundle
            try:
                own += _found_file(path, _inside(path, top, prefix))
            except (BundleError, OSError) as error:
                finds.faults.append(without_move(error))
    for exhibit in own:
        if exhibit.kind in OWNERS:
            finds.exhibits.append(replace(exhibit, name=_inside(folder, top, prefix)))
            return
    finds.exhibits += own
    drawn = {path.stem for path in entries if path.suffix == ".json"}
    finds.pictures += [
        path for path in entries if path.suffix.lower() in PICTURES and path.stem not in drawn and path.is_file()
    ]
    for path in entries:
        if not path.is_dir():
            continue
        if (path / MANIFEST).exists():
            try:
                finds.exhibits.append(_bundle(path, _inside(path, top, prefix)))
            except (BundleError, OSError) as error:
                finds.faults.append(without_move(error))
        elif depth < _DEEPEST and not path.is_symlink():
            _look_into(path, top, prefix, finds, depth + 1)


def _inside(path: Path, top: Path, prefix: str) -> str:
    """What the page calls something in a folder that was given."""
    return (Path(prefix) / path.relative_to(top)).as_posix()


def _found_file(path: Path, name: str) -> Iterator[Exhibit]:
    """A document or log in a folder; nothing for JSON of another kind."""
    if path.name.endswith(_LOG_END):
        yield Exhibit(LOG, name, path, _log_lines(path))
        return
    document = read_report(path)
    kind = document_kind(document)
    if kind not in (None, BUNDLE, LOG):
        assert kind is not None
        yield Exhibit(kind, name, path, _checked(document, kind, path))


def _log_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last one that is still being written is left out. Raises BundleError."""
    lines = []
    texts = path.read_bytes().split(b"\n")
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text) if text.strip() else None
        except ValueError:
            line = None if number == len(texts) else ""
        if line is None:
            continue
        if not isinstance(line, dict) or not isinstance(line.get("event"), str) or type(line.get("step")) is not int:
            raise BundleError(f"not the log of a run: {path}, line {number}; give another")
        lines.append(line)
    if not lines:
        raise BundleError(f"the log is empty: {path}; wait until the run has taken a step")
    return lines
