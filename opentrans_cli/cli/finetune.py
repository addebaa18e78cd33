"""opentrans finetune."""

from __future__ import annotations

from dataclasses import asdict, fields
from functools import partial
from typing import Any

import typer

from opentrans_cli.cli import finetune_options as f
from opentrans_cli.cli import finetune_show as show
from opentrans_cli.cli import options as o
from opentrans_cli.cli.output import ConsoleReporter, emit
from opentrans_cli.errors import OptionError
from opentrans_cli.steps.finetune.options import FinetuneControls as Controls
from opentrans_cli.steps.finetune.options import FinetuneOptions as Defaults


def finetune(
    ctx: typer.Context,
    bundle: f.BundleArg = None,
    out: f.OutOpt = None,
    recipe: f.RecipeOpt = None,
    show_recipe: f.ShowRecipeOpt = False,
    framework: f.FrameworkOpt = Defaults.framework,
    steps: f.StepsOpt = Defaults.steps,
    batch_size: f.BatchOpt = Defaults.batch_size,
    accumulate: f.AccumulateOpt = Defaults.accumulate,
    precision: f.PrecisionOpt = Defaults.precision,
    ema: f.EmaOpt = Defaults.ema,
    crop: f.CropOpt = Defaults.crop,
    scale: f.ScaleOpt = None,
    scale_of: f.ScaleOfOpt = Defaults.scale_of,
    flip: f.FlipOpt = Defaults.flip,
    views: f.ViewsOpt = Defaults.views,
    optimizer: f.OptimizerOpt = Defaults.optimizer,
    lr: f.RateOpt = Defaults.lr,
    backbone_lr_factor: f.FactorOpt = Defaults.backbone_lr_factor,
    weight_decay: f.DecayOpt = Defaults.weight_decay,
    momentum: f.MomentumOpt = Defaults.momentum,
    schedule: f.ScheduleOpt = Defaults.schedule,
    lr_warmup_steps: f.LrWarmupOpt = Defaults.lr_warmup_steps,
    milestones: f.MilestonesOpt = None,
    gamma: f.GammaOpt = Defaults.gamma,
    grad_clip: f.ClipOpt = Defaults.grad_clip,
    class_weight: f.ClassWeightOpt = Defaults.class_weight,
    mask_weight: f.MaskWeightOpt = Defaults.mask_weight,
    dice_weight: f.DiceWeightOpt = Defaults.dice_weight,
    no_object_weight: f.NoObjectOpt = Defaults.no_object_weight,
    points: f.PointsOpt = Defaults.points,
    oversample: f.OversampleOpt = Defaults.oversample,
    importance: f.ImportanceOpt = Defaults.importance,
    region_dropout: f.RegionDropoutOpt = Defaults.region_dropout,
    kd_weight: f.KdOpt = Defaults.kd_weight,
    grounding_weight: f.GroundingOpt = Defaults.grounding_weight,
    captions: f.CaptionsOpt = None,
    freeze: f.FreezeOpt = Defaults.freeze,
    freeze_ratio: f.FreezeRatioOpt = Defaults.freeze_ratio,
    freeze_scope: f.ScopeOpt = Defaults.freeze_scope,
    freeze_prefix: f.PrefixOpt = Defaults.freeze_prefix,
    prefix_end: f.PrefixEndOpt = Defaults.prefix_end,
    cache_features: f.CacheOpt = Controls.cache_features,
    warmup_steps: f.WarmupOpt = Defaults.warmup_steps,
    estimator: f.EstimatorOpt = Defaults.estimator,
    estimate: f.EstimateOpt = False,
    accounting: f.AccountingOpt = "exact",
    timing_steps: f.TimingOpt = Controls.timing_steps,
    dataset: o.DatasetOpt = None,
    images: o.ImagesOpt = None,
    labels: o.LabelsOpt = None,
    classes: o.ClassesOpt = None,
    ignore: o.IgnoreOpt = None,
    split_list: o.SplitListOpt = None,
    limit: o.LimitOpt = None,
    hold_out: o.HoldOutOpt = None,
    base: o.BaseOpt = None,
    workers: f.WorkersOpt = Controls.workers,
    save_every: f.SaveOpt = Controls.save_every,
    max_minutes: f.MinutesOpt = Controls.max_minutes,
    log: f.LogOpt = Controls.log,
    tensorboard: f.TensorboardOpt = Controls.tensorboard,
    eval_every: f.EvalEveryOpt = Controls.eval_every,
    eval_limit: f.EvalLimitOpt = Controls.eval_limit,
    eval_split_list: f.EvalListOpt = Controls.eval_split_list,
    sync_batchnorm: f.SyncOpt = Defaults.sync_batchnorm,
    shard: f.ShardOpt = Controls.shard,
    seed: o.SeedOpt = Defaults.seed,
    device: o.DeviceOpt = "auto",
    resume: o.ResumeOpt = False,
    force: o.ForceOpt = False,
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
) -> None:
    """Train the segmentor with the well-trained (heavy-tailed) layers frozen and pruned weights held at zero."""
    values = locals()
    reporter = ConsoleReporter(quiet=quiet)
    if show_recipe:
        _show_recipe(ctx, values)
        return
    options, (name, data) = _options(ctx, values), o.dataset_choice("train", values)
    if estimate:
        from opentrans_cli.steps.estimate.estimate import estimate as estimate_step

        known = bundle is not None or dataset is not None or images is not None
        counted = estimate_step(
            bundle,
            options,
            accounting=accounting,
            dataset=name if known else None,
            data=data if known else None,
            base=base,
            cached=cache_features is not None,
            reporter=reporter,
        )
        emit(counted.to_json(), partial(show.estimate, counted=counted), as_json=as_json)
        return
    if o.typed(ctx, "accounting"):
        raise OptionError(f"only an estimate counts one way or another: --accounting {accounting}; add --estimate")
    if bundle is None or out is None:
        missing = "BUNDLE to train" if bundle is None else "--out to write to"
        raise OptionError(f"nothing to go by: {missing} is missing; `opentrans finetune BUNDLE --out FOLDER`")
    from opentrans_cli.steps.finetune.finetune import finetune as step

    controls = o.chosen(Controls, values)
    given = {**vars(options), **vars(controls), **vars(data), "dataset": name, "base": base, "resume": resume}
    result = step(bundle, out=out, device=device, force=force, reporter=reporter, **given)
    emit(result.to_json(), partial(show.run, result=result), as_json=as_json, path=result.path, quiet=quiet)


