"""opentrans provenance."""

from __future__ import annotations

from opentrans_cli.cli.command import Talk, command
from opentrans_cli.steps.shared_options import BundleChoice


@command
def provenance_command(source: BundleChoice, talk: Talk) -> None:
    """How a bundle came to be, as a shell script that makes it again and compares the digests.

    opentrans provenance subnet > reproduce.sh
    """
    from opentrans_cli.steps.provenance.provenance import provenance

    result = provenance(source.bundle, reporter=talk.reporter)
    # Print without the console's markup and line width, since this is a program.
    talk.emit(result.to_json(), lambda console: console.file.write(result.script))
