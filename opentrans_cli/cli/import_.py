"""opentrans import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opentrans_cli.cli import options as o
from opentrans_cli.cli.output import ConsoleReporter, emit, human_count

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.import_masks import ImportResult

BaseOpt = Annotated[
    str | None,
    typer.Option("--base", help="Source of the CLIP it was pruned from; not needed where the file is a whole CLIP."),
]
FormatOpt = Annotated[
    str | None,
    typer.Option("--format", help="opentrans, torch-prune, compressed-tensors or zeros (default: by its content)."),
]
KeysOpt = Annotated[
    str | None, typer.Option("--keys", help="Key table by which the file names the tower (default: the one that fits).")
]
UnderOpt = Annotated[
    str | None, typer.Option("--under", help="Prefix of the tower in the file, where several towers fit.")
]


def import_(
    file: Annotated[
        Path, typer.Argument(help="Pruned checkpoint: .pth, .pt, .bin, .pkl, .safetensors, or index of shards.")
    ],
    out: o.OutOpt,
    base: BaseOpt = None,
    format: FormatOpt = None,
    keys: KeysOpt = None,
    under: UnderOpt = None,
    include: Annotated[
        list[str] | None, typer.Option("--include", help="Glob of layers to mask beside the default ones.")
    ] = None,
    mask_only: Annotated[bool, typer.Option("--mask-only", help="Store no values.")] = False,
    dtype: Annotated[str, typer.Option("--dtype", help="Of the stored weights: float32, float16 or bfloat16.")] = (
        "float32"
    ),
    force: o.ForceOpt = False,
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
) -> None:
    """Make a bundle of a checkpoint that another program pruned: the paper's own files, torch.nn.utils.prune, ..."""
    from opentrans_cli.steps.import_masks import import_masks

    result = import_masks(
        file,
        out=out,
        base=base,
        format=format,
        keys=keys,
        under=under,
        include=include or (),
        mask_only=mask_only,
        dtype=dtype,
        force=force,
        reporter=ConsoleReporter(quiet=quiet),
    )
    emit(result.to_json(), lambda console: _show(console, result), as_json=as_json, path=result.path, quiet=quiet)


def _show(console: Console, result: ImportResult) -> None:
    from rich.markup import escape

    console.print(
        f"[bold]{escape(str(result.path))}[/]  {result.format}, {result.layers} layers, sparsity "
        f"{result.sparsity:.4f}, {human_count(result.kept)} of {human_count(result.total)} weights kept"
        f"{', masks alone' if result.mask_only else ''}",
        soft_wrap=True,
    )
