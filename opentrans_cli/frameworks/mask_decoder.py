"""Mask2Former's pixel decoder and masked-attention decoder, the head of FC-CLIP, Han et al. and Mask2Former itself.

After Cheng et al. 2022 (arXiv 2112.01527, Sec. 3). The modules of transformers hold the parameters; the forward pass is
written here. It gives the same numbers, leaves out work that is not needed (masks of early layers, attention weights),
and never depends on values, so that it runs on the meta device in training mode as well.
Shapes: B images, Q queries, d width, m mask width, H W pixels, h w cells; levels are coarse to fine, strides 32 16 8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opentrans_cli.errors import OptionError
from opentrans_cli.frameworks.deformable import deformable_attention

STRIDE = 32  # pixels per cell of the coarsest features: sides of images have to be multiples
MASK_STRIDE = 4  # pixels per cell of a mask
_GROUPS = 32  # of the pixel decoder's GroupNorms
_LEVELS = 3


@dataclass(frozen=True)
class DecoderSizes:
    """The defaults are those of all three papers but for the queries: 250 in FC-CLIP, 100 in the others.

    Raises OptionError if the sizes do not fit each other.
    """

    width: int = 256  # channels of both decoders, a multiple of 32 and of the heads
    mask_width: int = 256  # channels of mask embeddings and mask features
    heads: int = 8
    queries: int = 100
    encoder_layers: int = 6  # deformable attention over the pixels
    decoder_layers: int = 9  # masked attention of the queries
    encoder_ffn: int = 1024
    decoder_ffn: int = 2048

    def __post_init__(self) -> None:
        if self.width < 1 or self.width % _GROUPS or self.heads < 1 or self.width % self.heads:
            raise OptionError(
                f"the mask decoder cannot be this wide: {self.width} with {self.heads} heads; "
                f"give a multiple of {_GROUPS} and of the heads"
            )
        if min(self.queries, self.encoder_layers, self.decoder_layers) < 1:
            raise OptionError(
                f"the mask decoder needs queries and layers: {self.queries} queries, {self.encoder_layers} and "
                f"{self.decoder_layers} layers; give at least 1 of each"
            )


class DecoderOutput(NamedTuple):
    """What the queries found, by decoder layer.

    The last entry is the result. The earlier ones are there only on request; the first is from before layer 1.
    """

    states: tuple[Tensor, ...]  # (B, Q, d), normalised
    mask_logits: tuple[Tensor, ...]  # (B, Q, H/4, W/4)
    mask_features: Tensor  # (B, m, H/4, W/4)


class MaskDecoder(nn.Module):
    """Features of a trunk -> queries and their masks. Initialised as transformers does, from the global generator.

    channels: of the features of strides 4, 8, 16, 32.
    """

    def __init__(self, channels: Sequence[int], sizes: DecoderSizes | None = None) -> None:
        super().__init__()
        self.sizes = sizes = sizes or DecoderSizes()
        self.pixel_decoder, self.transformer_module = _build(channels, sizes)

    def forward(self, features: Sequence[Tensor], *, all_layers: bool | None = None) -> DecoderOutput:
        """Features (B, C, H/s, W/s) of strides s = 4, 8, 16, 32, each of them twice as large as the next.

        all_layers: whether `states` and `mask_logits` have the earlier layers too; by default in training mode only.
        """
        levels, mask_features = self.decode_pixels(features)
        return self.decode_queries(
            levels, mask_features, all_layers=self.training if all_layers is None else all_layers
        )

    def decode_pixels(self, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Levels (B, d, H/s, W/s), s = 32, 16, 8, and mask features (B, m, H/4, W/4)."""
        decoder: Any = self.pixel_decoder
        fine, *rest = features
        projected = [project(x) for project, x in zip(decoder.input_projections, reversed(rest), strict=True)]
        shapes = [(int(x.shape[2]), int(x.shape[3])) for x in projected]
        places = torch.cat(
            [_sine_positions(x) + level for x, level in zip(projected, decoder.level_embed, strict=True)], 0
        )
        reference = _reference_points(shapes, projected[0])
        x = torch.cat([level.flatten(2).transpose(1, 2) for level in projected], 1)
        for layer in decoder.encoder.layers:
            attended = deformable_attention(layer.self_attn, x, places, reference, shapes)
            x = layer.self_attn_layer_norm(x + attended)
            x = layer.final_layer_norm(x + layer.fc2(F.relu(layer.fc1(x))))
        parts = x.split([height * width for height, width in shapes], 1)
        levels = [part.transpose(1, 2).unflatten(2, shape) for part, shape in zip(parts, shapes, strict=True)]
        lateral = decoder.adapter_1(fine)
        upsampled = F.interpolate(levels[-1], size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        return levels, decoder.mask_projection(decoder.layer_1(lateral + upsampled))

    def decode_queries(self, levels: Sequence[Tensor], mask_features: Tensor, *, all_layers: bool) -> DecoderOutput:
        """Masked attention: each query attends only to the pixels of its mask from the layer before."""
        module: Any = self.transformer_module
        decoder, batch, layers = module.decoder, mask_features.shape[0], len(module.decoder.layers)
        values = [
            (project(x).flatten(2).transpose(1, 2) + embedding)
            for project, x, embedding in zip(module.input_projections, levels, module.level_embed.weight, strict=True)
        ]
        keys = [value + _sine_positions(x) for value, x in zip(values, levels, strict=True)]
        shrunk = [_shrink(mask_features, x) for x in levels]
        places = module.queries_embedder.weight
        queries = module.queries_features.weight.expand(batch, -1, -1)
        states, masks = [], []
        for index in range(layers + 1):
            state = decoder.layernorm(queries)
            embedding = decoder.mask_predictor.mask_embedder(state)
            if all_layers or index == layers:
                states.append(state)
                masks.append((embedding @ mask_features.flatten(2)).unflatten(2, mask_features.shape[2:]))
            if index < layers:
                level = index % _LEVELS
                seen = _attention_mask(embedding, shrunk[level])
                queries = _decode_layer(decoder.layers[index], queries, places, keys[level], values[level], seen)
        return DecoderOutput(tuple(states), tuple(masks), mask_features)


def pad_images(images: Tensor, stride: int = STRIDE) -> Tensor:
    """Images (B, 3, H, W) with zeros at the right and at the bottom until `stride` divides both sides.

    Images are normalised, so zero is the mean colour, as in detectron2.
    """
    height, width = images.shape[-2:]
    below, beside = -height % stride, -width % stride
    return F.pad(images, (0, beside, 0, below)) if below or beside else images


def enlarge_masks(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Mask logits (..., Q, h, w) of padded images at `size` (H, W), pixels of the images without padding."""
    height, width = mask_logits.shape[-2:]
    whole = (height * MASK_STRIDE, width * MASK_STRIDE)
    stacked = mask_logits if mask_logits.dim() == 4 else mask_logits[None]
    large = F.interpolate(stacked, size=whole, mode="bilinear", align_corners=False)[..., : size[0], : size[1]]
    return large if mask_logits.dim() == 4 else large[0]


def _decode_layer(layer: Any, queries: Tensor, places: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    """Attention to the pixels that are `seen`, among the queries, and a feed-forward part; queries are (B, Q, d)."""
    cross, own = layer.cross_attn, layer.self_attn
    weights, biases = cross.in_proj_weight.chunk(3), cross.in_proj_bias.chunk(3)
    q, k, v = (
        F.linear(x, weight, bias)
        for x, weight, bias in zip((queries + places, keys, values), weights, biases, strict=True)
    )
    attended = cross.out_proj(_attend(q, k, v, heads=cross.num_heads, seen=seen))
    queries = layer.cross_attn_layer_norm(queries + attended)
    placed = queries + places
    attended = own.out_proj(_attend(own.q_proj(placed), own.k_proj(placed), own.v_proj(queries), heads=own.num_heads))
    queries = layer.self_attn_layer_norm(queries + attended)
    result: Tensor = layer.final_layer_norm(queries + layer.fc2(F.relu(layer.fc1(queries))))
    return result


def _attend(query: Tensor, key: Tensor, value: Tensor, *, heads: int, seen: Tensor | None = None) -> Tensor:
    """Attention of (B, L, d) to (B, S, d); `seen`: bool (B, 1, L, S), where it may look."""
    query, key, value = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=seen).transpose(1, 2).flatten(2)


@torch.no_grad()
def _shrink(mask_features: Tensor, level: Tensor) -> Tensor:
    """Mask features (B, m, h w) at the size of `level`.

    Query masks are linear in them, so one resizing here replaces resizing every query mask of every layer.
    """
    return F.interpolate(mask_features, size=level.shape[-2:], mode="bilinear", align_corners=False).flatten(2)


@torch.no_grad()
def _attention_mask(embedding: Tensor, shrunk: Tensor) -> Tensor:
    """Where queries may look, bool (B, 1, Q, h w): inside their masks; those with an empty one, everywhere."""
    outside = (embedding @ shrunk).sigmoid() < 0.5
    return (~outside | outside.all(-1, keepdim=True))[:, None]


def _sine_positions(level: Tensor, temperature: float = 10000.0) -> Tensor:
    """Position embeddings (h w, d) of a level (B, d, h, w): half of the channels for the row, half for the column.

    Rows and columns run from 1 / h to 1, times 2 pi (DETR, Carion et al. 2020, with `normalize`).
    """
    _, channels, height, width = level.shape
    half = channels // 2
    indices = torch.arange(half, dtype=torch.int64, device=level.device).to(level.dtype)
    periods = temperature ** (2 * torch.div(indices, 2, rounding_mode="floor") / half)
    axes = []
    for size in (height, width):
        steps = torch.arange(1, size + 1, dtype=level.dtype, device=level.device)
        angles = (steps / (steps[-1:] + 1e-6) * (2 * math.pi))[:, None] / periods
        axes.append(torch.stack((angles[:, 0::2].sin(), angles[:, 1::2].cos()), 2).flatten(1))
    rows = axes[0][:, None].expand(-1, width, -1)
    columns = axes[1][None].expand(height, -1, -1)
    return torch.cat((rows, columns), 2).flatten(0, 1)


def _reference_points(shapes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """Centres of all cells of all levels (1, cells, levels, 2), x before y, in parts of the image."""
    centres = []
    for height, width in shapes:
        y = torch.linspace(0.5, height - 0.5, height, dtype=like.dtype, device=like.device) / height
        x = torch.linspace(0.5, width - 0.5, width, dtype=like.dtype, device=like.device) / width
        centres.append(torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)), 2).flatten(0, 1))
    return torch.cat(centres)[None, :, None].expand(-1, -1, len(shapes), -1)


def _build(channels: Sequence[int], sizes: DecoderSizes) -> tuple[nn.Module, nn.Module]:
    """transformers' modules with the initial values of its own models.

    Modules that are built alone are not initialised, and level embeddings hold whatever was in memory. `_init_weights`
    is applied to each module here: `post_init()` of a class outside of transformers skips modules without parameters
    of their own.
    """
    # The import takes seconds, so it waits until a decoder is built.
    from transformers import Mask2FormerConfig
    from transformers.models.mask2former.modeling_mask2former import (
        Mask2FormerPixelDecoder,
        Mask2FormerPreTrainedModel,
        Mask2FormerTransformerModule,
    )

    config = Mask2FormerConfig(
        feature_size=sizes.width,
        hidden_dim=sizes.width,
        mask_feature_size=sizes.mask_width,
        num_attention_heads=sizes.heads,
        num_queries=sizes.queries,
        encoder_layers=sizes.encoder_layers,
        decoder_layers=sizes.decoder_layers + 1,  # it counts the prediction before layer 1
        encoder_feedforward_dim=sizes.encoder_ffn,
        dim_feedforward=sizes.decoder_ffn,
    )
    pixel_decoder = Mask2FormerPixelDecoder(config, feature_channels=list(channels))
    transformer_module = Mask2FormerTransformerModule(in_features=sizes.width, config=config)
    owner: Any = Mask2FormerPreTrainedModel(config)
    for module in (pixel_decoder, transformer_module):
        module.apply(owner._init_weights)
    return pixel_decoder, transformer_module
