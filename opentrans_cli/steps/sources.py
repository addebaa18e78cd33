"""A source for the steps: either a CLIP or a bundle, with its visual tower as a module and its masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from opentrans_cli.bundle.hub.source import local_source
from opentrans_cli.bundle.layout import WEIGHTS, Tensors
from opentrans_cli.bundle.manifest import Base
from opentrans_cli.bundle.rounds import BundleAtRound, RoundInfo, at_round, available, find_round, with_base
from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.clip.architecture import build_visual
from opentrans_cli.clip.arrays import arrays, tensors
from opentrans_cli.clip.layers import has_layer, join_packed, layer_weight, layer_weights, prunable_layers, split_packed
from opentrans_cli.clip.preprocess import Preprocess
from opentrans_cli.clip.source import LoadedClip, is_local, load_clip
from opentrans_cli.errors import BundleError, OptionError, SourceError
from opentrans_cli.files.digest import tower_digest
from opentrans_cli.reporter import SILENT, Reporter

# The tower of an earlier round: every sparsity a pruning run passed through, from one bundle.


__all__ = ["RoundInfo", "available", "dense_tower", "took_base", "tower_at", "tower_at_sparsity"]


def tower_at_sparsity(
    bundle: Bundle, sparsity: float | None, *, base: str | None = None, reporter: Reporter = SILENT
) -> Tower:
    """The tower `bundle` had at `sparsity`, to within 0.0005; None: as it is.

    Its `bundle` is that of this round: masks, sparsity and tensors, with the digest of the one it was read from.
    Values come from the bundle, or from the base (its own source, or `base` where that has moved) if nothing was
    trained. Raises OptionError, naming the sparsities there are, if there is no such round or only its masks.
    """
    if sparsity is None:
        return bundle_tower(bundle, base=base, reporter=reporter)
    info = find_round(bundle, sparsity)
    return tower_at(bundle, info, target=sparsity, dense=dense_tower(bundle, (info,), base, reporter))


def took_base(tower: Tower) -> bool:
    """Whether the values of a bundle's tower were taken from its base, because the bundle does not hold them."""
    return isinstance(tower.bundle, BundleAtRound) and tower.bundle.base is not None


def tower_at(bundle: Bundle, info: RoundInfo, *, target: float | None = None, dense: Tensors | None = None) -> Tower:
    """The tower after the round `info`; `dense` as `dense_tower` gives it.

    target: the sparsity asked for, that of the round if left out. Raises OptionError if only its masks are there.
    """
    if not info.has_weights:
        raise OptionError(
            f"only the masks of this round are there, and its weights were trained further: sparsity "
            f"{info.sparsity:.4f} of {bundle.path}; prune again with --keep-rounds weights"
        )
    return bundle_tower(at_round(bundle, info, target=target, base=dense if info.weights == "base" else None))


def dense_tower(bundle: Bundle, rounds: tuple[RoundInfo, ...], base: str | None, reporter: Reporter) -> Tensors | None:
    """The base's tensors, a tensor a layer, if the values of one of `rounds` come from there. Raises SourceError."""
    if any(info.weights == "base" for info in rounds):
        return base_tower(bundle, base, reporter)
    return None


@dataclass(frozen=True)
class Tower:
    """The visual tower of a source."""

    visual: nn.Module  # eval mode, float32, on the CPU
    base: Base  # the CLIP it comes from
    masks: dict[str, Tensor]  # by prunable layer, bool, True = kept; all True for a CLIP
    bundle: Bundle | None  # None if the source is a CLIP

    @property
    def preprocess(self) -> Preprocess:
        """How the tower wants its images."""
        return preprocess_of(self.base)


def preprocess_of(base: Base) -> Preprocess:
    """The preprocessing a bundle records."""
    p = base.preprocess
    return Preprocess(
        size=p["size"],
        mean=tuple(p["mean"]),
        std=tuple(p["std"]),
        interpolation=p["interpolation"],
        resize_mode=p["resize_mode"],
    )


def is_bundle(source: str) -> bool:
    """Whether `source` is a folder with a manifest; the name `tiny` always means the embedded model."""
    return source != "tiny" and (Path(source) / "manifest.json").is_file()


def load_tower(source: str, reporter: Reporter, *, base: str | None = None, at_sparsity: float | None = None) -> Tower:
    """Load the tower of a bundle, here or on the Hub, or of a CLIP.

    base: where the base of a bundle of masks alone lies now, if it has moved. at_sparsity: an earlier round of a
    bundle. Raises SourceError, BundleError, HubError, or OptionError where there is no such round.
    """
    place = local_source(source, reporter)
    if is_bundle(place):
        return tower_at_sparsity(open_bundle(place), at_sparsity, base=base, reporter=reporter)
    if at_sparsity is not None:
        raise OptionError(f"only a bundle has earlier rounds: {source}; leave --at-sparsity out")
    if source != "tiny" and not is_local(source):
        reporter.say(f"loading {source} (cached, or downloaded by open_clip)")
    return clip_tower(_loaded(source, reporter))


