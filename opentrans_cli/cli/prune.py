"""opentrans prune."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from opentrans_cli.cli import options as o
from opentrans_cli.cli.output import ConsoleReporter, emit, human_bytes, human_count
from opentrans_cli.steps.options import PruneOptions as Defaults

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.prune import PruneResult

_HOW, _TWIN = "Pruning and distillation", "Random twin"
_IMAGES = "Folder of photos to distil on, or shapes. Without: one shot, no distillation."
_RANDOM = "Random positions, same counts in every layer, same budget."

SparsityOpt = Annotated[float, Option("--sparsity", "-s", help="Share of weights to remove.")]
OutOpt = Annotated[Path | None, Option("--out", "-o", help="New bundle (default: SOURCE-sPERCENT, here).")]
ImagesOpt = Annotated[str | None, Option("--images", help=_IMAGES)]
ImageLimitOpt = Annotated[int, Option(help="Most images to distil on.", rich_help_panel=_HOW)]
RateOpt = Annotated[float, Option(help="Share of the rest each round removes.", rich_help_panel=_HOW)]
RoundStepsOpt = Annotated[int, Option(help="Distillation steps in each round.", rich_help_panel=_HOW)]
FinalStepsOpt = Annotated[int, Option(help="Distillation steps in the last round.", rich_help_panel=_HOW)]
BatchOpt = Annotated[int, Option(help="Images in a step.", rich_help_panel=_HOW)]
RateOfLearningOpt = Annotated[float, Option(help="Learning rate (AdamW).", rich_help_panel=_HOW)]
PatternOpt = Annotated[str, Option(help="Which weights go together.", rich_help_panel=_HOW)]
KeepRoundsOpt = Annotated[bool, Option("--keep-rounds", help="Store each weight's round.", rich_help_panel=_HOW)]
DtypeOpt = Annotated[str, Option(help="Of stored weights: float32, float16, bfloat16.", rich_help_panel=_HOW)]
RandomOpt = Annotated[bool, Option("--random", help=_RANDOM, rich_help_panel=_TWIN)]
LikeOpt = Annotated[str | None, Option("--like", help="Bundle whose counts the twin copies.", rich_help_panel=_TWIN)]


def prune(
    source: o.SourceArg = Defaults.source,
    sparsity: SparsityOpt = Defaults.sparsity,
    out: OutOpt = None,
    images: ImagesOpt = None,
    image_limit: ImageLimitOpt = Defaults.image_limit,
    rate: RateOpt = Defaults.rate,
    steps_per_round: RoundStepsOpt = Defaults.steps_per_round,
    final_steps: FinalStepsOpt = Defaults.final_steps,
    batch_size: BatchOpt = Defaults.batch_size,
    lr: RateOfLearningOpt = Defaults.lr,
    pattern: PatternOpt = Defaults.pattern,
    keep_rounds: KeepRoundsOpt = False,
    dtype: DtypeOpt = Defaults.dtype,
    random: RandomOpt = False,
    like: LikeOpt = None,
    seed: o.SeedOpt = Defaults.seed,
    device: o.DeviceOpt = "auto",
    resume: o.ResumeOpt = False,
    force: o.ForceOpt = False,
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
) -> None:
    """Remove the least important weights of a CLIP image encoder and write the subnet as a bundle."""
    options = o.chosen(Defaults, locals())
    from opentrans_cli.steps.prune import prune as step

    reporter = ConsoleReporter(quiet=quiet)
    result = step(
        options, out=out or default_out(options), device=device, force=force, resume=resume, reporter=reporter
    )
    document = {**asdict(result), "path": str(result.path)}
    emit(document, lambda console: _show(console, result), as_json=as_json, path=result.path, quiet=quiet)


def default_out(options: Defaults) -> Path:
    """Name of the bundle when none is given: "rn50-quickgelu-openai-s90", with "-random" for a twin."""
    stem = Path(options.source.removeprefix("hf://").rstrip("/")).name.lower()
    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in stem)
    return Path(f"{safe}-s{100 * options.sparsity:g}{'-random' if options.random else ''}")


def _show(console: Console, result: PruneResult) -> None:
    console.print(
        f"[bold]{result.path}[/]  sparsity {result.sparsity:.4f}, {human_count(result.kept)} of "
        f"{human_count(result.total)} weights kept, {human_bytes(result.bytes)}",
        soft_wrap=True,
    )
