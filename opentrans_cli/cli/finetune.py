"""opentrans finetune."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from opentrans_cli.cli import options as o
from opentrans_cli.cli.output import ConsoleReporter, emit, human_count
from opentrans_cli.steps.options import FinetuneOptions as Defaults

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.finetune import FinetuneResult

_HOW = "Training"


def finetune(
    bundle: o.BundleArg,
    out: o.OutOpt,
    framework: Annotated[
        str, typer.Option(help="Built if the bundle holds no segmentor yet.", rich_help_panel=_HOW)
    ] = Defaults.framework,
    steps: Annotated[int, typer.Option(help="Optimizer steps.", rich_help_panel=_HOW)] = Defaults.steps,
    batch_size: Annotated[int, typer.Option(help="Crops in a step.", rich_help_panel=_HOW)] = Defaults.batch_size,
    crop: Annotated[
        int | None,
        typer.Option(help="Side of training crops, pixels [default: the data set's].", rich_help_panel=_HOW),
    ] = Defaults.crop,
    lr: Annotated[float, typer.Option(help="Peak learning rate of the head.", rich_help_panel=_HOW)] = Defaults.lr,
    backbone_lr_factor: Annotated[
        float, typer.Option(help="Learning rate of the tower / of the head.", rich_help_panel=_HOW)
    ] = Defaults.backbone_lr_factor,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.", rich_help_panel=_HOW)] = Defaults.weight_decay,
    freeze: o.FreezeOpt = Defaults.freeze,
    freeze_ratio: o.FreezeRatioOpt = Defaults.freeze_ratio,
    estimator: Annotated[str, typer.Option(help="Whose alphas decide.")] = Defaults.estimator,
    dataset: o.DatasetOpt = "shapes",
    images: o.ImagesOpt = None,
    labels: o.LabelsOpt = None,
    classes: o.ClassesOpt = None,
    ignore: o.IgnoreOpt = None,
    split: o.SplitOpt = None,
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
    from opentrans_cli.steps.finetune import finetune as step

    result = step(
        bundle,
        out=out,
        options=Defaults(
            framework=framework,
            steps=steps,
            batch_size=batch_size,
            crop=crop,
            lr=lr,
            backbone_lr_factor=backbone_lr_factor,
            weight_decay=weight_decay,
            freeze=freeze,
            freeze_ratio=freeze_ratio,
            estimator=estimator,
            seed=seed,
        ),
        dataset=dataset,
        data=o.dataset_options(
            "train",
            images=images,
            labels=labels,
            classes=classes,
            ignore=ignore,
            split=split,
            limit=limit,
            hold_out=hold_out,
        ),
        base=base,
        device=device,
        force=force,
        resume=resume,
        reporter=ConsoleReporter(quiet=quiet),
    )
    document = {
        "path": str(result.path),
        "loss": result.loss,
        "seconds_per_step": result.seconds_per_step,
        "cost": result.cost,
    }
    emit(document, lambda console: _show(console, result), as_json=as_json, path=result.path, quiet=quiet)


def _show(console: Console, result: FinetuneResult) -> None:
    cost = result.cost
    saved = 1 - cost["total"] / cost["dense_total"]
    console.print(f"[bold]{result.path}[/]  loss {result.loss:.3f}", soft_wrap=True)
    console.print(
        f"training cost {human_count(cost['total'])}MACs counted, {100 * saved:.1f} % less than dense "
        f"({len(cost['frozen_layers'])} layers frozen); measured {result.seconds_per_step:.3f} s a step"
    )