def _loaded(source: str, reporter: Reporter) -> LoadedClip:
    clip = load_clip(source)
    if clip.note is not None:
        reporter.say(clip.note)
    return clip


def clip_tower(clip: LoadedClip) -> Tower:
    """The tower of a loaded CLIP, with nothing pruned."""
    visual = clip.model.visual
    weights = layer_weights(visual, prunable_layers(visual))
    masks = {layer: torch.ones_like(weight, dtype=torch.bool) for layer, weight in weights.items()}
    return Tower(visual, base_record(clip), masks, None)


def bundle_tower(bundle: Bundle, *, base: str | None = None, reporter: Reporter = SILENT) -> Tower:
    """The tower of a bundle, dense, with exact zeros where it is pruned.

    One of masks alone gets the values of its base, or of the source `base` where that has moved.
    """
    if not bundle.has(WEIGHTS):
        bundle = with_base(bundle, base_tower(bundle, base, reporter))
    visual = build_visual(bundle.manifest.base.model_cfg, tensors(join_packed(bundle.tower())))
    masks = {layer: torch.from_numpy(mask) for layer, mask in bundle.masks().items()}
    _check_layers(visual, masks, bundle)
    return Tower(visual, bundle.manifest.base, masks, bundle)


def _check_layers(visual: nn.Module, masks: Mapping[str, Tensor], bundle: Bundle) -> None:
    for layer, mask in masks.items():
        if not has_layer(visual, layer) or layer_weight(visual, layer).shape != mask.shape:
            raise BundleError(f"mask fits no layer of the tower: '{layer}' in {bundle.path}; write the bundle again")


def with_layers(tower: Tower, layers: Iterable[str]) -> Tower:
    """`tower` with masks for exactly these layers: those it has, and all True where it has none.

    Raises OptionError if that would forget what a bundle has pruned.
    """
    layers = tuple(layers)
    forgotten = [layer for layer, mask in tower.masks.items() if layer not in layers and not bool(mask.all())]
    if forgotten:
        raise OptionError(f"the pattern leaves out a layer that is pruned already: {forgotten[0]}; start from the base")
    weights = layer_weights(tower.visual, layers)
    fresh = {layer: torch.ones_like(weight, dtype=torch.bool) for layer, weight in weights.items()}
    return replace(tower, masks={layer: tower.masks.get(layer, mask) for layer, mask in fresh.items()})


def load_text_clip(base: Base, override: str | None, reporter: Reporter) -> LoadedClip:
    """The CLIP whose text tower goes with `base`: its own source, or `override` where that has moved.

    Raises SourceError if the visual tower of what is found is not the one the bundle was cut from.
    """
    source = override or base.source
    reporter.say(f"text tower: {source}")
    return _base_clip(base, source, reporter)


def base_tower(bundle: Bundle, override: str | None, reporter: Reporter) -> dict[str, np.ndarray]:
    """The dense tower `bundle` was cut from, a tensor a layer: from its own source, or `override` where that has moved.

    Raises SourceError if it cannot be loaded or is another one.
    """
    source = override or bundle.manifest.base.source
    reporter.say(f"weights of the base: {source}")
    try:
        clip = _base_clip(bundle.manifest.base, source, reporter)
    except SourceError as error:
        problem = str(error).split("; ")[0]
        raise SourceError(f"{problem}; {bundle.path} needs the weights of its base, say with --base where") from error
    return split_packed(arrays(clip.model.visual.state_dict()))


def _base_clip(base: Base, source: str, reporter: Reporter) -> LoadedClip:
    clip = _loaded(source, reporter)
    if tower_digest(arrays(clip.model.visual.state_dict())) != base.digest:
        raise SourceError(f"not the CLIP this bundle was cut from: {source}; name the right one with --base")
    return clip


def numpy_masks(masks: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Masks as bundles hold them."""
    return {layer: mask.cpu().numpy() for layer, mask in masks.items()}


def base_record(clip: LoadedClip) -> Base:
    """What a bundle says about the CLIP it was cut from."""
    p = clip.preprocess
    return Base(
        source=clip.source,
        architecture=clip.architecture,
        model_cfg=clip.model_cfg,
        digest=tower_digest(arrays(clip.model.visual.state_dict())),
        preprocess={
            "size": p.size,
            "mean": list(p.mean),
            "std": list(p.std),
            "interpolation": p.interpolation,
            "resize_mode": p.resize_mode,
        },
        activation=clip.activation,
    )
