"""opentrans prune."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from opentrans_cli.cli import options as o
from opentrans_cli.cli.output import ConsoleReporter, StepLines, emit, human_bytes, human_count, plain_table
from opentrans_cli.steps.prune.options import PruneOptions as Defaults
from opentrans_cli.steps.prune.options import prune_options

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.prune.plan import Plan
    from opentrans_cli.steps.prune.prune import PruneResult

_WHICH, _WHEN, _ON, _DISTIL, _OUT = (
    "Which weights",
    "Rounds",
    "Images",
    "Distillation",
    "Output and machine",
)
_IMAGES = "Folder, list file, .tar shards (a-{000..009}.tar), or shapes."
_RECIPE = "Defaults of a recipe: paper or fast; other options still win."
_RANDOM = "The control: random positions, as many in every layer."
_DISTILL = "image (no labels), text-guided (the paper's; needs --labels) or none."
_CRITERION = "magnitude, folded, fisher, taylor, wanda (default: fisher; without images magnitude)."
_PATTERN = "unstructured, layerwise, channel, or N:M such as 2:4."


SparsityOpt = Annotated[float, Option("--sparsity", "-s", help="Share of the prunable weights to remove.")]
OutOpt = Annotated[Path | None, Option("--out", "-o", help="New bundle (default: SOURCE-sPERCENT, here).")]
RecipeOpt = Annotated[str | None, Option("--recipe", help=_RECIPE)]
DryRunOpt = Annotated[bool, Option("--dry-run", help="List layers, counts and rounds; write nothing.")]
CriterionOpt = Annotated[str | None, Option(help=_CRITERION, rich_help_panel=_WHICH)]
PatternOpt = Annotated[str, Option(help=_PATTERN, rich_help_panel=_WHICH)]
IncludeOpt = Annotated[list[str] | None, Option(help="Layers to prune as well (glob).", rich_help_panel=_WHICH)]
ExcludeOpt = Annotated[list[str] | None, Option(help="Layers to leave alone (glob).", rich_help_panel=_WHICH)]
ScoreImagesOpt = Annotated[int, Option(help="Most views to score weights with, each round.", rich_help_panel=_WHICH)]
ProbesOpt = Annotated[int, Option(help="fisher: random probes for each image.", rich_help_panel=_WHICH)]
RandomOpt = Annotated[bool, Option("--random", help=_RANDOM, rich_help_panel=_WHICH)]
LikeOpt = Annotated[
    str | None, Option("--like", help="With --random: bundle whose counts to copy.", rich_help_panel=_WHICH)
]
ScheduleOpt = Annotated[str, Option(help="rounds, one-shot, linear or cubic.", rich_help_panel=_WHEN)]
RateOpt = Annotated[float, Option(help="rounds: share of what is left that each removes.", rich_help_panel=_WHEN)]
RoundsOpt = Annotated[int, Option(help="linear, cubic: how many rounds.", rich_help_panel=_WHEN)]
KeepRoundsOpt = Annotated[
    str, Option("--keep-rounds", help="Of earlier rounds, store none, masks or weights.", rich_help_panel=_WHEN)
]
ImagesOpt = Annotated[str | None, Option("--images", help=_IMAGES, rich_help_panel=_ON)]
ImageLimitOpt = Annotated[int, Option(help="Most views; a photo gives two, whole and cropped.", rich_help_panel=_ON)]
SkipBadOpt = Annotated[bool, Option("--skip-bad", help="Skip unreadable images, and name them.", rich_help_panel=_ON)]
WorkersOpt = Annotated[int, Option(help="Processes that decode images.", min=0, rich_help_panel=_ON)]
LabelsOpt = Annotated[str | None, Option(help="text-guided: folder of label maps.", rich_help_panel=_ON)]
ClassesOpt = Annotated[str | None, Option(help="text-guided: class file.", rich_help_panel=_ON)]
IgnoreOpt = Annotated[int | None, Option(help="text-guided: unlabelled id (255).", rich_help_panel=_ON)]
DistillOpt = Annotated[str, Option(help=_DISTILL, rich_help_panel=_DISTIL)]
FrameworkOpt = Annotated[str, Option(help="text-guided: deeplabv3 or maskclip.", rich_help_panel=_DISTIL)]
RoundStepsOpt = Annotated[int, Option(help="Steps in each round but the last.", rich_help_panel=_DISTIL)]
FinalStepsOpt = Annotated[int, Option(help="Steps in the last round.", rich_help_panel=_DISTIL)]
BatchOpt = Annotated[int, Option(help="Images in a step, over all processes.", rich_help_panel=_DISTIL)]
LrOpt = Annotated[float, Option(help="Learning rate (AdamW).", rich_help_panel=_DISTIL)]
DecayOpt = Annotated[float, Option(help="Weight decay (AdamW).", rich_help_panel=_DISTIL)]
ClipOpt = Annotated[float, Option(help="Largest gradient norm; 0 clips nothing.", rich_help_panel=_DISTIL)]
PrecisionOpt = Annotated[str, Option(help="float32, or bfloat16 (autocast).", rich_help_panel=_DISTIL)]
CompileOpt = Annotated[bool, Option("--compile", help="image: compile the tower with torch.", rich_help_panel=_DISTIL)]
LogOpt = Annotated[Path | None, Option("--log", help="Append a JSON line for every step.", rich_help_panel=_OUT)]
DtypeOpt = Annotated[str, Option(help="Of stored values: float32, float16, bfloat16.", rich_help_panel=_OUT)]
MaskOnlyOpt = Annotated[bool, Option("--mask-only", help="Store the mask without values.", rich_help_panel=_OUT)]


def prune(
    ctx: typer.Context,
    source: o.SourceArg = Defaults.source,
    sparsity: SparsityOpt = Defaults.sparsity,
    out: OutOpt = None,
    recipe: RecipeOpt = None,
    dry_run: DryRunOpt = False,
    criterion: CriterionOpt = None,
    pattern: PatternOpt = Defaults.pattern,
    include: IncludeOpt = None,
    exclude: ExcludeOpt = None,
    score_images: ScoreImagesOpt = Defaults.score_images,
    probes: ProbesOpt = Defaults.probes,
    random: RandomOpt = False,
    like: LikeOpt = None,
    schedule: ScheduleOpt = Defaults.schedule,
    rate: RateOpt = Defaults.rate,
    rounds: RoundsOpt = Defaults.rounds,
    keep_rounds: KeepRoundsOpt = Defaults.keep_rounds,
    images: ImagesOpt = None,
    image_limit: ImageLimitOpt = Defaults.image_limit,
    skip_bad: SkipBadOpt = False,
    workers: WorkersOpt = 2,
    labels: LabelsOpt = None,
    classes: ClassesOpt = None,
    ignore: IgnoreOpt = None,
    distill: DistillOpt = Defaults.distill,
    framework: FrameworkOpt = Defaults.framework,
    steps_per_round: RoundStepsOpt = Defaults.steps_per_round,
    final_steps: FinalStepsOpt = Defaults.final_steps,
    batch_size: BatchOpt = Defaults.batch_size,
    lr: LrOpt = Defaults.lr,
    weight_decay: DecayOpt = Defaults.weight_decay,
    grad_clip: ClipOpt = Defaults.grad_clip,
    precision: PrecisionOpt = Defaults.precision,
    compiled: CompileOpt = False,
    dtype: DtypeOpt = Defaults.dtype,
    mask_only: MaskOnlyOpt = False,
    log: LogOpt = None,
    seed: o.SeedOpt = Defaults.seed,
    device: o.DeviceOpt = "auto",
    resume: o.ResumeOpt = False,
    force: o.ForceOpt = False,
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
) -> None:
    """Remove the least important weights of a CLIP image encoder and write the subnet as a bundle."""
    options = _options(ctx, locals(), recipe)
    reporter = ConsoleReporter(quiet=quiet)
    if dry_run:
        from opentrans_cli.steps.prune.plan import plan

        made = plan(options, reporter=reporter)
        emit(made.to_json(), lambda console: _show_plan(console, made), as_json=as_json)
        return
    from opentrans_cli.steps.prune.prune import prune as step

    with StepLines(log) as lines:
        result = step(
            **vars(options),
            out=out,
            device=device,
            workers=workers,
            compiled=compiled,
            force=force,
            resume=resume,
            on_step=lambda entry: lines.write(asdict(entry)),
            reporter=reporter,
        )
    document = {**asdict(result), "path": str(result.path)}
    emit(document, lambda console: _show(console, result), as_json=as_json, path=result.path, quiet=quiet)


def _options(ctx: typer.Context, values: dict[str, Any], recipe: str | None) -> Defaults:
    given = {field.name: values[field.name] for field in fields(Defaults) if o.typed(ctx, field.name)}
    return prune_options(given.pop("source", Defaults.source), recipe, given)


def _show(console: Console, result: PruneResult) -> None:
    from rich.markup import escape

    console.print(
        f"[bold]{escape(str(result.path))}[/]  sparsity {result.sparsity:.4f} by {result.criterion}, "
        f"{human_count(result.kept)} of {human_count(result.total)} weights kept, {human_bytes(result.bytes)}",
        soft_wrap=True,
    )


def _show_plan(console: Console, plan: Plan) -> None:
    document = plan.to_json()
    pruned = [layer for layer in plan.layers if layer["pruned"]]
    title = f"{len(pruned)} of {len(plan.layers)} layers, {plan.total:,} weights, {plan.pattern.name}, {plan.criterion}"
    table = plain_table(title, "layer", ">shape", ">weights", "left dense")
    for layer in plan.layers:
        shape = " x ".join(map(str, layer["shape"]))
        table.add_row(layer["name"], shape, f"{layer['total']:,}", layer["reason"] or "")
    console.print(table)
    rounds = plain_table("", ">round", ">sparsity", ">kept")
    for row in document["rounds"]:
        rounds.add_row(str(row["round"]), f"{row['sparsity']:.4f}", f"{row['kept']:,}")
    console.print(rounds)
