"""Multiply-accumulates (MACs) of training, by layer and by part: forward, gradient of inputs, gradient of
weights.

Counted where torch multiplies, by autograd's rules: an input gradient is computed only if something below
needs it, a weight gradient only if the weight is trained. Included: convolutions, linear layers, matrix
products. Not included: BatchNorm, activations, pooling, interpolation, the optimizer. FLOPs are twice the
MACs. MACs are not time: whether a zero saves anything depends on the kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from opentrans_cli.errors import TrainingError
from opentrans_cli.training.costs.attention import Product, multi_head_attention, scaled_dot_product


@dataclass(frozen=True)
class LayerCost:
    """Dense MACs of one layer for the inputs that were counted."""

    name: str  # name of the layer, or of the module that multiplied two activations
    forward: int
    input_gradient: int  # `forward`, or 0 if no gradient flows below; of attention up to twice `forward`
    weight_gradient: int  # `forward`, or 0 if frozen
    kept_fraction: float = 1.0  # kept weights / all weights, in [0, 1]


def count_macs(
    model: nn.Module,
    *shapes: tuple[int, ...],
    arguments: Callable[..., tuple[Any, ...]] | None = None,
    kept: Mapping[str, float] | None = None,
) -> tuple[LayerCost, ...]:
    """Dense cost by layer, in the order of first use, of one forward and backward pass.

    shapes: of the model's inputs, float32, which need no gradient; with one image, the cost is per image.
    arguments: what the model is called with, from tensors of these shapes, where it is more than the tensors.
    kept: kept fraction by layer, where it is not 1; layers that take part in no product cost nothing.

    Runs on torch's meta device: no memory, no arithmetic, and `model` does not change. Raises TrainingError
    for a product without a formula.
    """
    tensors = {
        name: torch.empty_like(tensor, device="meta").requires_grad_(tensor.requires_grad)
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    }
    inputs = tuple(torch.empty(shape, device="meta") for shape in shapes)
    with torch.enable_grad(), _recording(model, tensors) as recorder:
        torch.func.functional_call(model, tensors, arguments(*inputs) if arguments else inputs)
    kept = kept or {}
    return tuple(
        LayerCost(name, forward, inputs_needed, weights_needed, kept.get(name, 1.0))
        for name, (forward, inputs_needed, weights_needed) in recorder.costs.items()
    )


@contextmanager
def forward_macs(model: nn.Module) -> Iterator[dict[str, int]]:
    """Dense MACs by layer of the forward passes of `model` inside the block, added up; names as in `count_macs`.

    This counts passes that run anyway: it computes nothing extra and does not need the meta device, for which torch
    imports its compiler. Raises TrainingError for a product without a formula.
    """
    fast, found = torch.backends.mha.get_fastpath_enabled(), dict[str, int]()
    torch.backends.mha.set_fastpath_enabled(False)  # on it attention is one call without visible products
    try:
        with _recording(model, dict([*model.named_parameters(), *model.named_buffers()])) as recorder:
            yield found
        found |= {name: forward for name, (forward, _, _) in recorder.costs.items()}
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _recording(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[_Recorder]:
    """Record the products of the forward passes inside; `tensors` are the parameters and buffers they use."""
    names = {id(tensor): name.removesuffix(".weight") for name, tensor in tensors.items()}
    with _module_path(model) as path, _Recorder(names, path) as recorder:
        yield recorder


# The number of multiply-accumulates of a product, from its two operands and its result.


def _convolution(_input: Tensor, weight: Tensor, result: Tensor) -> int:
    return result.numel() * weight[0].numel()


def _inner(left: Tensor, _right: Tensor, result: Tensor) -> int:
    return result.numel() * left.shape[-1]


def _einsum(equation: str, left: Tensor, right: Tensor) -> int:
    """Every combination of all indices is one product, for an equation without "..."."""
    sizes: dict[str, int] = {}
    for names, operand in zip(equation.replace(" ", "").partition("->")[0].split(","), (left, right), strict=True):
        sizes |= dict(zip(names, operand.shape, strict=True))
    return math.prod(sizes.values())


_EINSUM_OF_TWO = 3  # arguments: the equation and two operands; one operand multiplies nothing

_FORMULAS: dict[Any, Callable[[Tensor, Tensor, Tensor], int]] = {
    torch.conv1d: _convolution,
    torch.conv2d: _convolution,
    F.linear: _inner,
    torch.matmul: _inner,
    torch.mm: _inner,
    torch.bmm: _inner,
    torch.Tensor.matmul: _inner,
    torch.Tensor.__matmul__: _inner,
    torch.Tensor.mm: _inner,
    torch.Tensor.bmm: _inner,
}

_NO_FORMULA = {
    torch.conv3d,
    torch.conv_transpose1d,
    torch.conv_transpose2d,
    torch.conv_transpose3d,
    torch.tensordot,
    torch.inner,
    torch.dot,
    torch.mv,
    torch.addmm,
    torch.addbmm,
    torch.baddbmm,
    torch.linalg.matmul,
    torch.linalg.multi_dot,
    torch.Tensor.__rmatmul__,
    F.bilinear,
}

_ATTENTION: dict[Any, Callable[..., Iterator[Product]]] = {
    F.multi_head_attention_forward: multi_head_attention,
    F.scaled_dot_product_attention: scaled_dot_product,
}


class _Recorder(TorchFunctionMode):
    """Adds up, by layer, the products torch is asked for."""

    def __init__(self, names: Mapping[int, str], path: list[str]) -> None:
        super().__init__()
        self.names, self.path = names, path
        self.costs: dict[str, tuple[int, int, int]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _NO_FORMULA or (func is torch.einsum and len(args) > _EINSUM_OF_TWO):
            raise TrainingError(
                f"no formula for the cost of {func.__name__}: module '{self.path[-1]}'; add one to macs.py"
            )
        if func in _FORMULAS or (func is torch.einsum and len(args) == _EINSUM_OF_TWO):
            left, right = _operands(args[1:] if func is torch.einsum else args, kwargs or {})
            macs = _einsum(args[0], left, right) if func is torch.einsum else _FORMULAS[func](left, right, result)
            name = self.names.get(id(right), self.path[-1])
            self._add(Product(name, macs, macs * left.requires_grad, macs * right.requires_grad))
        elif func in _ATTENTION:
            for product in _ATTENTION[func](self.path[-1], self._name_of, *args, **(kwargs or {})):
                self._add(product)
        return result

    def _add(self, product: Product) -> None:
        # Under no_grad an operand can still say that it requires a gradient, although this product passes none to it.
        backward = torch.is_grad_enabled()
        before = self.costs.get(product.name, (0, 0, 0))
        self.costs[product.name] = (
            before[0] + product.forward,
            before[1] + product.input_gradient * backward,
            before[2] + product.weight_gradient * backward,
        )

    def _name_of(self, parameter: Tensor) -> str | None:
        return self.names.get(id(parameter))


def _operands(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    named = [kwargs[key] for key in ("input", "self", "weight", "other", "mat2") if key in kwargs]
    left, right, *_ = [*args, *named]
    return left, right


@contextmanager
def _module_path(model: nn.Module) -> Iterator[list[str]]:
    """A stack whose last element is the name of the module that is running."""
    path = [""]

    def leave(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        path.pop()

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda _m, _i, name=name: path.append(name)))
        handles.append(module.register_forward_hook(leave))
    try:
        yield path
    finally:
        for handle in handles:
            handle.remove()
