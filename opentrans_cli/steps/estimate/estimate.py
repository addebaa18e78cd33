"""finetune --estimate: what a run would cost, without training and without a download."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.errors import OptionError, unknown
from opentrans_cli.frameworks.base import BACKBONE
from opentrans_cli.reporter import SILENT, Reporter
from opentrans_cli.steps.estimate.paper import PaperEstimate, paper_estimate
from opentrans_cli.steps.estimate.subject import (
    Classes,
    bundle_segmentor_of,
    classes_of,
    is_published_trunk,
    published_alphas,
    segmentor_without_weights,
)
from opentrans_cli.steps.finetune.cost import cached_part, count_segmentor, run_cost
from opentrans_cli.steps.finetune.freezing import NOTHING_RANKED, FreezeChoice, choose_frozen
from opentrans_cli.steps.finetune.loss import check_loss_options
from opentrans_cli.steps.finetune.options import FinetuneControls, FinetuneOptions
from opentrans_cli.steps.finetune.settings import check_run
from opentrans_cli.steps.segmentors.built import BuiltSegmentor
from opentrans_cli.training.costs.receipt import RunCost

Accounting = Literal["exact", "paper"]
PUBLISHED_LIST = "list of the released code"


@dataclass(frozen=True)
class Estimate:
    """What a run of fine-tuning would cost; `cost` by autograd's rules, or `paper` by the paper's."""

    framework: str
    architecture: str  # of the tower
    weights: str | None  # the bundle; None: no weights were needed
    classes: Classes
    options: FinetuneOptions
    frozen: FreezeChoice
    cost: RunCost | None
    paper: PaperEstimate | None

    @property
    def accounting(self) -> Accounting:
        """How it was counted."""
        return "exact" if self.paper is None else "paper"

    def to_json(self) -> dict[str, Any]:
        """A `finetune_estimate` of `artifacts.schema.json`."""
        options = self.options
        document: dict[str, Any] = {
            "accounting": self.accounting,
            "framework": self.framework,
            "architecture": self.architecture,
            "weights": self.weights,
            "dataset": self.classes.origin,
            "classes": self.classes.count,
            "texts": len(self.classes.class_indices),
            "crop": self.classes.crop,
            "batch_size": options.batch_size,
            "steps": options.steps,
            "warmup_steps": options.warmup_steps,
            "freeze": self.frozen.mode,
            "frozen_layers": [layer.removeprefix(BACKBONE) for layer in self.frozen.layers],
            "frozen_by": self.frozen.by,
            "prefix_end": self.frozen.prefix_end,
            "alphas_from": self.frozen.origin,
        }
        if self.cost is not None:
            document["cost"] = {**self.cost.to_json(), "frozen_layers": document["frozen_layers"]}
        if self.paper is not None:
            document |= {
                "images": self.paper.images,
                "pmacs": self.paper.pmacs,
                "macs": self.paper.macs,
                "inputs": [given.to_json() for given in self.paper.inputs],
            }
        return document


def estimate(
    bundle: Path | str | None,
    options: FinetuneOptions,
    *,
    accounting: str = "exact",
    dataset: str | None = None,
    data: DatasetOptions | None = None,
    base: str | None = None,
    cached: bool = False,
    reporter: Reporter = SILENT,
) -> Estimate:
    """Count the run of `options` on the meta device.

    bundle: its masks, weights and segmentor are used; None: a fresh segmentor around CLIP's RN50, or around the
    architecture `base`, with nothing pruned and the paper's list of heavy-tailed layers. dataset: its classes are used;
    None: COCO's. cached: the features of the frozen first layers are kept on the disk. Raises OptionError,
    BundleError, SourceError or DataError.
    """
    if accounting not in get_args(Accounting):
        raise OptionError(unknown("accounting", accounting, get_args(Accounting)))
    check_run(options, FinetuneControls())
    classes = classes_of(dataset, data, options.crop)
    if bundle is None:
        built = segmentor_without_weights(options, base=base)
    else:
        built = bundle_segmentor_of(bundle, options, base=base, reporter=reporter)
    check_loss_options(options, built.framework)
    chosen = _choose(built, options, reporter)
    cost, paper = None, None
    if accounting == "paper":
        paper = paper_estimate(
            built,
            built.costs((classes.crop, classes.crop), class_indices=classes.class_indices),
            options,
            crop=classes.crop,
            published_trunk=is_published_trunk(built),
            choose=lambda mode: _choose(built, _as_the_paper(options, mode), reporter).layers,
        )
    else:
        cost = _run_cost(built, options, chosen, classes, cached=cached)
    name = None if bundle is None else str(bundle)
    return Estimate(built.framework.name, built.tower.base.architecture, name, classes, options, chosen, cost, paper)


def _run_cost(
    built: BuiltSegmentor, options: FinetuneOptions, chosen: FreezeChoice, classes: Classes, *, cached: bool
) -> RunCost:
    modules, views = _cache(built, chosen, options, classes) if cached else ((), 0)
    full = count_segmentor(built, crop=classes.crop, class_indices=classes.class_indices, checked=True)
    chosen.apply(built.module)
    frozen = count_segmentor(built, crop=classes.crop, class_indices=classes.class_indices, checked=True)
    return run_cost(full, frozen, options, crop=classes.crop, cached=modules, views=views)


def _choose(built: BuiltSegmentor, options: FinetuneOptions, reporter: Reporter) -> FreezeChoice:
    if built.tower.bundle is not None:
        return choose_frozen(built, options, measured_now=False, reporter=reporter)
    given = published_alphas(built, options)
    origin = PUBLISHED_LIST if given and options.resolved_freeze in ("heavy", "light") else NOTHING_RANKED
    return choose_frozen(built, options, measured_now=False, alphas=given, origin=origin, reporter=reporter)


def _cache(
    built: BuiltSegmentor, chosen: FreezeChoice, options: FinetuneOptions, classes: Classes
) -> tuple[tuple[str, ...], int]:
    """Modules of the frozen first layers in the segmentor, and how many crops go through them once."""
    if chosen.prefix_end is None or options.views < 1:
        missing = "a frozen prefix" if chosen.prefix_end is None else "fixed crops"
        raise OptionError(f"a cache of features needs {missing}; give --freeze-prefix and --views, or no cache")
    return cached_part(built, chosen.prefix_end, options, crops=options.views * classes.images)


def _as_the_paper(options: FinetuneOptions, mode: str) -> FinetuneOptions:
    """The same options, but with layers chosen only from the trunk."""
    return replace(options, freeze=mode, freeze_scope="trunk", freeze_prefix=False, prefix_end=None)
