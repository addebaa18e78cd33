"""apply: put a subnet on any model and hold its masks in any training loop.

    subnet = apply("my-bundle", model)   # the removed weights are zero
    subnet.hold(optimizer)                # and zero again after every step
    ...                                   # training
    subnet.bake()                         # checked a last time; hooks are gone

None of this has to be saved: the masks are in the bundle, and checkpoints are ordinary ones that have zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from opentrans_cli.bundle.hub.source import local_bundle
from opentrans_cli.bundle.rounds import at_round, find_round
from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.clip.key_tables import Found, Place, find_tower_layers, laid_out
from opentrans_cli.clip.layers import tensors
from opentrans_cli.errors import MaskError, OptionError, TransferError, unknown
from opentrans_cli.reporter import LOGGED, Reporter
from opentrans_cli.sparsity.masking import Held, fill, first_regrown
from opentrans_cli.sparsity.patterns.base import pattern_for
from opentrans_cli.steps.sources import tower_at_sparsity

KEEP, SUBNET = "keep", "subnet"
_NEXT = "pass the model that holds the bundle's kind of CLIP tower, or say where with keys= and under="


@dataclass(frozen=True)
class Attached:
    """Where the subnet is in the model."""

    keys: str  # the key table that fits the names of its tensors
    prefix: str  # of the names of its tensors
    layers: tuple[str, ...]  # by their names in the bundle
    sparsity: float  # removed / prunable, exact
    left_out: tuple[str, ...]  # with weights="subnet": tensors of the tower that the model has no place for


class Subnet:
    """Masks on a model; made by `apply`. As a context manager it bakes at the end, or detaches after an error."""

    def __init__(self, where: Attached, held: Iterable[Held]) -> None:
        self.where = where
        self._held = tuple(held)
        self._hooks: dict[int, tuple[Any, list[RemovableHandle]]] = {}  # by id of the optimizer, which is kept alive

    @property
    def sparsity(self) -> float:
        """Removed / prunable weights, exact."""
        return self.where.sparsity

    def hold(self, *optimizers: Any, check_every: int = 0) -> Subnet:
        """Set the removed weights to zero after every step of the optimizers; returns itself.

        Takes optimizers of torch, and wrappers that have one as `.optimizer` (mmengine's, accelerate's). With
        `check_every` N there is a check before every N-th step. Raises MaskError if a removed weight is not zero now or
        at such a check, OptionError for an object that is no optimizer.
        """
        self.check()
        for given in optimizers:
            optimizer = _innermost(given)
            if id(optimizer) in self._hooks:
                continue
            hooks: list[RemovableHandle] = [optimizer.register_step_post_hook(self._after_step)]
            if check_every:
                hooks.append(optimizer.register_step_pre_hook(self._checker(check_every)))
            self._hooks[id(optimizer)] = optimizer, hooks
        return self

    def apply(self) -> None:
        """Set the removed weights to zero now, for example after loading a checkpoint with other values."""
        fill(self._held)

    def check(self) -> None:
        """Raise MaskError, naming the layer, if a removed weight is not exactly zero; it waits for the accelerator."""
        layer = first_regrown(self._held)
        if layer is not None:
            raise MaskError(
                f"pruned weights are no longer zero: {layer}; something other than a held optimizer wrote to it, see "
                "Subnet.hold and Subnet.apply"
            )

    def detach(self) -> None:
        """Remove the hooks from the optimizers; the weights stay as they are, and `hold` may be called again."""
        for _, hooks in self._hooks.values():
            for hook in hooks:
                hook.remove()
        self._hooks.clear()

    def bake(self) -> None:
        """End the training: check, write zeros without sign, detach. Raises MaskError as `check` does, before anything
        changes.
        """
        self.check()
        self.apply()
        self.detach()

    def __enter__(self) -> Subnet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.bake()
        else:
            self.detach()

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        fill(self._held)

    def _checker(self, every: int) -> Callable[[Any, Any, Any], None]:
        steps = 0

        def before_step(optimizer: Any, args: Any, kwargs: Any) -> None:
            nonlocal steps
            steps += 1
            if steps % every == 0:
                self.check()

        return before_step


def apply(
    bundle: Bundle | Path | str,
    model: nn.Module,
    *,
    reporter: Reporter | None = None,
    weights: str = KEEP,
    at_sparsity: float | None = None,
    base: str | None = None,
    keys: str | None = None,
    under: str | None = None,
) -> Subnet:
    """Find the bundle's tower in `model`, with any library's names, and set the removed weights to zero.

    bundle: opened, a folder, or hf://org/name[@revision]. weights: "keep" the model's values of kept weights, or take
    those of the "subnet" and all other tensors of its tower; `base` is where the bundle's base is now, if it has masks
    only. at_sparsity: an earlier round of the bundle. keys, under: the key table and the prefix, if several
    towers fit. Raises TransferError if the tower is not there or a layer has no place, before anything is changed;
    OptionError, BundleError, HubError or SourceError for what cannot be read.
    """
    reporter = reporter or LOGGED
    if weights not in (KEEP, SUBNET):
        raise OptionError(unknown("weights", weights, (KEEP, SUBNET)))
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(local_bundle(bundle, reporter))
    values: Mapping[str, Tensor] = {}
    if weights == SUBNET:
        tower = tower_at_sparsity(opened, at_sparsity, base=base, reporter=reporter)
        assert tower.bundle is not None
        opened, values = tower.bundle, tensors(tower.bundle.tower())
    elif at_sparsity is not None:
        opened = at_round(opened, find_round(opened, at_sparsity), target=at_sparsity)
    found = _found(opened, model, keys, under)
    held = (*_layers(opened, model, found), *_coupled(opened, model, found))
    left_out = tuple(_copy(values, model, found))
    fill(held)
    manifest = opened.manifest
    layers = tuple(layer.name for layer in manifest.layers)
    return Subnet(Attached(found.table.name, found.prefix, layers, manifest.achieved_sparsity, left_out), held)


attach = apply
"""The name that `apply` had first."""


def _innermost(given: Any) -> Any:
    """The torch optimizer inside any wrappers."""
    optimizer = given
    while not isinstance(optimizer, torch.optim.Optimizer) or hasattr(optimizer, "optimizer"):
        if not hasattr(optimizer, "optimizer"):
            raise OptionError(f"not an optimizer of torch: {type(given).__name__}; pass the one whose step() is called")
        optimizer = optimizer.optimizer
    return optimizer


def _found(bundle: Bundle, model: nn.Module, keys: str | None, under: str | None) -> Found:
    shapes = {name: tuple(tensor.shape) for name, tensor in _tensors(model)}
    layers = {layer.name: layer.shape for layer in bundle.manifest.layers}
    return find_tower_layers(layers, shapes, where="the model", table=keys, under=under, next_move=_NEXT)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _layers(bundle: Bundle, model: nn.Module, found: Found) -> Iterator[Held]:
    for layer, mask in bundle.masks().items():
        place = found.layers[layer]
        yield _held(layer, model, found, place, torch.from_numpy(mask))


def _coupled(bundle: Bundle, model: nn.Module, found: Found) -> Iterator[Held]:
    """Parameters coupled with removed channels; for a tensor that the model does not have, nothing is held."""
    pattern = pattern_for(bundle.manifest.pattern, bundle.manifest.base.model_cfg)
    for name, mask in pattern.coupled(bundle.masks()).items():
        for place, part in _parts(found, name, torch.from_numpy(mask)):
            yield _held(name, model, found, place, part)


def _held(name: str, model: nn.Module, found: Found, place: Place, mask: Tensor) -> Held:
    owner, _, leaf = place.key.rpartition(".")
    rows = found.rows(place)
    held = Held(name, model.get_submodule(owner), leaf, ~laid_out(mask, place), rows)
    if hasattr(held.parameter, "device_mesh"):
        raise TransferError(f"parameter is spread over processes: '{place.key}'; masks hold under DDP, not under FSDP")
    return held


def _parts(found: Found, name: str, tensor: Tensor) -> Iterator[tuple[Place, Tensor]]:
    """The place of the tensor `name` of the tower, or of each of its parts; none if the model has no place for it."""
    places = found.places(name, tuple(tensor.shape))
    if places:
        yield from zip(places, tensor.chunk(len(places)) if len(places) > 1 else (tensor,), strict=True)


@torch.no_grad()
def _copy(values: Mapping[str, Tensor], model: nn.Module, found: Found) -> Iterator[str]:
    """Copy the tensors of a tower into the model, and yield the names of those without a place of the same shape."""
    there = dict(_tensors(model))
    for name, value in values.items():
        parts = tuple(_parts(found, name, value))
        for place, part in parts:
            target, rows = there[place.key], found.rows(place)
            (target if rows is None else target[rows]).copy_(laid_out(part, place))
        if not parts:
            yield name
