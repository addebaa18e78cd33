"""What `prune` did: the weights kept after every round, and the loss of the distillation."""

from __future__ import annotations

from opentrans_cli.files.figures import percent
from opentrans_cli.pictures.page import BarCell, Page
from opentrans_cli.steps.report.exhibit import Exhibit
from opentrans_cli.steps.report.sections.facts import plain_facts
from opentrans_cli.steps.report.sections.training import losses_charts


def pruning_section(page: Page, exhibit: Exhibit) -> None:
    """Rounds, losses, and what was left out."""
    report = exhibit.document
    page.facts(plain_facts(report, without=("rounds", "steps")))
    page.heading("Rounds")
    shares = [entry["kept"] / report["total"] for entry in report["rounds"]]
    page.table(
        ["round", "weights kept, %", "kept"],
        [
            [str(entry["round"]), BarCell(percent(share), share), f"{entry['kept']:,}"]
            for entry, share in zip(report["rounds"], shares, strict=True)
        ],
    )
    if report["steps"]:
        page.heading("Distillation")
        losses_charts(page, report["steps"])
