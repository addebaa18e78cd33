"""What `check` found in a data set."""

from __future__ import annotations

from pathlib import Path

from opentrans_cli.files.figures import percent
from opentrans_cli.pictures.page import BarCell, Page, PageCell
from opentrans_cli.steps.report.exhibit import Exhibit
from opentrans_cli.steps.report.loose_pictures import picture_rows

_MOST_NAMES = 12


def checked_section(page: Page, exhibit: Exhibit) -> None:
    """The findings, how much of the label maps each class fills, the sizes, and the samples that were drawn."""
    report = exhibit.document
    page.text(f"{report['pairs']:,} photos with label maps. {'No faults.' if report['ok'] else 'There are faults.'}")
    if report["findings"]:
        page.heading("Findings")
        rows: list[list[PageCell]] = []
        for finding in report["findings"]:
            names = finding["names"]
            more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
            rows.append([finding["level"], finding["what"], finding["move"], ", ".join(names[:_MOST_NAMES]) + more])
        page.table(["", "what", "next move", "where"], rows, texts=(1, 2, 3))
    page.heading("Classes")
    page.table(
        ["class", "share of all pixels, %", "id", "label maps", "labelled"],
        [
            [
                "no class" if entry["name"] is None else entry["name"],
                BarCell(percent(entry["share"]), entry["share"]),
                str(entry["id"]),
                f"{entry['label_maps']:,}",
                "no" if entry["void"] else "yes",
            ]
            for entry in report["ids"]
        ],
    )
    page.heading("Sizes")
    page.table(["photos of", "how many"], [[size, f"{count:,}"] for size, count in report["sizes"].items()])
    samples = [exhibit.folder / Path(name).name for name in report["samples"]]
    if shown := [path for path in samples if path.is_file()]:
        page.heading("Samples")
        picture_rows(page, shown, least=320)
