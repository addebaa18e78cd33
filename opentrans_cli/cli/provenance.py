"""opentrans provenance."""

from __future__ import annotations

from dataclasses import dataclass

import typer

from opentrans_cli.cli.command import Talk, command
from opentrans_cli.errors import OptionError
from opentrans_cli.option import Options, option
from opentrans_cli.steps.shared_options import BundleChoice


@dataclass(frozen=True)
class ProvenanceRequest(Options):
    """The form in which the history is printed."""

    toml: bool = option(False, help="print the options of the steps as a file for --config instead")
    step: int | None = option(None, least=1, help="number of the one step that --toml prints", unset="all")


@command
def provenance_command(source: BundleChoice, asked: ProvenanceRequest, talk: Talk) -> None:
    """Print how a bundle came to be, as a shell script that makes it again and compares the digests.

    opentrans provenance subnet > reproduce.sh
    opentrans provenance subnet --toml > run.toml
    """
    if asked.step is not None and not asked.toml:
        raise OptionError(f"a script has all steps: --step {asked.step}; add --toml")
    if asked.toml and talk.json:
        raise OptionError("one form at a time: --toml and --json; the options are in --json as well, leave one out")
    if asked.toml:
        from opentrans_cli.steps.provenance.provenance import provenance_config

        typer.echo(provenance_config(source.bundle, step=asked.step, reporter=talk.reporter), nl=False)
        return
    from opentrans_cli.steps.provenance.provenance import provenance

    result = provenance(source.bundle, reporter=talk.reporter)
    # Print without the console's markup and line width, since this is a program.
    talk.emit(result.to_json(), lambda console: console.file.write(result.script))
