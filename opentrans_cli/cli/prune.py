"""opentrans prune."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from opentrans_cli.cli import options as o
from opentrans_cli.cli.output import ConsoleReporter, emit, human_bytes, human_count
from opentrans_cli.steps.options import PruneOptions as Defaults

_HOW, _TWIN = "Pruning and distillation", "Random twin"


def prune(
    source: o.SourceArg = "RN50-quickgelu:openai",
    sparsity: Annotated[
        float, typer.Option("--sparsity", "-s", help="Share of weights to remove.")
    ] = Defaults.sparsity,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="New bundle [default: ./SOURCE-sPERCENT].")] = None,
    images: Annotated[
        str | None,
        typer.Option("--images", help="Folder of photos to distil on, or shapes. Without: one shot, no distillation."),
    ] = None,
    image_limit: Annotated[
        int, typer.Option(help="Most images to distil on.", rich_help_panel=_HOW)
    ] = Defaults.image_limit,
    rate: Annotated[
        float, typer.Option(help="Share of the rest each round removes.", rich_help_panel=_HOW)
    ] = Defaults.rate,
    steps_per_round: Annotated[
        int, typer.Option(help="Distillation steps in each round.", rich_help_panel=_HOW)
    ] = Defaults.steps_per_round,
    batch_size: Annotated[int, typer.Option(help="Images in a step.", rich_help_panel=_HOW)] = Defaults.batch_size,
    lr: Annotated[float, typer.Option(help="Peak learning rate (AdamW, cosine).", rich_help_panel=_HOW)] = Defaults.lr,
    pattern: Annotated[str, typer.Option(help="Which weights go together.", rich_help_panel=_HOW)] = Defaults.pattern,
    keep_rounds: Annotated[
        bool,
        typer.Option("--keep-rounds", help="Also store the round of each pruned weight.", rich_help_panel=_HOW),
    ] = False,
    dtype: Annotated[
        str, typer.Option(help="Of stored weights: float32, float16, bfloat16.", rich_help_panel=_HOW)
    ] = Defaults.dtype,
    random: Annotated[
        bool,
        typer.Option(
            "--random",
            help="Random positions, same counts in every layer, same budget.",
            rich_help_panel=_TWIN,
        ),
    ] = False,
    like: Annotated[
        Path | None,
        typer.Option("--like", help="Bundle whose counts the twin copies.", rich_help_panel=_TWIN),
    ] = None,
    seed: o.SeedOpt = Defaults.seed,
    device: o.DeviceOpt = "auto",
    resume: o.ResumeOpt = False,
    force: o.ForceOpt = False,
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
) -> None:
    """Remove the least important weights of a CLIP image encoder and write the subnet as a bundle."""
    from opentrans_cli.steps.prune import prune as step

    settings = Defaults(
        source=source,
        sparsity=sparsity,
        rate=rate,
        pattern=pattern,
        images=images,
        image_limit=image_limit,
        steps_per_round=steps_per_round,
        batch_size=batch_size,
        lr=lr,
        random=random,
        like=None if like is None else str(like),
        keep_rounds=keep_rounds,
        dtype=dtype,
        seed=seed,
    )
    target = out or Path(default_out(settings))
    result = step(
        settings, out=target, device=device, force=force, resume=resume, reporter=ConsoleReporter(quiet=quiet)
    )
    emit(
        {**asdict(result), "path": str(result.path)},
        lambda console: console.print(
            f"[bold]{result.path}[/]  sparsity {result.sparsity:.4f}, {human_count(result.kept)} of "
            f"{human_count(result.total)} weights kept, {human_bytes(result.bytes)}",
            soft_wrap=True,
        ),
        as_json=as_json,
        path=result.path,
        quiet=quiet,
    )


def default_out(settings: Defaults) -> str:
    """Name of the bundle when none is given: "rn50-quickgelu-openai-s90", with "-random" for a twin."""
    stem = Path(settings.source.removeprefix("hf://").rstrip("/")).name.lower()
    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in stem)
    return f"{safe}-s{100 * settings.sparsity:g}{'-random' if settings.random else ''}"
