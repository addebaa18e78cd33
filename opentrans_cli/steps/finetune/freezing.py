"""Which layers fine-tuning freezes: by the tails of their spectra, in the trunk or in the whole model, or a prefix.

A frozen layer takes the BatchNorm behind it along, in the head as in the trunk, because statistics that drift change
what the layer says; norms without running statistics (GroupNorm, LayerNorm) go on learning. Names are those inside the
segmentor, where the trunk stands below `backbone.`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from opentrans_cli.clip.layers import batchnorm_of, candidates, convolutions, layer_weight, locate, whole_projections
from opentrans_cli.clip.prefix import block_of, blocks, modules_until
from opentrans_cli.clip.tower_keys import OUTPUT_HEAD
from opentrans_cli.errors import OptionError
from opentrans_cli.files.records import finite
from opentrans_cli.frameworks.base import BACKBONE
from opentrans_cli.reporter import SILENT, Reporter
from opentrans_cli.spectral.estimators import ESTIMATORS
from opentrans_cli.spectral.measure import measure
from opentrans_cli.spectral.report import recorded_alphas
from opentrans_cli.spectral.selection import FreezeMode, Selection
from opentrans_cli.steps.finetune.options import FinetuneOptions
from opentrans_cli.steps.segmentors.built import BuiltSegmentor
from opentrans_cli.training.freezing import freeze_modules

NOTHING_RANKED = "nothing was ranked"


@dataclass(frozen=True)
class FreezeChoice:
    """What is frozen, and why; names inside the segmentor."""

    layers: tuple[str, ...]  # trunk first, each part in module order; what cost receipts list
    modules: tuple[str, ...]  # all that is to be fixed, sorted: the layers, the norms behind them, the whole prefix
    prefix_end: str | None  # last block of the closed prefix, of `clip.prefix.blocks`; None: no prefix
    alphas: dict[str, float]  # of every layer that was ranked, inf where not to be trusted
    origin: str  # where the alphas are from, in words

    def to_json(self) -> dict[str, Any]:
        """The choice as JSON values."""
        return {**asdict(self), "alphas": {name: finite(alpha) for name, alpha in self.alphas.items()}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FreezeChoice:
        """The reverse of `to_json`."""
        alphas = {name: math.inf if alpha is None else alpha for name, alpha in values["alphas"].items()}
        lists = {name: tuple(values[name]) for name in ("layers", "modules")}
        return cls(**lists, prefix_end=values["prefix_end"], alphas=alphas, origin=values["origin"])

    def apply(self, segmentor: nn.Module) -> tuple[str, ...]:
        """Fix the modules of the choice in `segmentor`; returns their names, sorted, for `state_hash`.

        Raises TrainingError for a name it does not have, before changing anything.
        """
        return freeze_modules(segmentor, self.modules)


def check_choice(built: BuiltSegmentor, options: FinetuneOptions) -> None:
    """What can be refused before a warm-up is trained in vain.

    Raises OptionError for a block the tower does not have and for a prefix that nothing ends, SourceError for a prefix
    of a tower without blocks.
    """
    if options.prefix_end is not None:
        found = blocks(built.tower.visual)
        if options.prefix_end not in found:
            raise OptionError(f"no such block: --prefix-end {options.prefix_end}; choose one of {', '.join(found)}")
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
    """What `options` freeze of the segmentor, whose weights are taken as they are now; nothing is changed.

    measured_now: leave the bundle's alpha report alone, for the trunk has been trained since. alphas: those to rank by,
    from `origin`, where the segmentor has no weights to measure. A layer whose spectrum is not to be trusted is chosen
    by no rule, nor is a part of a packed attention projection without the other two. Raises what `check_choice` does,
    and SpectrumError.
    """
    check_choice(built, options)
    if alphas is None:
        ranking = _rank(built, options, measured_now=measured_now, reporter=reporter)
    else:
        ranking = _Ranking(dict(alphas), origin)
    chosen = _whole_projections(built.module, ranking.choose(_selection(options)), reporter)
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
        origin=ranking.origin,
    )


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
    """Alphas by layer, inf where not to be trusted; trunk first."""

    alphas: dict[str, float]
    origin: str

    def choose(self, selection: Selection) -> set[str]:
        # By the tower's own names, as `analyze` does: a random choice is drawn by the name.
        names = {name.removeprefix(BACKBONE): name for name in self.alphas}
        return {names[short] for short in selection.choose({short: self.alphas[names[short]] for short in names})}


def _rank(built: BuiltSegmentor, options: FinetuneOptions, *, measured_now: bool, reporter: Reporter) -> _Ranking:
    alphas: dict[str, float] = {}
    origins = []
    if options.resolved_freeze != "none" and not built.framework.frozen_trunk:
        found = None if measured_now else _reported(built, options.resolved_estimator)
        origins.append("trunk: measured" if found is None else "trunk: alpha report of the bundle")
        alphas |= _measured(built, options, trunk=True, reporter=reporter) if found is None else found
    if options.resolved_freeze != "none" and options.resolved_scope == "model":
        origins.append("head: measured")
        alphas |= _measured(built, options, trunk=False, reporter=reporter)
    return _Ranking(alphas, f"{', '.join(origins)}, by {options.resolved_estimator}" if origins else NOTHING_RANKED)


def _reported(built: BuiltSegmentor, estimator: str) -> dict[str, float] | None:
    """Alphas in the bundle's own report of the layers that are trained."""
    bundle, trained = built.tower.bundle, set(_trained_layers(built.module))
    report = None if bundle is None else recorded_alphas(bundle, estimator=estimator)
    if report is None:
        return None
    return {f"{BACKBONE}{name}": alpha for name, alpha in report.items() if f"{BACKBONE}{name}" in trained}


