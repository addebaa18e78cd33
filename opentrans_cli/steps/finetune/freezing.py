"""Which layers fine-tuning freezes: those that `analyze` stored in the bundle, unless a freeze option is given.

With a freeze option, or without an alpha report, they are chosen here by the tails of their spectra, in the trunk or in
the whole model, or as a prefix: heavy tail = small alpha = well trained = frozen (OpenTrans, arXiv 2404.07448,
Sec. 3.3.2).

With a layer the BatchNorm behind it is frozen too, in the head and in the trunk, because changing statistics would
change its output; norms without running statistics (GroupNorm, LayerNorm) are still trained. Names are those inside the
segmentor, where the names of the trunk begin with `backbone.`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from opentrans_cli.clip.key_tables import OUTPUT_HEAD
from opentrans_cli.clip.layers import batchnorm_of, candidates, convolutions, layer_weight, locate, whole_projections
from opentrans_cli.clip.prefix import block_of, blocks, modules_until
from opentrans_cli.errors import OptionError, did_you_mean, flag
from opentrans_cli.files.records import finite
from opentrans_cli.frameworks.base import BACKBONE
from opentrans_cli.reporter import SILENT, Reporter
from opentrans_cli.spectral.estimators import ESTIMATORS
from opentrans_cli.spectral.measure import measure
from opentrans_cli.spectral.report import AlphaReport, bundle_report
from opentrans_cli.spectral.selection import FreezeMode, Selection, selection_in_words
from opentrans_cli.steps.finetune.options import FinetuneOptions
from opentrans_cli.steps.segmentors.built import BuiltSegmentor
from opentrans_cli.training.freezing import freeze_modules

NOTHING_RANKED = "nothing was ranked"


@dataclass(frozen=True)
class FreezeChoice:
    """What is frozen, and why; names inside the segmentor."""

    layers: tuple[str, ...]  # trunk first, each part in module order; listed in cost receipts
    modules: tuple[str, ...]  # all modules to fix, sorted: the layers, the norms behind them, the whole prefix
    prefix_end: str | None  # last block of the closed prefix, of `clip.prefix.blocks`; None: no prefix
    alphas: dict[str, float]  # of every ranked layer; inf if the verdict names a problem
    mode: str  # heavy | light | random | none; heavy for a list, and for a report without a mode
    by: str  # what made the choice: analyze | options | defaults | framework
    origin: str  # the same in words, with the source of the alphas

    def to_json(self) -> dict[str, Any]:
        """The choice as JSON values."""
        return {**asdict(self), "alphas": {name: finite(alpha) for name, alpha in self.alphas.items()}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FreezeChoice:
        """The reverse of `to_json`."""
        alphas = {name: math.inf if alpha is None else alpha for name, alpha in values["alphas"].items()}
        return cls(
            **{**values, "layers": tuple(values["layers"]), "modules": tuple(values["modules"]), "alphas": alphas}
        )

    def apply(self, segmentor: nn.Module) -> tuple[str, ...]:
        """Freeze the modules of the choice in `segmentor`; returns their names, sorted, for `state_hash`.

        Raises TrainingError for a name that `segmentor` does not have, before it changes anything.
        """
        return freeze_modules(segmentor, self.modules)


def check_choice(built: BuiltSegmentor, options: FinetuneOptions) -> None:
    """Check what can be refused before a warm-up is trained for nothing.

    Raises OptionError for a block the tower does not have and for a prefix without an end, SourceError for a prefix
    of a tower without blocks.
    """
    if options.prefix_end is not None:
        found = blocks(built.tower.visual)
        if options.prefix_end not in found:
            near = did_you_mean(options.prefix_end, found)
            raise OptionError(
                f"no such block: --prefix-end {options.prefix_end}; choose one of {', '.join(found)}{near}"
            )
    elif options.freeze_prefix:
        blocks(built.tower.visual)
        if options.resolved_freeze == "none" and not built.framework.frozen_trunk:
            raise OptionError(
                "no layer is chosen, so nothing ends the prefix: --freeze none; name its last block by --prefix-end"
            )


def choose_frozen(
    built: BuiltSegmentor,
    options: FinetuneOptions,
    *,
    measured_now: bool,
    alphas: Mapping[str, float] | None = None,
    origin: str = "",
    reporter: Reporter = SILENT,
) -> FreezeChoice:
    """Choose what to freeze in the segmentor, by its weights as they are now; nothing is changed.

    These are the layers that `analyze` stored in the bundle, unless `options` have a freeze option or `measured_now` is
    set: the trunk was trained after the bundle's alpha report, which is then unused. alphas: ranked, from `origin`, if
    the segmentor has no weights to measure. A part of a packed attention projection is frozen only with the other two
    parts, and a layer whose verdict names a problem only if a list names it. Raises what `check_choice` raises, and
    SpectrumError.
    """
    check_choice(built, options)
    bundle = built.tower.bundle
    report = None if bundle is None or measured_now else bundle_report(bundle)
    if report is not None and not options.given_freezing and not built.framework.frozen_trunk:
        ranking = _Ranking(_inside(built, report), f"as analyze chose: {selection_in_words(report.selection)}")
        by, wanted = "analyze", _stored(built, report, reporter)
        mode = str((report.selection or {}).get("freeze", "heavy"))
    else:
        ranking = _rank(built, options, report, reporter=reporter) if alphas is None else _Ranking(dict(alphas), origin)
        mode, wanted = options.resolved_freeze, ranking.choose(_selection(options))
        by = "options" if options.given_freezing else "framework" if built.framework.frozen_trunk else "defaults"
        ranking = replace(ranking, origin=f"{_own_words(options, report, by)}; {ranking.origin}")
    chosen = _whole_projections(built.module, wanted, reporter)
    if built.framework.frozen_trunk:
        trunk = {f"{BACKBONE}{layer.name}" for layer in candidates(built.tower.visual)}
        end = _fixed_end(built, options, reporter)
        modules = set(_owners(built.module))
    else:
        end = _prefix_end(built, options, chosen, reporter)
        inside = () if end is None else modules_until(built.tower.visual, end)
        modules = {f"{BACKBONE}{name}" for name in inside}
        trunk = {f"{BACKBONE}{layer}" for layer in convolutions(built.tower.visual)} & modules
    layers = tuple(layer.name for layer in candidates(built.module) if layer.name in chosen | trunk)
    norms = {norm for layer in chosen if (norm := norm_behind(built.module, layer)) is not None}
    return FreezeChoice(
        layers=(*(name for name in layers if _in_trunk(name)), *(name for name in layers if not _in_trunk(name))),
        modules=tuple(sorted(modules | chosen | norms)),
        prefix_end=end,
        alphas=ranking.alphas,
        mode=mode,
        by=by,
        origin=ranking.origin,
    )


def _stored(built: BuiltSegmentor, report: AlphaReport, reporter: Reporter) -> set[str]:
    """The layers that `analyze` chose, without those that the segmentor never trains; a message names these."""
    trained = set(_trained_layers(built.module))
    absent = [layer for layer in report.frozen if f"{BACKBONE}{layer}" not in trained]
    if absent:
        reporter.say(f"chosen by analyze, but not trained in {built.framework.name} anyway: {', '.join(absent)}")
    return {f"{BACKBONE}{layer}" for layer in report.frozen} - {f"{BACKBONE}{layer}" for layer in absent}


def _own_words(options: FinetuneOptions, report: AlphaReport | None, by: str) -> str:
    """Words that say why the layers are chosen here, and how."""
    if by == "framework":
        return "the framework keeps the whole tower frozen"
    rule = selection_in_words(_selection(options).to_json())
    if by == "defaults":
        return f"by default: {rule}"
    given = ", ".join(flag(name) for name in options.given_freezing)
    instead = "" if report is None else f", instead of the {len(report.frozen)} layers that analyze chose"
    return f"as given by {given}: {rule}{instead}"


def norm_behind(segmentor: nn.Module, layer: str) -> str | None:
    """Name of the BatchNorm that normalises `layer`'s output, in the trunk or in the head; None if it has none."""
    found = batchnorm_of(segmentor, layer)
    owner, _, place = layer.rpartition(".")
    if found is not None or not place.isdigit() or not isinstance(segmentor.get_submodule(owner), nn.Sequential):
        return found
    behind = f"{owner}.{int(place) + 1}"
    return behind if isinstance(dict(segmentor.named_modules()).get(behind), nn.BatchNorm2d) else None


