"""opentrans finetune."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

from typer import Option

from opentrans_cli.cli import options as o
from opentrans_cli.cli.output import ConsoleReporter, emit, human_count
from opentrans_cli.steps.options import FinetuneOptions as Defaults

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.finetune import FinetuneResult

_HOW = "Training"
_CROP = "Side of training crops, pixels (default: the data set's)."

FrameworkOpt = Annotated[
    str | None, Option(help="Built if the bundle holds none (default: deeplabv3).", rich_help_panel=_HOW)
]
StepsOpt = Annotated[int, Option(help="Optimizer steps.", rich_help_panel=_HOW)]
BatchOpt = Annotated[int, Option(help="Crops in a step.", rich_help_panel=_HOW)]
CropOpt = Annotated[int | None, Option(help=_CROP, rich_help_panel=_HOW)]
RateOpt = Annotated[float, Option(help="Peak learning rate of the head.", rich_help_panel=_HOW)]
FactorOpt = Annotated[float, Option(help="Learning rate of the tower / of the head.", rich_help_panel=_HOW)]
DecayOpt = Annotated[float, Option(help="Of AdamW.", rich_help_panel=_HOW)]
EstimatorOpt = Annotated[str, Option(help="Whose alphas decide what is frozen.")]


def finetune(
    bundle: o.BundleArg,
    out: o.OutOpt,
    framework: FrameworkOpt = Defaults.framework,
    steps: StepsOpt = Defaults.steps,
    batch_size: BatchOpt = Defaults.batch_size,
    crop: CropOpt = Defaults.crop,
    lr: RateOpt = Defaults.lr,
    backbone_lr_factor: FactorOpt = Defaults.backbone_lr_factor,
    weight_decay: DecayOpt = Defaults.weight_decay,
    freeze: o.FreezeOpt = Defaults.freeze,
    freeze_ratio: o.FreezeRatioOpt = Defaults.freeze_ratio,
    estimator: EstimatorOpt = Defaults.estimator,
    dataset: o.DatasetOpt = None,
    images: o.ImagesOpt = None,
    labels: o.LabelsOpt = None,
    classes: o.ClassesOpt = None,
    ignore: o.IgnoreOpt = None,
    split_list: o.SplitListOpt = None,
    limit: o.LimitOpt = None,
    hold_out: o.HoldOutOpt = None,
    base: o.BaseOpt = None,
    seed: o.SeedOpt = Defaults.seed,
    device: o.DeviceOpt = "auto",
    resume: o.ResumeOpt = False,
    force: o.ForceOpt = False,
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
) -> None:
    """Train the segmentor with the well-trained (heavy-tailed) layers frozen and pruned weights held at zero."""
    options, (name, data) = o.chosen(Defaults, locals()), o.dataset_choice("train", locals())
    from opentrans_cli.steps.finetune import finetune as step

    say = ConsoleReporter(quiet=quiet)
    go = partial(step, bundle, out=out, options=options, dataset=name, data=data, base=base)
    result = go(device=device, force=force, resume=resume, reporter=say)
    emit(result.to_json(), lambda console: _show(console, result), as_json=as_json, path=result.path, quiet=quiet)


def _show(console: Console, result: FinetuneResult) -> None:
    from rich.markup import escape

    cost = result.cost
    saved = 1 - cost["total"] / cost["dense_total"]
    console.print(f"[bold]{escape(str(result.path))}[/]  loss {result.loss:.3f}", soft_wrap=True)
    console.print(
        f"training cost {human_count(cost['total'])}MACs counted, {100 * saved:.1f} % less than dense "
        f"({len(cost['frozen_layers'])} layers frozen); measured {result.seconds_per_step:.3f} s a step",
        soft_wrap=True,
    )
