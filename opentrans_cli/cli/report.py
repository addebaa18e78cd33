"""opentrans report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from opentrans_cli.cli.command import Force, Talk, command
from opentrans_cli.files.figures import human_bytes
from opentrans_cli.option import Options, option


@dataclass(frozen=True)
class ReportRequest(Options):
    """What is told, and where."""

    paths: tuple[str, ...] = option(
        help="bundles (folders or hf://org/name[@revision]), JSON reports, logs, and folders with any of these",
        argument=True,
    )
    out: Path = option(Path("report.html"), also=("-o",), help="HTML file to write")


@command
def report_command(asked: ReportRequest, write: Force, talk: Talk) -> None:
    """Write one HTML page about bundles, reports and whole folders of runs; everything is inside, so it can be mailed.

    opentrans report subnet --out subnet.html
    opentrans report runs/magnitude runs/fisher --out both.html
    opentrans report opentrans-demo --out demo.html
    """
    from rich.markup import escape

    from opentrans_cli.steps.report.report import report

    result = report(asked.paths, out=asked.out, force=write.force, reporter=talk.reporter)
    document = {**asdict(result), "path": str(result.path)}
    talk.emit(
        document,
        lambda console: console.print(
            f"{escape(str(result.path))}: {human_bytes(result.bytes)}, open it in a browser", soft_wrap=True
        ),
        result.path,
    )
