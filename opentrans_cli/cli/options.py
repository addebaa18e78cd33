"""Options and arguments that several commands share."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from opentrans_cli.errors import OptionError

if TYPE_CHECKING:
    from opentrans_cli.datasets.base import DatasetOptions

SourceArg = Annotated[
    str,
    typer.Argument(
        help="tiny (embedded), open_clip NAME[:TAG], NAME:FILE, a checkpoint file or folder, hf://org/name@revision, "
        "or a bundle folder."
    ),
]
BundleArg = Annotated[str, typer.Argument(help="Bundle folder, or hf://org/name@revision.")]
OutOpt = Annotated[Path, typer.Option("--out", "-o", help="Where to write; never overwritten without --force.")]
ForceOpt = Annotated[bool, typer.Option("--force", help="Replace an existing bundle at --out.")]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
QuietOpt = Annotated[bool, typer.Option("--quiet", "-q", help="No talk and no progress on stderr.")]
SeedOpt = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of everything random.")]
DeviceOpt = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
ResumeOpt = Annotated[bool, typer.Option("--resume", help="Go on with a run that was interrupted.")]
AtSparsityOpt = Annotated[
    float | None,
    typer.Option("--at-sparsity", help="An earlier round of the bundle; `opentrans inspect` lists what is there."),
]
BaseOpt = Annotated[
    str | None,
    typer.Option("--base", help="Source of the text tower, where the bundle's own base has moved."),
]
FrameworkOpt = Annotated[
    str | None, typer.Option("--framework", help="fcclip, han, mask2former or deeplabv3, for --checkpoint.")
]
CheckpointOpt = Annotated[
    Path | None, typer.Option("--checkpoint", help="A checkpoint of --framework as it was published; no source then.")
]
NoResizeOpt = Annotated[
    bool, typer.Option("--no-resize", help="Look at pictures at their own size, not at that of the checkpoint's tests.")
]
SeenOpt = Annotated[
    Path | None,
    typer.Option("--seen", help="Class file of what training labelled (default for --checkpoint: COCO's 133 names)."),
]


_DATA = "Data"
DatasetOpt = Annotated[
    str | None,
    typer.Option("--dataset", rich_help_panel=_DATA, help="shapes (embedded) or folder (default with --images)."),
]
ImagesOpt = Annotated[Path | None, typer.Option("--images", rich_help_panel=_DATA, help="Folder of images.")]
LabelsOpt = Annotated[Path | None, typer.Option("--labels", rich_help_panel=_DATA, help="Folder of label maps (PNG).")]
ClassesOpt = Annotated[
    Path | None,
    typer.Option("--classes", rich_help_panel=_DATA, help="Class file: a name (,synonyms) per line."),
]
IgnoreOpt = Annotated[
    int | None,
    typer.Option("--ignore", rich_help_panel=_DATA, help="Label id that is not scored (default: 255)."),
]
SplitListOpt = Annotated[
    Path | None,
    typer.Option("--split-list", rich_help_panel=_DATA, help="List of image stems to use, one per line."),
]
LimitOpt = Annotated[int | None, typer.Option("--limit", rich_help_panel=_DATA, help="Use the first so many images.")]
HoldOutOpt = Annotated[
    str | None,
    typer.Option("--hold-out", rich_help_panel=_DATA, help="Class names to leave unlabelled in training, with commas."),
]


T = TypeVar("T")


def chosen(options_type: type[T], values: dict[str, Any]) -> T:
    """An options dataclass from a command's local variables of the same names."""
    return options_type(**{field.name: values[field.name] for field in fields(options_type)})  # type: ignore[arg-type]


def typed(ctx: typer.Context, name: str) -> bool:
    """Whether the user gave option `name`, rather than leaving it at its default."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def dataset_choice(split: str, values: dict[str, Any]) -> tuple[str, DatasetOptions]:
    """Name and options of the data set from a command's local variables; `split` is train or val.

    Without --dataset it is the user's own folder if --images is given, else the embedded scenes.
    """
    from opentrans_cli.datasets.base import DatasetOptions

    name = values["dataset"] or ("folder" if values["images"] is not None else "shapes")
    picked = {key: values[key] for key in ("images", "labels", "classes", "ignore", "split_list", "limit")}
    return name, DatasetOptions(split=split, hold_out=names(values["hold_out"]), **picked)  # type: ignore[arg-type]


def names(text: str | None) -> tuple[str, ...]:
    """ "a, b" -> ("a", "b")."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def numbers(option: str, text: str) -> tuple[float, ...]:
    """ "0.8, 0.9" -> (0.8, 0.9). Raises OptionError naming `option`."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise OptionError(f"not numbers with commas: {option} {text}; such as {option} 0.8,0.9") from None
