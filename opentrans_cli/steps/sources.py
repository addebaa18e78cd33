"""A source for the steps: either a CLIP or a bundle, with the tensors of its image tower and its masks.

Steps that only read weights do not need torch, which is imported when a tower is built.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from opentrans_cli.bundle.hub.source import local_source
from opentrans_cli.bundle.layout import WEIGHTS, Tensors
from opentrans_cli.bundle.manifest import Base
from opentrans_cli.bundle.rounds import BundleAtRound, RoundInfo, at_round, find_round, with_base
from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.clip.architecture import build_visual, fit_state
from opentrans_cli.clip.layers import arrays, join_packed, prunable, split_packed, tensors, tower_candidates
from opentrans_cli.clip.preprocess import Preprocess
from opentrans_cli.clip.source import ImageTower, LoadedClip, is_local, load_clip, read_tower
from opentrans_cli.errors import BundleError, OptionError, SourceError
from opentrans_cli.files.digest import tower_digest
from opentrans_cli.reporter import SILENT, Reporter
from opentrans_cli.source_name import plain_source
from opentrans_cli.sparsity.selection import Mask

if TYPE_CHECKING:
    from torch import nn

AnyClip = ImageTower | LoadedClip

Clip = TypeVar("Clip", ImageTower, LoadedClip, "ImageTower | LoadedClip")

# The tower of an earlier round: one bundle can give every sparsity of its pruning run.


def tower_at_sparsity(
    bundle: Bundle, sparsity: float | None, *, base: str | None = None, reporter: Reporter = SILENT
) -> Tower:
    """The tower that `bundle` had at `sparsity`, to within 0.0005; None: the tower as it is.

    Its `bundle` has the masks, sparsity and tensors of this round, and the digest of the bundle that was read. Values
    come from the bundle, or from the base (its own source, or `base` if that has moved) if nothing was trained. Raises
    OptionError, which lists the sparsities, if there is no such round or only its masks are there.
    """
    if sparsity is None:
        return bundle_tower(bundle, base=base, reporter=reporter)
    info = find_round(bundle, sparsity)
    return tower_at(bundle, info, target=sparsity, base=base_of_rounds(bundle, (info,), base, reporter))


def took_base(tower: Tower) -> bool:
    """Whether the values of a bundle's tower were taken from its base, because the bundle does not hold them."""
    return isinstance(tower.bundle, BundleAtRound) and tower.bundle.base is not None


def tower_at(bundle: Bundle, info: RoundInfo, *, target: float | None = None, base: AnyClip | None = None) -> Tower:
    """The tower after the round `info`; `base` is what `base_of_rounds` returns.

    target: the sparsity asked for, by default that of the round. Raises OptionError if only its masks are there.
    """
    if not info.has_weights:
        raise OptionError(
            f"only the masks of this round are there, and its weights were trained further: sparsity "
            f"{info.sparsity:.4f} of {bundle.path}; prune again with --keep-rounds weights"
        )
    taken = _state(base) if base is not None and info.weights == "base" else None
    return replace(bundle_tower(at_round(bundle, info, target=target, base=taken)), clip=base)


def base_of_rounds(
    bundle: Bundle, rounds: tuple[RoundInfo, ...], base: str | None, reporter: Reporter
) -> AnyClip | None:
    """The base, or the source `base` if that has moved; None if no round of `rounds` takes its values from there.

    Raises SourceError.
    """
    return _base_for(bundle, base, reporter) if any(info.weights == "base" for info in rounds) else None


