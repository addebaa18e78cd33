"""Tensor names of published code beside our names: Mask2Former, FC-CLIP, Han et al., transformers.

The mask decoder of the first three is that of Mask2Former's own code (Cheng et al. 2022), modules of detectron2; ours
is that of transformers. The tables hold names only: values are the same, but the query, key and value weights of the
queries' self-attention are one tensor there. Text towers come under `text.`, by open_clip's names: the words of a
checkpoint are read by its own CLIP. Trunks that are no CLIP tower, a ResNet with one stem convolution or a Swin
transformer, are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from opentrans_cli.checkpoints.rules import NameRule, below

TEXT_PREFIX = "text."
OTHER_TRUNK = "trunk that is no CLIP tower"

_ENCODER = "encoder.layers.{n#}."
_PIXELS = {  # our name, and that of detectron2
    "input_projections.{n#}.{m#}.{leaf}": "input_proj.{n#}.{m#}.{leaf}",
    "level_embed": "transformer.level_embed",
    "encoder.layers.{n#}.fc1.{leaf}": "transformer.encoder.layers.{n#}.linear1.{leaf}",
    "encoder.layers.{n#}.fc2.{leaf}": "transformer.encoder.layers.{n#}.linear2.{leaf}",
    "encoder.layers.{n#}.self_attn_layer_norm.{leaf}": "transformer.encoder.layers.{n#}.norm1.{leaf}",
    "encoder.layers.{n#}.final_layer_norm.{leaf}": "transformer.encoder.layers.{n#}.norm2.{leaf}",
    **{
        f"{_ENCODER}self_attn.{part}.{{leaf}}": f"transformer.{_ENCODER}self_attn.{part}.{{leaf}}"
        for part in ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
    },
    "adapter_1.0.weight": "adapter_1.weight",
    "adapter_1.1.{leaf}": "adapter_1.norm.{leaf}",
    "layer_1.0.weight": "layer_1.weight",
    "layer_1.1.{leaf}": "layer_1.norm.{leaf}",
    "mask_projection.{leaf}": "mask_features.{leaf}",
}
_SELF, _CROSS, _FFN = (f"transformer_{part}_layers.{{n#}}." for part in ("self_attention", "cross_attention", "ffn"))
_QUERIES = {
    "queries_features.weight": "query_feat.weight",
    "queries_embedder.weight": "query_embed.weight",
    "level_embed.weight": "level_embed.weight",
    **{
        f"decoder.layers.{{n#}}.self_attn.{part}_proj.{{leaf}}": f"{_SELF}self_attn.in_proj_{{leaf}}[{third}]"
        for third, part in enumerate("qkv")
    },
    "decoder.layers.{n#}.self_attn.out_proj.{leaf}": _SELF + "self_attn.out_proj.{leaf}",
    "decoder.layers.{n#}.self_attn_layer_norm.{leaf}": _SELF + "norm.{leaf}",
    "decoder.layers.{n#}.cross_attn.in_proj_{leaf}": _CROSS + "multihead_attn.in_proj_{leaf}",
    "decoder.layers.{n#}.cross_attn.out_proj.{leaf}": _CROSS + "multihead_attn.out_proj.{leaf}",
    "decoder.layers.{n#}.cross_attn_layer_norm.{leaf}": _CROSS + "norm.{leaf}",
    "decoder.layers.{n#}.fc1.{leaf}": _FFN + "linear1.{leaf}",
    "decoder.layers.{n#}.fc2.{leaf}": _FFN + "linear2.{leaf}",
    "decoder.layers.{n#}.final_layer_norm.{leaf}": _FFN + "norm.{leaf}",
    "decoder.layernorm.{leaf}": "decoder_norm.{leaf}",
    "decoder.mask_predictor.mask_embedder.{n#}.0.{leaf}": "mask_embed.layers.{n#}.{leaf}",
}
_HEAD, _PIXEL_DECODER, _TRANSFORMER = "sem_seg_head.predictor.", "decoder.pixel_decoder.", "decoder.transformer_module."


def _left_out(kind: str, names: Iterable[str]) -> tuple[NameRule, ...]:
    return tuple(NameRule(None, name, kind) for name in names)


def _renamed(kind: str, names: Mapping[str, str], ours: str = "", theirs: str = "") -> tuple[NameRule, ...]:
    return tuple(NameRule(ours + own, theirs + their, kind) for own, their in names.items())


DETECTRON2_RULES = (
    *_renamed("pixel decoder", _PIXELS, _PIXEL_DECODER, "sem_seg_head.pixel_decoder."),
    *_renamed("transformer decoder", _QUERIES, _TRANSFORMER, _HEAD),
    NameRule(f"{_TRANSFORMER}queries_features.weight", f"{_HEAD}static_query.weight", "name in the first checkpoints"),
)
"""A whole mask decoder by the names of detectron2."""

DECODER_RULES = (
    NameRule(_PIXEL_DECODER + "{rest*}", "model.pixel_level_module.decoder.{rest*}", "pixel decoder"),
    NameRule(_TRANSFORMER + "{rest*}", "model.transformer_module.{rest*}", "transformer decoder"),
)
"""The same of Mask2FormerForUniversalSegmentation of transformers, whose names ours are."""

NEVER_NEEDED = (
    *_left_out("weights of the loss", ["criterion.{rest*}"]),
    *_left_out("preprocessing", ["pixel_mean", "pixel_std"]),
    *_left_out("state of training", [f"{part}.{{rest*}}" for part in ("optimizer", "scheduler", "ema", "ema_state")]),
)

FCCLIP_RULES = (
    *DETECTRON2_RULES,
    NameRule("backbone.{rest*}", "backbone.clip_model.visual.{rest*}", "image tower"),
    NameRule("clip_logit_scale", "backbone.clip_model.logit_scale", "scale of CLIP"),
    NameRule(TEXT_PREFIX + "{rest*}", "backbone.clip_model.{rest*}", "text tower"),
    *_renamed(
        "classifier",
        {
            "logit_scale": f"{_HEAD}logit_scale",
            "pool_norm.{leaf}": f"{_HEAD}_mask_pooling_proj.0.{{leaf}}",
            "pool_proj.{leaf}": f"{_HEAD}_mask_pooling_proj.1.{{leaf}}",
            **{f"class_embed.{2 * n}.{{leaf}}": f"{_HEAD}class_embed.layers.{n}.{{leaf}}" for n in range(3)},
            "void_embedding": "void_embedding.weight",
        },
        ours="classifier.",
    ),
)

HAN_RULES = (
    *DETECTRON2_RULES,
    *_left_out("attention pool", ["backbone.attnpool.{rest*}"]),
    *below("", "image tower", ["backbone.{rest*}"]),
    NameRule(TEXT_PREFIX + "{rest*}", "text_encoder.{rest*}", "text tower"),
    *_renamed(
        "classifier",
        {
            "class_embed.{leaf}": f"{_HEAD}class_embed.{{leaf}}",
            "embed_proj.{leaf}": "embed_proj.1.{leaf}",
            "non_object_embedding": "non_object_embedding",
            "logit_scale": "logit_scale",
        },
        ours="classifier.",
    ),
    *_left_out("weights of the loss", ["empty_weight"]),
    *_left_out("classifiers of earlier layers", ["aux_embed_porj_{n#}.{m#}.{leaf}"]),
    *_left_out("teacher", ["vision_clip.{rest*}"]),
    *_left_out("projections to the teacher", ["kd_proj.{leaf}", "aux_kd_porj_{n#}.{leaf}"]),
    *_left_out("scale of the caption loss", ["text_kd_logit_scale"]),
)

MASK2FORMER_RULES = (
    *DETECTRON2_RULES,
    NameRule("classifier.{leaf}", f"{_HEAD}class_embed.{{leaf}}", "classifier"),
    *_left_out("attention pool", ["backbone.attnpool.{rest*}"]),
    *below(
        "",
        "image tower",
        [
            *("backbone.layer{n#}.{rest*}", "backbone.conv{n#}.{leaf}", "backbone.bn{n#}.{rest*}"),
            *("backbone.trunk.{rest*}", "backbone.head.{rest*}"),
        ],
    ),
    *_left_out(
        OTHER_TRUNK,
        [
            *("backbone.stem.{rest*}", "backbone.res{n#}.{rest*}", "backbone.patch_embed.{rest*}"),
            *("backbone.layers.{rest*}", "backbone.norm{n#}.{leaf}"),
        ],
    ),
)

HUGGINGFACE_RULES = (
    *DECODER_RULES,
    NameRule("classifier.{leaf}", "class_predictor.{leaf}", "classifier"),
    *_left_out(OTHER_TRUNK, ["model.pixel_level_module.encoder.{rest*}"]),
)

OWN_RULES = (
    *below("", "image tower", ["backbone.{rest*}"]),
    *below("", "pixel decoder", ["decoder.pixel_decoder.{rest*}"]),
    *below("", "transformer decoder", ["decoder.transformer_module.{rest*}"]),
    *below("", "classifier", ["classifier.{rest*}"]),
)