@dataclass(frozen=True)
class _Ranking:
    """Alphas by layer, trunk first; inf if the verdict names a problem."""

    alphas: dict[str, float]
    origin: str

    def choose(self, selection: Selection) -> set[str]:
        # Uses the tower's own names, as `analyze` does, because a random choice depends on the name.
        names = {name.removeprefix(BACKBONE): name for name in self.alphas}
        return {names[short] for short in selection.choose({short: self.alphas[names[short]] for short in names})}


def _rank(
    built: BuiltSegmentor, options: FinetuneOptions, report: AlphaReport | None, *, reporter: Reporter
) -> _Ranking:
    alphas: dict[str, float] = {}
    origins = []
    if options.resolved_freeze != "none" and not built.framework.frozen_trunk:
        if report is not None and report.fitted_by == options.resolved_estimator:
            origins.append("trunk: alpha report of the bundle")
            alphas |= _inside(built, report)
        else:
            origins.append("trunk: measured")
            alphas |= _measured(built, options, trunk=True, reporter=reporter)
    if options.resolved_freeze != "none" and options.resolved_scope == "model":
        origins.append("head: measured")
        alphas |= _measured(built, options, trunk=False, reporter=reporter)
    return _Ranking(alphas, f"{', '.join(origins)}, by {options.resolved_estimator}" if origins else NOTHING_RANKED)


