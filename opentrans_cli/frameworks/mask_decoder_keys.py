"""What Mask2Former's own code, and with it FC-CLIP and Han et al., calls the tensors of a mask decoder.

Theirs are those of detectron2 modules (Cheng et al. 2022), ours those of transformers. The table holds names only:
values are the same but for the queries' self-attention, whose query, key and value weights are one tensor there.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from opentrans_cli.errors import TransferError
from opentrans_cli.frameworks.mask_decoder import DecoderSizes
from opentrans_cli.frameworks.renaming import NameRule

_PIXELS = (
    ("input_proj.{n}.{m}.{leaf}", "input_projections.{n}.{m}.{leaf}"),
    ("transformer.level_embed", "level_embed"),
    ("transformer.encoder.layers.{n}.linear1.{leaf}", "encoder.layers.{n}.fc1.{leaf}"),
    ("transformer.encoder.layers.{n}.linear2.{leaf}", "encoder.layers.{n}.fc2.{leaf}"),
    ("transformer.encoder.layers.{n}.norm1.{leaf}", "encoder.layers.{n}.self_attn_layer_norm.{leaf}"),
    ("transformer.encoder.layers.{n}.norm2.{leaf}", "encoder.layers.{n}.final_layer_norm.{leaf}"),
    (
        "transformer.encoder.layers.{n}.self_attn.sampling_offsets.{leaf}",
        "encoder.layers.{n}.self_attn.sampling_offsets.{leaf}",
    ),
    (
        "transformer.encoder.layers.{n}.self_attn.attention_weights.{leaf}",
        "encoder.layers.{n}.self_attn.attention_weights.{leaf}",
    ),
    ("transformer.encoder.layers.{n}.self_attn.value_proj.{leaf}", "encoder.layers.{n}.self_attn.value_proj.{leaf}"),
    ("transformer.encoder.layers.{n}.self_attn.output_proj.{leaf}", "encoder.layers.{n}.self_attn.output_proj.{leaf}"),
    ("adapter_1.weight", "adapter_1.0.weight"),
    ("adapter_1.norm.{leaf}", "adapter_1.1.{leaf}"),
    ("layer_1.weight", "layer_1.0.weight"),
    ("layer_1.norm.{leaf}", "layer_1.1.{leaf}"),
    ("mask_features.{leaf}", "mask_projection.{leaf}"),
)

_QUERIES = (
    ("query_feat.weight", "queries_features.weight"),
    ("static_query.weight", "queries_features.weight"),  # its name in the first checkpoints
    ("query_embed.weight", "queries_embedder.weight"),
    ("level_embed.weight", "level_embed.weight"),
    (
        "transformer_self_attention_layers.{n}.self_attn.in_proj_{leaf}",
        tuple(f"decoder.layers.{{n}}.self_attn.{part}_proj.{{leaf}}" for part in "qkv"),
    ),
    (
        "transformer_self_attention_layers.{n}.self_attn.out_proj.{leaf}",
        "decoder.layers.{n}.self_attn.out_proj.{leaf}",
    ),
    ("transformer_self_attention_layers.{n}.norm.{leaf}", "decoder.layers.{n}.self_attn_layer_norm.{leaf}"),
    (
        "transformer_cross_attention_layers.{n}.multihead_attn.in_proj_{leaf}",
        "decoder.layers.{n}.cross_attn.in_proj_{leaf}",
    ),
    (
        "transformer_cross_attention_layers.{n}.multihead_attn.out_proj.{leaf}",
        "decoder.layers.{n}.cross_attn.out_proj.{leaf}",
    ),
    ("transformer_cross_attention_layers.{n}.norm.{leaf}", "decoder.layers.{n}.cross_attn_layer_norm.{leaf}"),
    ("transformer_ffn_layers.{n}.linear1.{leaf}", "decoder.layers.{n}.fc1.{leaf}"),
    ("transformer_ffn_layers.{n}.linear2.{leaf}", "decoder.layers.{n}.fc2.{leaf}"),
    ("transformer_ffn_layers.{n}.norm.{leaf}", "decoder.layers.{n}.final_layer_norm.{leaf}"),
    ("decoder_norm.{leaf}", "decoder.layernorm.{leaf}"),
    ("mask_embed.layers.{n}.{leaf}", "decoder.mask_predictor.mask_embedder.{n}.0.{leaf}"),
)


def detectron2_rules(original: str = "sem_seg_head.", ours: str = "decoder.") -> tuple[NameRule, ...]:
    """Rules for a whole MaskDecoder below the prefixes `original` and `ours`, both with the dot."""
    halves = (
        ("pixel decoder", f"{original}pixel_decoder.", f"{ours}pixel_decoder.", _PIXELS),
        ("transformer decoder", f"{original}predictor.", f"{ours}transformer_module.", _QUERIES),
    )
    return tuple(
        NameRule(
            f"{before}{name}",
            f"{after}{target}" if isinstance(target, str) else tuple(f"{after}{part}" for part in target),
            kind,
        )
        for kind, before, after, rows in halves
        for name, target in rows
    )


def huggingface_rules(ours: str = "decoder.") -> tuple[NameRule, ...]:
    """The same for Mask2FormerForUniversalSegmentation of transformers, whose names ours are."""
    return (
        NameRule("model.pixel_level_module.decoder.{rest}", f"{ours}pixel_decoder.{{rest}}", "pixel decoder"),
        NameRule("model.transformer_module.{rest}", f"{ours}transformer_module.{{rest}}", "transformer decoder"),
    )


def decoder_sizes(tensors: Mapping[str, Tensor], prefix: str = "decoder.") -> DecoderSizes:
    """The sizes of a MaskDecoder from the shapes of its tensors, below `prefix` by our names.

    Raises TransferError if a tensor that tells one is not there.
    """
    pixels, module = f"{prefix}pixel_decoder.", f"{prefix}transformer_module."
    first = f"{module}decoder.layers.0.fc1.weight"
    offsets = f"{pixels}encoder.layers.0.self_attn.sampling_offsets.bias"
    encoder_ffn, mask = f"{pixels}encoder.layers.0.fc1.weight", f"{pixels}mask_projection.weight"
    queries = f"{module}queries_features.weight"
    for name in (first, offsets, encoder_ffn, mask, queries):
        if name not in tensors:
            raise TransferError(f"the checkpoint has no whole mask decoder: '{name}' is missing; give another file")
    return DecoderSizes(
        width=tensors[queries].shape[1],
        mask_width=tensors[mask].shape[0],
        heads=tensors[offsets].shape[0] // _OFFSETS_PER_HEAD,
        queries=tensors[queries].shape[0],
        encoder_layers=_layers(tensors, f"{pixels}encoder.layers."),
        decoder_layers=_layers(tensors, f"{module}decoder.layers."),
        encoder_ffn=tensors[encoder_ffn].shape[0],
        decoder_ffn=tensors[first].shape[0],
    )


_OFFSETS_PER_HEAD = 3 * 4 * 2  # levels, points, coordinates


def _layers(tensors: Mapping[str, Tensor], prefix: str) -> int:
    return 1 + max(int(name[len(prefix) :].split(".")[0]) for name in tensors if name.startswith(prefix))