def _given(ctx: typer.Context, values: dict[str, Any]) -> dict[str, Any]:
    """What was typed, as the options have it."""
    names = [field.name for field in fields(Defaults) if field.name != "recipe" and o.typed(ctx, field.name)]
    given = {name: values[name] for name in names}
    if "scale" in given:
        given["scale"] = _pair(given["scale"])
    if "milestones" in given:
        given["milestones"] = o.numbers("--milestones", given["milestones"])
    if "captions" in given:
        given["captions"] = str(given["captions"])
    return given


def _pair(text: str) -> tuple[float, float]:
    found = o.numbers("--scale", text)
    if len(found) != 2:
        raise OptionError(f"not a range: --scale {text}; give two numbers, such as 0.1,2.0")
    return found[0], found[1]


def _options(ctx: typer.Context, values: dict[str, Any]) -> Defaults:
    from opentrans_cli.steps.finetune.options import finetune_options

    return finetune_options(values["recipe"], _given(ctx, values))


def _show_recipe(ctx: typer.Context, values: dict[str, Any]) -> None:
    from opentrans_cli.steps.finetune.options import sources

    options, given = _options(ctx, values), _given(ctx, values)
    origin = sources(options, given)
    values_of = {name: value for name, value in asdict(options).items() if name != "recipe"}
    rows = {name: {"value": value, "from": origin[name]} for name, value in values_of.items()}
    document = {"recipe": options.recipe, "options": rows}
    emit(document, partial(show.recipe, document=document), as_json=values["as_json"])
