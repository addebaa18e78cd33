"""opentrans segment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opentrans_cli.cli import options as o
from opentrans_cli.cli.output import ConsoleReporter, emit, percent
from opentrans_cli.errors import OptionError

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.segment import SegmentResult


def segment(
    source: o.SourceArg,
    images: Annotated[list[Path], typer.Argument(help="Images or folders of images.")],
    out: o.OutOpt,
    words: Annotated[str | None, typer.Option("--words", "-w", help='Your own words: "red star, grass, sky".')] = None,
    classes: Annotated[Path | None, typer.Option("--classes", help="Class file instead of --words.")] = None,
    base: o.BaseOpt = None,
    device: o.DeviceOpt = "auto",
    force: o.ForceOpt = False,
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
) -> None:
    """Label every pixel of your images with one of your words: label map and overlay with legend."""
    if (words is None) == (classes is None):
        raise OptionError('segment needs words: --words "cat, dog, sky" or --classes FILE; give exactly one')
    from opentrans_cli.datasets.vocabulary import Vocabulary
    from opentrans_cli.steps.segment import segment as step

    vocabulary = Vocabulary.from_file(classes) if classes else Vocabulary.from_names(o.names(words))
    result = step(
        source,
        images,
        vocabulary=vocabulary,
        out=out,
        base=base,
        device=device,
        force=force,
        reporter=ConsoleReporter(quiet=quiet),
    )
    emit(result.to_json(), lambda console: _show(console, result), as_json=as_json, path=result.path, quiet=quiet)


def _show(console: Console, result: SegmentResult) -> None:
    for image in result.images:
        shares = ", ".join(f"{name} {percent(share)} %" for name, share in list(image["classes"].items())[:6])
        console.print(f"[bold]{result.path / image['overlay']}[/]  {shares}", soft_wrap=True)