@dataclass(frozen=True)
class Tower:
    """The image tower of a source."""

    base: Base  # the CLIP it comes from
    state: Tensors = field(repr=False)  # its tensors, float32, one for each layer: packed projections are split
    masks: dict[str, Mask]  # by prunable layer, True = kept; all True for a CLIP
    bundle: Bundle | None = None  # None if the source is a CLIP
    built: nn.Module | None = field(default=None, repr=False)  # the module, if it exists already
    # The CLIP that was read for it, if any; its text tower is unchanged, its image tower may be `built`.
    clip: AnyClip | None = field(default=None, repr=False)

    @cached_property
    def visual(self) -> nn.Module:
        """The tower as a module, in eval mode, at first on the CPU; a copy of `state`, which does not change."""
        if self.built is not None:
            return self.built
        return build_visual(self.base.model_cfg, tensors(join_packed(self.state)))

    def tensors(self) -> Tensors:
        """Its tensors as they are now, one for each layer: those of the module if it was built, perhaps trained."""
        return split_packed(arrays(self.visual.state_dict())) if "visual" in vars(self) else self.state

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of its tensors, in module order."""
        return {name: array.shape for name, array in self.state.items()}

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing of images that the tower needs."""
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
    return source != "tiny" and (Path(plain_source(source)) / "manifest.json").is_file()


def load_tower(source: str, reporter: Reporter, *, base: str | None = None, at_sparsity: float | None = None) -> Tower:
    """Load the tower of a bundle, here or on the Hub, or of a CLIP.

    base: where the base of a bundle with masks only is, if it has moved. at_sparsity: an earlier round of a
    bundle. Raises SourceError, BundleError, HubError, or OptionError if there is no such round.
    """
    place = local_source(source, reporter)
    if is_bundle(place):
        return tower_at_sparsity(open_bundle(place), at_sparsity, base=base, reporter=reporter)
    if at_sparsity is not None:
        raise OptionError(f"only a bundle has earlier rounds: {source}; leave --at-sparsity out")
    if source != "tiny" and not is_local(source):
        reporter.say(f"loading {source} (from the cache, or downloaded)")
    return clip_tower(_read(source, reporter))


def _read(source: str, reporter: Reporter) -> AnyClip:
    """Read the image tower of a CLIP, without building it if possible."""
    tower = read_tower(source)
    if tower is None:
        return _loaded(source, reporter)
    if tower.note is not None:
        reporter.say(tower.note)
    return tower


_SHARED: ContextVar[dict[str, LoadedClip] | None] = ContextVar("_SHARED", default=None)


@contextmanager
def shared_clips() -> Iterator[None]:
    """For a run of several steps: within this context every CLIP is loaded once, and each caller gets a copy of it."""
    token = _SHARED.set({})
    try:
        yield
    finally:
        _SHARED.reset(token)


def _loaded(source: str, reporter: Reporter) -> LoadedClip:
    shared = _SHARED.get()
    if shared is not None:
        if source not in shared:
            shared[source] = load_clip(source)
        return replace(shared[source], model=copy.deepcopy(shared[source].model))
    clip = load_clip(source)
    if clip.note is not None:
        reporter.say(clip.note)
    return clip


def _whole(clip: AnyClip) -> Tensors:
    """The tensors of the image tower by open_clip's names; packed projections are not split."""
    return arrays(clip.model.visual.state_dict()) if isinstance(clip, LoadedClip) else join_packed(clip.state)


def clip_tower(clip: AnyClip) -> Tower:
    """The tower of a CLIP, with nothing pruned."""
    built = clip.model.visual if isinstance(clip, LoadedClip) else None
    return replace(dense_tower(base_record(clip), _whole(clip), built), clip=clip)


def dense_tower(base: Base, state: Tensors, built: nn.Module | None = None) -> Tower:
    """A tower with nothing pruned, from tensors by their names. Raises SourceError if no layer can be pruned."""
    shapes = {name: array.shape for name, array in state.items()}
    found = {layer.name: layer for layer in tower_candidates(shapes)}
    layers = prunable(found.values(), base.architecture if built is None else type(built).__name__)
    masks = {layer: np.ones(found[layer].shape, np.bool_) for layer in layers}
    return Tower(base, split_packed(state), masks, built=built)


