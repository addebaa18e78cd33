"""|w| times the norm of the input it multiplies (Wanda, Sun et al. 2024), over images instead of text.

The paper compares weights within one output; here the pattern decides which scores are compared (`layerwise` is the
closest).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opentrans_cli.clip.layers import PARTS, layer_weight, layer_weights
from opentrans_cli.errors import OptionError
from opentrans_cli.sparsity.criteria.base import Criterion, Evidence, evaluating, sum_dtype


@torch.no_grad()
def wanda_scores(evidence: Evidence) -> dict[str, Tensor]:
    """|w| times the root of the mean square, over images and positions, of its input channel; float32.

    Raises OptionError for a layer whose input cannot be recorded (an attention pool's projections).
    """
    assert evidence.batches is not None
    weights = layer_weights(evidence.visual, evidence.layers)
    # All sums exist from the start: a process without batches must still take part in every sum.
    squares = {layer: _empty_squares(evidence.visual, layer) for layer in weights}
    counts = {layer: torch.zeros((), dtype=torch.float64) for layer in weights}

    def see(layer: str, inputs: Tensor) -> None:
        # Inputs are (B, C, H, W) for convolutions and (..., C) for linear layers, also (B, H, W, C): the weight
        # decides.
        channel = 1 if weights[layer].ndim == 4 else inputs.ndim - 1
        others = [axis for axis in range(inputs.ndim) if axis != channel]
        norms = torch.linalg.vector_norm(inputs, dim=others, dtype=squares[layer].dtype)
        squares[layer] += norms.square()
        counts[layer] += inputs.numel() // len(norms)

    with _watching(evidence, see):
        for _, batch in evidence.batches():
            evidence.readout(batch)
    scores = {}
    for layer, weight in weights.items():
        evidence.total(squares[layer])
        evidence.total(counts[layer])
        if not counts[layer]:
            raise OptionError(f"wanda cannot see the input of this layer: {layer}; leave it out, or choose fisher")
        norm = (squares[layer] / float(counts[layer])).sqrt().float()
        scores[layer] = weight.float().abs() * _by_weight(norm, weight)
    return scores


def _empty_squares(visual: nn.Module, layer: str) -> Tensor:
    """Zeros for the input channels of a layer, those of all groups of a convolution."""
    weight = layer_weight(visual, layer)
    groups = visual.get_submodule(layer).groups if weight.ndim == 4 else 1
    assert isinstance(groups, int)
    return torch.zeros(weight.shape[1] * groups, dtype=sum_dtype(weight), device=weight.device)


def _by_weight(norm: Tensor, weight: Tensor) -> Tensor:
    """Norms of input channels (I,) in a form that multiplies the weight (O, I / groups, ...)."""
    outputs, inputs = weight.shape[:2]
    groups = len(norm) // inputs
    rows = norm.reshape(groups, inputs).repeat_interleave(outputs // groups, 0)
    return rows.reshape(outputs, inputs, *(1 for _ in weight.shape[2:]))


@contextmanager
def _watching(evidence: Evidence, see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call `see` with every layer's input; inside, the tower is in eval mode."""
    visual = evidence.visual
    with ExitStack() as stack:
        stack.enter_context(evaluating(visual))
        for layer in evidence.layers:
            owner, _, leaf = layer.rpartition(".")
            parent = visual.get_submodule(owner)
            packed = isinstance(parent, nn.MultiheadAttention) and parent.in_proj_weight is not None
            watch = _attention_hook if packed else _plain_hook
            module = parent if packed else visual.get_submodule(layer)
            handle = module.register_forward_pre_hook(watch(layer, leaf, see), with_kwargs=True)
            stack.callback(handle.remove)
        yield


def _plain_hook(layer: str, _leaf: str, see: Callable[[str, Tensor], None]) -> Callable[..., None]:
    return lambda module, args, kwargs: see(layer, args[0] if args else next(iter(kwargs.values())))


def _attention_hook(layer: str, leaf: str, see: Callable[[str, Tensor], None]) -> Callable[..., None]:
    """torch's attention calls no submodule, so this hook on it takes, or computes, the inputs of its parts."""

    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        inputs = [named[name] for name in ("query", "key", "value")]
        see(layer, inputs[PARTS.index(leaf)] if leaf in PARTS else _attended(module, inputs, named.get("attn_mask")))

    return hook


def _attended(module: nn.MultiheadAttention, inputs: list[Tensor], mask: Tensor | None) -> Tensor:
    """The input of `out_proj`: all heads joined, (B, L, E)."""
    batched = [x if module.batch_first else x.transpose(0, 1) for x in inputs]
    weights = module.in_proj_weight.chunk(3)
    biases = module.in_proj_bias.chunk(3) if module.in_proj_bias is not None else (None, None, None)
    parts = [F.linear(x, w, b) for x, w, b in zip(batched, weights, biases, strict=True)]
    query, key, value = (part.unflatten(-1, (module.num_heads, -1)).transpose(1, 2) for part in parts)
    if mask is not None and mask.dtype is torch.bool:
        mask = ~mask  # True forbids attention here and allows it in scaled_dot_product_attention
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)


WANDA = Criterion("wanda", needs_images=True, score=wanda_scores)
