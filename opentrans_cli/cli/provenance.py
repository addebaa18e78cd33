"""opentrans provenance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentrans_cli.cli import options as o
from opentrans_cli.cli.output import ConsoleReporter, emit

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.provenance.provenance import Provenance


def provenance(bundle: o.BundleArg, as_json: o.JsonOpt = False) -> None:
    """How a bundle came to be, as a shell script that makes it again and compares the digests."""
    from opentrans_cli.steps.provenance.provenance import provenance as step

    result = step(bundle, reporter=ConsoleReporter(quiet=as_json))
    emit(result.to_json(), lambda console: _show(console, result), as_json=as_json)


def _show(console: Console, result: Provenance) -> None:
    # Past the console's markup and line width: this is a program.
    console.file.write(result.script)