def _inside(built: BuiltSegmentor, report: AlphaReport) -> dict[str, float]:
    """Alphas of those layers of the report that the segmentor trains, by their names in it."""
    trained = set(_trained_layers(built.module))
    inside = {f"{BACKBONE}{name}": alpha for name, alpha in report.alphas.items()}
    return {name: alpha for name, alpha in inside.items() if name in trained}


def _measured(built: BuiltSegmentor, options: FinetuneOptions, *, trunk: bool, reporter: Reporter) -> dict[str, float]:
    part = "trunk" if trunk else "head"
    reporter.say(f"no alpha report by {options.resolved_estimator} of the {part} as it is now: analyzing it first")
    bundle = built.tower.bundle
    if not trunk and options.warmup_steps == 0 and (bundle is None or bundle.manifest.segmentor is None):
        reporter.say("the head is fresh, so its alphas are those of random weights: train it first by --warmup-steps")
    names = [name for name in _trained_layers(built.module) if _in_trunk(name) is trunk]
    spectra = measure(
        names,
        lambda name: layer_weight(built.module, name).cpu().numpy(),
        ESTIMATORS.load(options.resolved_estimator),
        title=f"spectra of the {part}",
        reporter=reporter,
    )
    return {layer.name: layer.alpha for layer in spectra}


def _trained_layers(segmentor: nn.Module) -> Iterator[str]:
    """The layers that `analyze` takes by default, and those of the head, without those that are always fixed."""
    heads = {
        f"{BACKBONE}{layer.name}"
        for layer in candidates(segmentor.get_submodule(BACKBONE.rstrip(".")))
        if layer.reason == OUTPUT_HEAD
    }
    for layer in candidates(segmentor):
        if layer.name not in heads and segmentor.get_parameter(locate(segmentor, layer.name)[0]).requires_grad:
            yield layer.name


def _whole_projections(segmentor: nn.Module, chosen: set[str], reporter: Reporter) -> set[str]:
    """`chosen` without single parts of packed projections whose other parts are not chosen; a message names them."""
    whole = whole_projections(segmentor, chosen)
    partly = {name.rpartition(".")[0] for name in chosen - whole}
    if partly:
        reporter.say(f"packed attention is frozen whole or not at all: {len(partly)} projections chosen in part train")
    return whole


def _prefix_end(built: BuiltSegmentor, options: FinetuneOptions, chosen: set[str], reporter: Reporter) -> str | None:
    """The named block, or the last block up to which more than half of the layers are chosen."""
    if options.prefix_end is not None or not options.freeze_prefix:
        return options.prefix_end
    end, inside, frozen = None, 0, 0
    layers = convolutions(built.tower.visual)
    for block in blocks(built.tower.visual):
        own = [layer for layer in layers if block_of(layer) == block]
        inside += len(own)
        frozen += sum(f"{BACKBONE}{layer}" in chosen for layer in own)
        if 2 * frozen > inside:
            end = block
    if end is None:
        reporter.say("no prefix is frozen: most of the lowest layers are to be trained; name its end to freeze one")
    return end


def _fixed_end(built: BuiltSegmentor, options: FinetuneOptions, reporter: Reporter) -> str | None:
    """The last block if the framework never trains the trunk: the whole trunk is then a prefix, whatever is chosen."""
    if options.resolved_scope == "trunk":
        reporter.say(f"{built.framework.name} keeps the whole tower frozen, whatever --freeze says")
    if options.prefix_end is not None or not options.freeze_prefix:
        return options.prefix_end
    return blocks(built.tower.visual)[-1]


def _owners(segmentor: nn.Module) -> Iterator[str]:
    """Names of all modules of the trunk that hold a tensor directly."""
    for name, part in segmentor.named_modules():
        if _in_trunk(name) and (part._parameters or part._buffers):
            yield name


def _in_trunk(name: str) -> bool:
    return name.startswith(BACKBONE)


def _selection(options: FinetuneOptions) -> Selection:
    mode: FreezeMode = options.resolved_freeze  # type: ignore[assignment]
    return Selection(mode, ratio=options.freeze_ratio, seed=options.seed)
