"""MACs of attention: its projections, its scores, and the weighted sum of its values.

They are counted as separate products, as torch defines attention. A fused kernel that computes the scores a second time
in its backward pass does more than this.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

PACKED = "in_proj_weight"


class Product(NamedTuple):
    """MACs of one product, or of two products with the same name."""

    name: str
    forward: int
    input_gradient: int
    weight_gradient: int


NameOf = Callable[[Tensor], str | None]
"""The full name of a parameter without `.weight`; None for any other tensor."""


def scaled_dot_product(
    module: str, _name_of: NameOf, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **named: Any
) -> Iterator[Product]:
    """`F.scaled_dot_product_attention`: query (..., L, E), key (..., S, E), value (..., S, V), named after `module`."""
    mask = rest[0] if rest else named.get("attn_mask")
    pairs = query.numel() // query.shape[-1] * key.shape[-2]
    yield _attention(
        module,
        (pairs * query.shape[-1], pairs * value.shape[-1]),
        (query.requires_grad, key.requires_grad, value.requires_grad),
        mask_needed=isinstance(mask, Tensor) and mask.requires_grad,
    )


def multi_head_attention(module: str, name_of: NameOf, *args: Any, **kwargs: Any) -> Iterator[Product]:
    """`F.multi_head_attention_forward`: query (L, B, E) or (L, E), key and value (S, B, ...).

    A packed input projection counts as `<attention>.q_proj`, `.k_proj` and `.v_proj`. Its weight gradient is one
    product, so all three have it or none.
    """
    call = inspect.signature(F.multi_head_attention_forward).bind(*args, **kwargs)
    call.apply_defaults()
    given = call.arguments
    inputs = [given[name] for name in ("query", "key", "value")]
    needed = []
    for part, tensor in zip("qkv", inputs, strict=True):
        weight = given[f"{part}_proj_weight"] if given["use_separate_proj_weight"] else given[PACKED]
        macs = tensor.numel() * given["embed_dim_to_check"]
        name = _projection(name_of(weight) or f"{module}.{PACKED}", part)
        yield Product(name, macs, macs * tensor.requires_grad, macs * weight.requires_grad)
        needed.append(_any_needed(tensor, weight, given["in_proj_bias"], given.get(f"bias_{part}")))
    query, key, _ = inputs
    extra = (given["bias_k"] is not None) + given["add_zero_attn"]
    macs = query.numel() * (key.shape[0] + extra)
    yield _attention(
        module, (macs, macs), (needed[0], needed[1], needed[2]), mask_needed=_any_needed(given["attn_mask"])
    )
    weight = given["out_proj_weight"]
    macs = query.numel() * weight.shape[0]
    yield Product(name_of(weight) or f"{module}.out_proj", macs, macs * any(needed), macs * weight.requires_grad)


def _projection(parameter: str, part: str) -> str:
    """The layer `part` ("q", "k" or "v") of attention, however torch keeps its weight."""
    owner, dot, leaf = parameter.rpartition(".")
    return f"{owner}{dot}{part}_proj" if leaf in (PACKED, f"{part}_proj_weight") else parameter


def _attention(name: str, macs: tuple[int, int], needed: tuple[bool, bool, bool], *, mask_needed: bool) -> Product:
    """The costs of scores and weighted sum, from their MACs and from which of query, key and value need a gradient.

    No operand is a weight, so every gradient is one of inputs: up to twice the forward pass.
    """
    (scores, mix), (query, key, value) = macs, needed
    gradients = scores * (query + key) + mix * ((query or key or mask_needed) + value)
    return Product(name, scores + mix, gradients, 0)


def _any_needed(*tensors: Tensor | None) -> bool:
    return any(tensor.requires_grad for tensor in tensors if tensor is not None)
