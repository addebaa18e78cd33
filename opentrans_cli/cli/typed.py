"""The command line as the user typed it, to be typed again."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path


def command_line(typed: Sequence[str], *more: str) -> str:
    """What starts this program with the arguments `typed`, and with the options of `more` that are not among them.

    Quoted for a shell. Environment variables before the command, and a scheduler around it, cannot be seen from here.
    """
    options = [option for option in more if option not in typed]
    end = typed.index("--") if "--" in typed else len(typed)  # everything after it is read as arguments
    words = [*_program(), *typed[:end], *options, *typed[end:]]
    return shlex.join(words)


def _program() -> list[str]:
    started = Path(sys.argv[0])
    module = started.name == "__main__.py"
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several:
        launcher = (
            ["torchrun"] if shutil.which("torchrun") else [_name(Path(sys.executable)), "-m", "torch.distributed.run"]
        )
        return [*launcher, *_torchrun_options(), *(["-m", "opentrans_cli"] if module else [str(started)])]
    return [_name(Path(sys.executable)), "-m", "opentrans_cli"] if module else [_name(started)]


def _torchrun_options() -> list[str]:
    options = ["--nproc-per-node", os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])]
    machines = os.environ.get("GROUP_WORLD_SIZE", "1")
    return (
        options
        if machines == "1"
        else ["--nnodes", machines, "--node-rank", os.environ.get("GROUP_RANK", "0"), *options]
    )


def _name(program: Path) -> str:
    """The name alone, if a shell finds this program by it."""
    found = shutil.which(program.name)
    return program.name if found and os.path.exists(program) and os.path.samefile(found, program) else str(program)