def bundle_tower(bundle: Bundle, *, base: str | None = None, reporter: Reporter = SILENT) -> Tower:
    """The tower of a bundle, dense, with exact zeros where it is pruned.

    With masks only, the values are those of its base, or of the source `base` if that moved. Raises SourceError or
    BundleError if its tensors are not those of its architecture.
    """
    clip = None if bundle.has(WEIGHTS) else _base_for(bundle, base, reporter)
    if clip is not None:
        bundle = with_base(bundle, _state(clip))
    state, masks = fit_state(bundle.tower(), bundle.manifest.base.model_cfg, origin=str(bundle.path)), bundle.masks()
    for layer, mask in masks.items():
        if f"{layer}.weight" not in state or state[f"{layer}.weight"].shape != mask.shape:
            raise BundleError(f"mask fits no layer of the tower: '{layer}' in {bundle.path}; write the bundle again")
    return Tower(bundle.manifest.base, state, masks, bundle, clip=clip)


def with_layers(tower: Tower, layers: Iterable[str]) -> Tower:
    """`tower` with masks for exactly these layers: its own masks, and all True for layers without one.

    Raises OptionError if that would drop a layer that a bundle has pruned.
    """
    layers = tuple(layers)
    forgotten = [layer for layer, mask in tower.masks.items() if layer not in layers and not mask.all()]
    if forgotten:
        raise OptionError(f"the pattern leaves out a layer that is pruned already: {forgotten[0]}; start from the base")
    fresh = {layer: np.ones(tower.state[f"{layer}.weight"].shape, np.bool_) for layer in layers}
    return replace(tower, masks={layer: tower.masks.get(layer, mask) for layer, mask in fresh.items()})


def load_text_clip(
    base: Base, override: str | None, reporter: Reporter, *, loaded: AnyClip | None = None
) -> LoadedClip:
    """The CLIP whose text tower belongs to `base`, from its own source, or from `override` if that has moved.

    loaded: the CLIP read for a tower of this base, used if it has the same source and is complete. Raises SourceError
    if the visual tower that is found is not the one from which the bundle was pruned.
    """
    source = override or base.source
    reporter.say(f"text tower: {source}")
    if isinstance(loaded, LoadedClip) and loaded.source == source:
        return loaded
    clip = _same(base, _loaded(source, reporter), source)
    resnet = isinstance(base.model_cfg["vision_cfg"].get("layers"), list)  # whose image tower has ReLU alone
    if not resnet and clip.model_cfg.get("quick_gelu", False) != base.model_cfg.get("quick_gelu", False):
        reporter.say(
            f"{source} has {clip.activation} where this bundle has {base.activation}: it was made before opentrans "
            "looked for the activation of published weights; prune again"
        )
    return clip


def base_tower(bundle: Bundle, override: str | None, reporter: Reporter) -> dict[str, np.ndarray]:
    """The dense tower of `bundle`'s base, one tensor for each layer, from its own source or `override` if that moved.

    Raises SourceError if it cannot be loaded or is a different tower.
    """
    return _state(_base_for(bundle, override, reporter))


def _state(clip: AnyClip) -> dict[str, np.ndarray]:
    return split_packed(_whole(clip))


def _base_for(bundle: Bundle, override: str | None, reporter: Reporter) -> AnyClip:
    source = override or bundle.manifest.base.source
    reporter.say(f"weights of the base: {source}")
    try:
        return _same(bundle.manifest.base, _read(source, reporter), source)
    except SourceError as error:
        problem = str(error).split("; ")[0]
        raise SourceError(f"{problem}; {bundle.path} needs the weights of its base, say with --base where") from error


def _same(base: Base, clip: Clip, source: str) -> Clip:
    """`clip`; raises SourceError if its image tower is not the one of `base`."""
    if tower_digest(_whole(clip)) != base.digest:
        raise SourceError(f"not the CLIP this bundle was cut from: {source}; name the right one with --base")
    return clip


def base_record(clip: AnyClip) -> Base:
    """The record in a bundle of the CLIP from which it was pruned."""
    p = clip.preprocess
    return Base(
        source=clip.source,
        architecture=clip.architecture,
        model_cfg=clip.model_cfg,
        digest=tower_digest(_whole(clip)),
        preprocess={
            "size": p.size,
            "mean": list(p.mean),
            "std": list(p.std),
            "interpolation": p.interpolation,
            "resize_mode": p.resize_mode,
        },
        activation=clip.activation,
    )
