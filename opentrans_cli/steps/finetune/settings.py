"""Checks of the options of `finetune` before anything is read, and the settings of the training loop made from them."""

from __future__ import annotations

from opentrans_cli.errors import OptionError
from opentrans_cli.files.targets import check_makeable
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.frameworks.base import BACKBONE
from opentrans_cli.steps.finetune.loss import SEGMENTOR, check_loss_options
from opentrans_cli.steps.finetune.options import FinetuneControls, FinetuneOptions
from opentrans_cli.training.settings import TrainSettings


def finetune_settings(options: FinetuneOptions, controls: FinetuneControls) -> TrainSettings:
    """Settings of the training loop. Raises OptionError for a value out of range."""
    o, c = options, controls
    return TrainSettings(
        steps=o.steps,
        batch_size=o.batch_size,
        accumulate=o.accumulate,
        optimizer=o.optimizer,  # type: ignore[arg-type]
        lr=o.lr,
        backbone_lr_factor=o.backbone_lr_factor,
        backbone_prefix=f"{SEGMENTOR}{BACKBONE}",
        weight_decay=o.weight_decay,
        momentum=o.momentum,
        schedule=o.schedule,  # type: ignore[arg-type]
        lr_warmup_steps=o.resolved_lr_warmup,
        milestones=o.milestones,
        gamma=o.gamma,
        grad_clip=o.grad_clip,
        ema=o.ema,
        precision=o.precision,  # type: ignore[arg-type]
        sync_batchnorm=o.sync_batchnorm,
        shard=c.shard,
        seed=o.seed,
        save_every=c.save_every,
        log_every=1,
        eval_every=c.eval_every,
        max_minutes=c.max_minutes,
    )


def check_run(options: FinetuneOptions, controls: FinetuneControls, *, processes: int = 1) -> None:
    """Check what can be refused before anything is read, besides the values of single options.

    Raises OptionError for options that contradict the number of processes, a named framework, or the controls.
    """
    options.check_shares(processes)
    if options.warmup_steps >= options.steps:  # at least one step must be left for training with frozen layers
        raise OptionError(
            f"warm-up steps out of range: --warmup-steps {options.warmup_steps} of {options.steps} steps; "
            f"choose 0 to {options.steps - 1}"
        )
    if options.resolved_lr_warmup > options.steps:
        raise OptionError(
            f"the learning rate would rise all the time: --lr-warmup-steps {options.lr_warmup_steps} of "
            f"{options.steps} steps; give at most as many"
        )
    if options.framework is not None:
        check_loss_options(options, FRAMEWORKS.load(options.framework))
    if controls.cache_features is not None and not options.views:
        raise OptionError("features are kept of fixed crops only: --cache-features; add --views, such as --views 8")
    if controls.cache_features is not None and not (options.freeze_prefix or options.prefix_end):
        raise OptionError("features are kept of a frozen prefix: --cache-features; add --freeze-prefix")


def check_cache_place(controls: FinetuneControls) -> None:
    """Raises OptionError if the folder of --cache-features cannot be made."""
    if controls.cache_features is None:
        return
    try:
        check_makeable(controls.cache_features)
    except OSError as error:
        reason = error.strerror or error
        raise OptionError(
            f"cannot keep features: --cache-features {controls.cache_features} ({reason}); name another folder"
        ) from error
