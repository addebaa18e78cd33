"""The weights of a CLIP image tower that can be pruned, found in the module tree: nothing is listed by hand.

A layer is a module with a weight of two or more dimensions. The packed input projection of `nn.MultiheadAttention`
(`in_proj_weight`, three matrices in one parameter) counts as three layers beside its `out_proj`, named as torch and
Hugging Face name them where they are apart: `<attention>.q_proj`, `.k_proj`, `.v_proj`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.errors import OptionError, SourceError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor, nn

Array = TypeVar("Array", "NDArray[np.generic]", "Tensor")
Shapes = Mapping[str, tuple[int, ...]]

PACKED = "in_proj_weight"
PARTS = ("q_proj", "k_proj", "v_proj")

# These layers map into the joint embedding space, and the paper does not prune them (Sec. 3.2).
_OUTPUT_HEADS = ("attnpool", "head", "attn_pool")
_TRUNK = "trunk."  # open_clip keeps a timm tower under this name; some have their head inside it


@dataclass(frozen=True)
class Candidate:
    """A layer that could be pruned, and whether it is by default."""

    name: str
    shape: tuple[int, ...]  # of its weight: (O, I, kh, kw) or (O, I)
    reason: str | None  # why it is not pruned by default; None: it is pruned

    @property
    def total(self) -> int:
        """Number of its weights."""
        return math.prod(self.shape)


def convolutions(visual: nn.Module) -> tuple[str, ...]:
    """Full dotted names of all Conv2d layers, in module order."""
    from torch import nn

    return tuple(name for name, module in visual.named_modules() if isinstance(module, nn.Conv2d))


def candidates(visual: nn.Module) -> tuple[Candidate, ...]:
    """Every convolution, linear layer and packed attention part of a module, in module order.

    By default all are pruned except the input layer (the first convolution) and the output head (an attention pool, a
    timm tower's `head`), as in OpenTrans, arXiv 2404.07448, Sec. 3.2; here this also applies to other kinds of towers.
    """
    return _judged((name, tuple(layer_weight(visual, name).shape)) for name in _layer_names(visual))


def tower_candidates(shapes: Shapes) -> tuple[Candidate, ...]:
    """The same as `candidates` for an image tower, from the names and shapes of its tensors, in their order."""
    layers = split_shapes(shapes).items()
    return _judged((name.removesuffix(".weight"), shape) for name, shape in layers if _is_layer(name, shape))


def _judged(layers: Iterable[tuple[str, tuple[int, ...]]]) -> tuple[Candidate, ...]:
    found: list[Candidate] = []
    for name, shape in layers:
        reason = None
        if not any(candidate.reason == "input layer" for candidate in found) and len(shape) == 4:
            reason = "input layer"
        elif name.removeprefix(_TRUNK).split(".")[0] in _OUTPUT_HEADS:
            reason = "output head"
        found.append(Candidate(name, shape, reason))
    return tuple(found)


def _layer_names(visual: nn.Module) -> Iterator[str]:
    from torch import nn

    for name, module in visual.named_modules():
        if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            yield from (f"{name}.{part}" for part in PARTS)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            yield name


def _is_layer(name: str, shape: tuple[int, ...]) -> bool:
    return name.endswith(".weight") and len(shape) in (2, 4)


def split_shapes(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The shapes that a state has after `split_packed`."""
    apart: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        owner, _, leaf = name.rpartition(".")
        if leaf == PACKED:
            apart |= {f"{owner}.{part}.weight": (shape[0] // len(PARTS), *shape[1:]) for part in PARTS}
        else:
            apart[name] = shape
    return apart


def choose_layers(
    found: Iterable[Candidate], *, include: Iterable[str] = (), exclude: Iterable[str] = ()
) -> tuple[str, ...]:
    """Names of the layers to prune: the default ones; `include` adds layers and `exclude` removes them.

    Both hold glob patterns over whole names (`attnpool.*`); exclude wins. Raises OptionError for a pattern that
    matches no layer, and if no layer is left.
    """
    found = tuple(found)
    include, exclude = tuple(include), tuple(exclude)
    for option, patterns in (("--include", include), ("--exclude", exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(candidate.name, pattern) for candidate in found):
                near = did_you_mean(pattern, [candidate.name for candidate in found])
                raise OptionError(f"no layer is called so: {option} {pattern}; list them with --dry-run{near}")
    chosen = tuple(
        candidate.name
        for candidate in found
        if (candidate.reason is None or _matches(candidate.name, include)) and not _matches(candidate.name, exclude)
    )
    if not chosen:
        raise OptionError("no layer is left to prune: --exclude takes them all; leave some")
    return chosen


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def prunable_layers(visual: nn.Module) -> tuple[str, ...]:
    """The layers that are pruned by default, in module order. Raises SourceError for a tower without any."""
    return prunable(candidates(visual), type(visual).__name__)


def prunable(found: Iterable[Candidate], tower: str) -> tuple[str, ...]:
    """The names of the layers pruned by default. Raises SourceError, naming the `tower`, if there are none."""
    layers = tuple(candidate.name for candidate in found if candidate.reason is None)
    if not layers:
        raise SourceError(f"no prunable layer in this tower: {tower}; use a CLIP image tower")
    return layers


def locate(module: nn.Module, layer: str) -> tuple[str, slice]:
    """Where a layer's weight is: the name of the parameter and its rows there.

    Raises KeyError if `module` has no such layer.
    """
    from torch import Tensor, nn

    owner, _, part = layer.rpartition(".")
    try:
        if part in PARTS:
            attention = module.get_submodule(owner)
            if isinstance(attention, nn.MultiheadAttention) and attention.in_proj_weight is not None:
                rows, first = attention.embed_dim, PARTS.index(part) * attention.embed_dim
                return f"{owner}.{PACKED}".removeprefix("."), slice(first, first + rows)
        weight = module.get_submodule(layer).weight
    except AttributeError:
        weight = None
    if not isinstance(weight, Tensor):
        raise KeyError(layer)
    return f"{layer}.weight", slice(None)


def has_layer(module: nn.Module, layer: str) -> bool:
    """Whether `module` has this layer."""
    try:
        locate(module, layer)
    except KeyError:
        return False
    return True


def whole_projections(module: nn.Module, names: Collection[str]) -> set[str]:
    """`names` without the parts of a packed projection whose other two parts are not all listed.

    The three parts are one parameter with one gradient, so one part cannot be frozen or saved alone. Other names,
    whether layers or not, stay.
    """
    given = set(names)
    return {
        name
        for name in given
        if not has_layer(module, name)
        or locate(module, name)[1] == slice(None)
        or {f"{name.rpartition('.')[0]}.{part}" for part in PARTS} <= given
    }


def layer_weight(module: nn.Module, layer: str) -> Tensor:
    """The weight of a layer, (O, I, kh, kw) or (O, I), detached: a view of the parameter itself, not a copy.

    Writing to it changes the module. When the module moves to another device, the view does not follow. Raises KeyError
    if there is no such layer.
    """
    name, rows = locate(module, layer)
    return module.get_parameter(name).detach()[rows]


def layer_weights(module: nn.Module, layers: Iterable[str]) -> dict[str, Tensor]:
    """The weights of several layers, by name; see `layer_weight`."""
    return {layer: layer_weight(module, layer) for layer in layers}


def layer_gradient(module: nn.Module, layer: str) -> Tensor | None:
    """The gradient of a layer's weight, in its shape; None if there is none yet."""
    name, rows = locate(module, layer)
    gradient = module.get_parameter(name).grad
    return None if gradient is None else gradient[rows]


def split_packed(state: Mapping[str, Array]) -> dict[str, Array]:
    """`state` with every packed input projection as three weights: bundles hold a tower so, one tensor per layer."""
    apart: dict[str, Array] = {}
    for name, array in state.items():
        owner, _, leaf = name.rpartition(".")
        if leaf == PACKED:
            rows = len(array) // len(PARTS)
            apart |= {f"{owner}.{part}.weight": array[at * rows : (at + 1) * rows] for at, part in enumerate(PARTS)}
        else:
            apart[name] = array
    return apart


def join_packed(state: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    """The reverse of `split_packed`; projections without an `in_proj_bias` beside them, as in a ResNet's attention
    pool, were never packed and stay separate.
    """
    joined: dict[str, NDArray[np.generic]] = {}
    for name, array in state.items():
        owner, _, leaf = name.removesuffix(".weight").rpartition(".")
        parts = [f"{owner}.{part}.weight" for part in PARTS]
        # If keys and queries differ in width, torch keeps the projections separate: nothing is to be joined.
        if name not in parts or f"{owner}.in_proj_bias" not in state or not state.keys() >= set(parts):
            joined[name] = array
        elif (
            leaf == PARTS[0]
        ):  # the joined tensor takes the place of the first, so that tensors keep the order of modules
            joined[f"{owner}.{PACKED}"] = np.concatenate([state[part] for part in parts])
    return joined


def arrays(state: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Tensors of torch as contiguous arrays on the CPU, of the same shapes."""
    # np.ascontiguousarray is not used here: it would give BatchNorm's counter, a scalar, one dimension.
    return {name: np.asarray(value.detach().cpu().numpy(), order="C") for name, value in state.items()}


def tensors(state: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Arrays as tensors of torch that own their memory."""
    import torch

    return {name: torch.from_numpy(np.array(value)) for name, value in state.items()}


def batchnorm_of(visual: nn.Module, layer: str) -> str | None:
    """Name of the BatchNorm that normalises the output of `layer`; None if there is none."""
    from torch import nn

    name = batchnorm_beside(layer)
    module = dict(visual.named_modules()).get(name)
    return name if isinstance(module, nn.BatchNorm2d) else None


def batchnorm_beside(layer: str) -> str:
    """The name of the BatchNorm after `layer`, if it has one.

    In CLIP's ResNets `convN` is followed by `bnN` beside it, and a downsample convolution (child "0") by child "1".
    """
    parent, dot, leaf = layer.rpartition(".")
    return parent + dot + ("1" if leaf == "0" else leaf.replace("conv", "bn"))
