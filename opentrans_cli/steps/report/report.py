"""report: one HTML page of a bundle or of a demo's folder, with every picture in it. No torch is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from opentrans_cli.bundle.folder import MANIFEST
from opentrans_cli.bundle.hub.source import local_bundle
from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.files.atomic import write_file
from opentrans_cli.files.records import parse_json
from opentrans_cli.files.targets import check_file_target, prepare_parent
from opentrans_cli.reporter import LOGGED, Reporter
from opentrans_cli.steps.report.bundle_page import bundle_page
from opentrans_cli.steps.report.demo_page import demo_page

PAGE = "report.html"
_DEMO = "report.json"


@dataclass(frozen=True)
class ReportResult:
    """The page that was written."""

    path: Path
    bytes: int


def report(
    source: str | Path,
    *,
    out: str | Path = PAGE,
    force: bool = False,
    reporter: Reporter | None = None,
) -> ReportResult:
    """Write one page about `source`, a bundle or the folder that `demo` made, to the file `out`.

    The page needs no other file, no network and no script. Raises BundleError for what is neither of the two, HubError
    for a bundle that cannot be pulled, and OutputError if `out` may not be written.
    """
    out = Path(out)
    check_file_target(out, force=force)
    folder = Path(source)
    if (folder / _DEMO).is_file() and not (folder / MANIFEST).exists():
        document = parse_json((folder / _DEMO).read_bytes(), _DEMO)
        check_document(document, "demo_report")
        page = demo_page(folder, document, beside=out.parent)
    else:
        page = bundle_page(open_bundle(local_bundle(source, reporter or LOGGED)), beside=out.parent)
    prepare_parent(out)
    content = page.html().encode()
    write_file(out, [content])
    return ReportResult(out, len(content))
