"""opentrans import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from opentrans_cli.cli.command import Force, Talk, command
from opentrans_cli.files.figures import human_count
from opentrans_cli.option import Options, option
from opentrans_cli.steps.import_options import ImportOptions

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.import_masks import ImportResult


@dataclass(frozen=True)
class ImportRequest(Options):
    """Where the bundle goes."""

    out: Path = option(also=("-o",), help="new bundle")


@command
def import_command(options: ImportOptions, target: ImportRequest, write: Force, talk: Talk) -> None:
    """Make a bundle of a checkpoint that another program pruned: the paper's own files, torch.nn.utils.prune, ...

    opentrans import seg_backbone_imp21.pth --base RN50-quickgelu:openai -o subnet
    opentrans import pruned-clip.safetensors --out subnet
    """
    from opentrans_cli.steps.import_masks import import_masks

    given = vars(options) | vars(target) | vars(write)
    result = import_masks(given.pop("file"), **given, reporter=talk.reporter)
    talk.emit(result.to_json(), lambda console: _show(console, result), result.path)


def _show(console: Console, result: ImportResult) -> None:
    from rich.markup import escape

    console.print(
        f"[bold]{escape(str(result.path))}[/]  {result.format}, {result.layers} layers, sparsity "
        f"{result.sparsity:.4f}, {human_count(result.kept)} of {human_count(result.total)} weights kept"
        f"{', masks alone' if result.mask_only else ''}",
        soft_wrap=True,
    )