def _measured(built: BuiltSegmentor, options: FinetuneOptions, *, trunk: bool, reporter: Reporter) -> dict[str, float]:
    part = "trunk" if trunk else "head"
    reporter.say(f"no alpha report by {options.resolved_estimator} of the {part} as it is now: analyzing it first")
    bundle = built.tower.bundle
    if not trunk and options.warmup_steps == 0 and (bundle is None or bundle.manifest.segmentor is None):
        reporter.say("the head is fresh, so its alphas are those of random weights: train it first by --warmup-steps")
    names = [name for name in _trained_layers(built.module) if _in_trunk(name) is trunk]
    spectra = measure(
        names,
        lambda name: layer_weight(built.module, name).cpu(),
        ESTIMATORS.load(options.resolved_estimator),
        title=f"spectra of the {part}",
        reporter=reporter,
    )
    return {layer.name: layer.alpha for layer in spectra}


def _trained_layers(segmentor: nn.Module) -> Iterator[str]:
    """The layers that `analyze` takes by default, and those of the head, as far as they are not fixed anyway."""
    heads = {
        f"{BACKBONE}{layer.name}"
        for layer in candidates(segmentor.get_submodule(BACKBONE.rstrip(".")))
        if layer.reason == OUTPUT_HEAD
    }
    for layer in candidates(segmentor):
        if layer.name not in heads and segmentor.get_parameter(locate(segmentor, layer.name)[0]).requires_grad:
            yield layer.name


def _whole_projections(segmentor: nn.Module, chosen: set[str], reporter: Reporter) -> set[str]:
    """`chosen` without parts of packed projections that would be frozen without the others, which is told."""
    whole = whole_projections(segmentor, chosen)
    partly = {name.rpartition(".")[0] for name in chosen - whole}
    if partly:
        reporter.say(f"packed attention is frozen whole or not at all: {len(partly)} projections chosen in part train")
    return whole


def _prefix_end(built: BuiltSegmentor, options: FinetuneOptions, chosen: set[str], reporter: Reporter) -> str | None:
    """The block named, else the last one up to which more than half of the layers are chosen."""
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
    """Of a framework that never trains the trunk: all of it is a prefix, whatever is chosen."""
    if options.resolved_scope == "trunk":
        reporter.say(f"{built.framework.name} keeps the whole tower frozen, whatever --freeze says")
    if options.prefix_end is not None or not options.freeze_prefix:
        return options.prefix_end
    return blocks(built.tower.visual)[-1]


def _owners(segmentor: nn.Module) -> Iterator[str]:
    """Names of all modules of the trunk that hold a tensor themselves."""
    for name, part in segmentor.named_modules():
        if _in_trunk(name) and (part._parameters or part._buffers):
            yield name


def _in_trunk(name: str) -> bool:
    return name.startswith(BACKBONE)


def _selection(options: FinetuneOptions) -> Selection:
    mode: FreezeMode = options.resolved_freeze  # type: ignore[assignment]
    return Selection(mode, ratio=options.freeze_ratio, seed=options.seed)
