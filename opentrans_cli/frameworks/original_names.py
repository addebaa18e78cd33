"""What the published code of FC-CLIP and of Han et al. calls the tensors of a checkpoint.

Text towers come under `text.`, by open_clip's names, so that the words of a checkpoint are read by its own CLIP.
"""

from __future__ import annotations

from opentrans_cli.frameworks.mask_decoder_keys import detectron2_rules
from opentrans_cli.frameworks.renaming import NameRule

TEXT_PREFIX = "text."

FCCLIP_RULES = (
    *detectron2_rules(),
    NameRule("backbone.clip_model.visual.{rest}", "backbone.{rest}", "image tower"),
    NameRule("backbone.clip_model.logit_scale", "clip_logit_scale", "scale of CLIP"),
    NameRule("backbone.clip_model.{rest}", TEXT_PREFIX + "{rest}", "text tower"),
    NameRule("sem_seg_head.predictor.logit_scale", "classifier.logit_scale", "classifier"),
    NameRule("sem_seg_head.predictor._mask_pooling_proj.0.{leaf}", "classifier.pool_norm.{leaf}", "classifier"),
    NameRule("sem_seg_head.predictor._mask_pooling_proj.1.{leaf}", "classifier.pool_proj.{leaf}", "classifier"),
    *(
        NameRule(f"sem_seg_head.predictor.class_embed.layers.{layer}.{{leaf}}", f"{ours}.{{leaf}}", "classifier")
        for layer, ours in enumerate(f"classifier.class_embed.{2 * layer}" for layer in range(3))
    ),
    NameRule("void_embedding.weight", "classifier.void_embedding", "classifier"),
    NameRule("criterion.empty_weight", None, "weights of the loss"),
)

HAN_RULES = (
    *detectron2_rules(),
    NameRule("backbone.attnpool.{rest}", None, "attention pool"),
    NameRule("backbone.{rest}", "backbone.{rest}", "image tower"),
    NameRule("text_encoder.{rest}", TEXT_PREFIX + "{rest}", "text tower"),
    NameRule("sem_seg_head.predictor.class_embed.{leaf}", "classifier.class_embed.{leaf}", "classifier"),
    NameRule("embed_proj.1.{leaf}", "classifier.embed_proj.{leaf}", "classifier"),
    NameRule("non_object_embedding", "classifier.non_object_embedding", "classifier"),
    NameRule("logit_scale", "classifier.logit_scale", "classifier"),
    NameRule("criterion.empty_weight", None, "weights of the loss"),
    NameRule("empty_weight", None, "weights of the loss"),
    NameRule("aux_embed_porj_{n}.{m}.{leaf}", None, "classifiers of earlier layers"),
    NameRule("vision_clip.{rest}", None, "teacher"),
    NameRule("kd_proj.{leaf}", None, "projections to the teacher"),
    NameRule("aux_kd_porj_{n}.{leaf}", None, "projections to the teacher"),
    NameRule("text_kd_logit_scale", None, "scale of the caption loss"),
)
