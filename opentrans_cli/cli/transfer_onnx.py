"""opentrans transfer --to onnx."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from opentrans_cli.cli.output import percent

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.transfer.onnx import OnnxExport

_PANEL = "For --to onnx"
WordsOpt = Annotated[
    str | None, Option("--words", "-w", rich_help_panel=_PANEL, help='Words to build in: "red star, grass, sky".')
]
VocabularyOpt = Annotated[
    Path | None,
    Option(
        "--vocabulary",
        "--classes",
        rich_help_panel=_PANEL,
        help="Class file instead of --words, or a vocabulary pack (.safetensors).",
    ),
]
FrameworkOpt = Annotated[
    str | None, Option("--framework", rich_help_panel=_PANEL, help="maskclip, to leave out the segmentor of a bundle.")
]
ResolutionOpt = Annotated[
    int | None,
    Option("--resolution", rich_help_panel=_PANEL, help="Side of the pictures in pixels (default: the tower's own)."),
]


def show_onnx(console: Console, result: OnnxExport) -> None:
    from rich.markup import escape

    sizes = f"{_sides(result.resolution)} alone" if result.resolution else "any size from 32 x 32"
    what = f"{result.framework}: {len(result.classes)} classes, pictures of {sizes}, {result.bytes / 1e6:.1f} MB"
    console.print(f"[bold]{escape(str(result.path or '(not written)'))}[/]  {what}", soft_wrap=True)
    agreement = f"scores within {result.difference:.1e} of the largest, {percent(result.agreement)} % of pixels alike"
    compared = " and ".join(map(_sides, result.compared))
    console.print(f"onnxruntime and torch: {agreement}, at {compared}", soft_wrap=True)


def _sides(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
