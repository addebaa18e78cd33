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

    source: str = option(help="a bundle, hf://org/name[@revision], or a folder that demo made", argument=True)
    out: Path = option(Path("report.html"), also=("-o",), help="HTML file to write")


@command
def report_command(asked: ReportRequest, write: Force, talk: Talk) -> None:
    """Write one HTML page about a bundle or a demo; every picture is inside it, so that it can be mailed.

    opentrans report subnet --out subnet.html
    opentrans report opentrans-demo --out demo.html
    """
    from rich.markup import escape

    from opentrans_cli.steps.report.report import report

    result = report(asked.source, out=asked.out, force=write.force, reporter=talk.reporter)
    document = {**asdict(result), "path": str(result.path)}
    talk.emit(
        document,
        lambda console: console.print(
            f"{escape(str(result.path))}: {human_bytes(result.bytes)}, open it in a browser", soft_wrap=True
        ),
        result.path,
    )
