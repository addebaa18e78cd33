"""The `opentrans` command: registration, version, and exit codes of errors."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from opentrans_cli.cli import (
    analyze,
    check,
    datasets,
    demo,
    diff,
    doctor,
    eval,
    finetune,
    import_,
    inspect,
    models,
    provenance,
    prune,
    pull,
    push,
    report,
    segment,
    transfer,
    verify,
)
from opentrans_cli.cli.output import tell
from opentrans_cli.cli.typed import command_line
from opentrans_cli.errors import OpentransError, RunStopped
from opentrans_cli.quiet import quiet_process
from opentrans_cli.signals import Terminated, answered
from opentrans_cli.version import __version__

_TYPED = "opentrans.typed"
_INTERRUPTED = 130  # as after a Ctrl-C that no program handles


class _Group(TyperGroup):
    """Turns known errors and Ctrl-C into one line on stderr and their exit code; OPENTRANS_TRACEBACK=1 shows the
    traceback of an error.
    """

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        typed = tuple(args)
        ctx = super().make_context(info_name, args, parent, **extra)
        ctx.meta[_TYPED] = typed
        return ctx

    def invoke(self, ctx: Any) -> Any:
        try:
            with answered():
                return super().invoke(ctx)
        except KeyboardInterrupt as error:
            stopped = error.__cause__ if isinstance(error.__cause__, RunStopped) else None
            tell(f"opentrans: {_told(stopped, ctx) if stopped else 'interrupted; the same command starts again'}")
            raise typer.Exit(RunStopped.exit_code if isinstance(error, Terminated) else _INTERRUPTED) from None
        except (OpentransError, OSError) as error:
            if isinstance(error, BrokenPipeError) or os.environ.get("OPENTRANS_TRACEBACK"):
                raise
            if isinstance(error, RunStopped):
                tell(f"opentrans: {'error: ' if error.full else ''}{_told(error, ctx)}")
            elif not getattr(error, "reported", False):
                for line in getattr(error, "lines", ()):
                    tell(f"opentrans: {line}", everywhere=True)
                tell(f"opentrans: error: {_line(error)}", everywhere=True)
            raise typer.Exit(getattr(error, "exit_code", 1)) from None


def _told(stopped: RunStopped, ctx: Any) -> str:
    """What happened, with the very command that goes on."""
    again = ("--resume",) if stopped.after and stopped.written is None else ()
    return stopped.told(command_line(ctx.meta[_TYPED], *again))


def _line(error: Exception) -> str:
    if isinstance(error, OpentransError):
        return str(error)
    if isinstance(error, OSError) and error.filename:
        return (
            f"{error.strerror or type(error).__name__}: {error.filename}; check the path, its permissions and the disk"
        )
    return f"{error}; check paths, permissions and the disk"


app = typer.Typer(
    cls=_Group,
    name="opentrans",
    help="Prune a CLIP image encoder once, publish the subnet, use it in any open-vocabulary segmentation framework.",
    epilog="Start with `opentrans demo`: everything on the embedded model, in a minute on a laptop CPU.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_PIPELINE, _LOOK, _SHARE = "Pipeline", "Look and check", "Share"
COMMANDS: dict[str, tuple[Any, str]] = {
    "prune": (prune.prune_command, _PIPELINE),
    "import": (import_.import_command, _PIPELINE),
    "analyze": (analyze.analyze_command, _PIPELINE),
    "transfer": (transfer.transfer_command, _PIPELINE),
    "finetune": (finetune.finetune_command, _PIPELINE),
    "eval": (eval.eval_command, _PIPELINE),
    "segment": (segment.segment_command, _PIPELINE),
    "check": (check.check_command, _LOOK),
    "datasets": (datasets.datasets_command, _LOOK),
    "demo": (demo.demo_command, _LOOK),
    "inspect": (inspect.inspect_command, _LOOK),
    "verify": (verify.verify_command, _LOOK),
    "diff": (diff.diff_command, _LOOK),
    "report": (report.report_command, _LOOK),
    "provenance": (provenance.provenance_command, _LOOK),
    "models": (models.models_command, _LOOK),
    "doctor": (doctor.doctor_command, _LOOK),
    "push": (push.push_command, _SHARE),
    "pull": (pull.pull_command, _SHARE),
}
"""By name the function of a command, which says its options, and its heading in `opentrans --help`."""

for name, (function, panel) in COMMANDS.items():
    app.command(name, rich_help_panel=panel, epilog=function.epilog)(function)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"opentrans {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""


_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def main() -> None:
    """Entry point of the installed command."""
    # Threads of torch that wait for each other keep their cores busy by default, which slows down everything on a
    # machine that has other work. OpenMP reads this when torch is imported, and worker processes inherit it.
    if not any(name in os.environ for name in _WAITING):
        os.environ["OMP_WAIT_POLICY"] = "passive"
    quiet_process()
    app()
