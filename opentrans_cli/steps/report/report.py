"""report: one HTML page of bundles, reports and folders with any of these, everything inside it. No torch is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from opentrans_cli.errors import OptionError
from opentrans_cli.files.atomic import write_file
from opentrans_cli.files.targets import check_file_target, prepare_parent
from opentrans_cli.pictures.page import Page
from opentrans_cli.reporter import LOGGED, Reporter
from opentrans_cli.steps.report.exhibit import Finds, find_exhibits
from opentrans_cli.steps.report.loose_pictures import picture_rows
from opentrans_cli.steps.report.sections.bundle import tell_exhibit
from opentrans_cli.steps.report.sections.facts import title_of
from opentrans_cli.steps.report.side_by_side import Compared, compare_things, same_pictures

PAGE = "report.html"
_MOST_PARTS = 40
"""Things that are told in full; the tables at the top have all of them."""


@dataclass(frozen=True)
class ReportResult:
    """The page that was written."""

    path: Path
    bytes: int
    shown: tuple[dict[str, str], ...]  # by thing on the page its kind and name
    left_out: tuple[str, ...]  # what lies in a folder but could not be shown, and why


def report(
    source: str | Path | Sequence[str | Path],
    *,
    out: str | Path = PAGE,
    force: bool = False,
    reporter: Reporter | None = None,
) -> ReportResult:
    """Write one page about `source`, one or several, to the file `out`.

    A source is a bundle (a folder or hf://org/name), a JSON report, a log of a run, or a folder in which some of them
    lie. The page needs no other file, no network and no script. Raises BundleError for a source that is none of these
    or is damaged, HubError for a bundle that cannot be pulled, OptionError for one given twice, and OutputError if
    `out` may not be written.
    """
    out, reporter = Path(out), reporter or LOGGED
    sources = [source] if isinstance(source, str | Path) else list(source)
    if not sources:
        raise OptionError("nothing to report on: no path is given; name a bundle or a folder")
    check_file_target(out, force=force)
    finds = find_exhibits([str(each) for each in sources], reporter)
    for fault in finds.faults:
        reporter.say(f"left out: {fault}")
    page = _page(finds, _title(sources, finds), out.parent)
    prepare_parent(out)
    content = page.html().encode()
    write_file(out, [content])
    shown = tuple({"kind": exhibit.kind, "name": exhibit.name} for exhibit in finds.exhibits)
    return ReportResult(out, len(content), shown, tuple(finds.faults))


def _title(sources: Sequence[str | Path], finds: Finds) -> str:
    if len(sources) == 1:
        return finds.exhibits[0].name if finds.exhibits and _is_alone(finds) else Path(sources[0]).resolve().name
    names = [str(each).rstrip("/").rpartition("/")[2] for each in sources]
    return ", ".join(names) if len(names) < 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def _is_alone(finds: Finds) -> bool:
    return len(finds.exhibits) == 1 and not finds.pictures and not finds.faults


def _page(finds: Finds, title: str, beside: Path) -> Page:
    page = Page(title, beside=beside)
    if _is_alone(finds):
        tell_exhibit(page, finds.exhibits[0])
        return page
    counts = Counter(title_of(exhibit.kind) for exhibit in finds.exhibits)
    if counts:
        page.text(", ".join(f"{kind}: {count}" for kind, count in counts.items()) + ".")
    things = [Compared(exhibit, f"part-{number}") for number, exhibit in enumerate(finds.exhibits, start=1)]
    compare_things(page, things)
    told = things[:_MOST_PARTS]
    if len(told) > 1:
        page.heading("Contents")
        page.contents({thing.anchor: f"{title_of(thing.exhibit.kind)}: {thing.exhibit.name}" for thing in told})
    if len(told) < len(things):
        page.note(f"The first {len(told)} of {len(things):,} are told in full; give the others by name.")
    if finds.faults:
        page.heading("Left out")
        page.table(["what and why"], [[fault] for fault in finds.faults])
    same_pictures(page, finds.exhibits)
    for thing in told:
        with page.part(f"{title_of(thing.exhibit.kind)}: {thing.exhibit.name}", anchor=thing.anchor):
            tell_exhibit(page, thing.exhibit)
    if finds.pictures:
        with page.part("Pictures"):
            picture_rows(page, finds.pictures)
    return page
