"""What detectron2's Mask2Former and that of transformers call the tensors of a checkpoint, and what ours is.

Published ones stand on trunks that are no CLIP tower, a ResNet with one stem convolution or a Swin transformer: their
heads are taken, their trunks are left out. Those that were trained on a CLIP tower bring it along.
"""

from __future__ import annotations

from opentrans_cli.frameworks.mask_decoder_keys import detectron2_rules, huggingface_rules
from opentrans_cli.frameworks.renaming import NameRule

OTHER_TRUNK = "trunk that is no CLIP tower"

MASK2FORMER_RULES = (
    *detectron2_rules(),
    NameRule("sem_seg_head.predictor.class_embed.{leaf}", "classifier.{leaf}", "classifier"),
    NameRule("backbone.attnpool.{rest}", None, "attention pool"),
    NameRule("backbone.layer{n}.{rest}", "backbone.layer{n}.{rest}", "image tower"),
    NameRule("backbone.conv{n}.{leaf}", "backbone.conv{n}.{leaf}", "image tower"),
    NameRule("backbone.bn{n}.{rest}", "backbone.bn{n}.{rest}", "image tower"),
    NameRule("backbone.trunk.{rest}", "backbone.trunk.{rest}", "image tower"),
    NameRule("backbone.head.{rest}", "backbone.head.{rest}", "image tower"),
    NameRule("backbone.stem.{rest}", None, OTHER_TRUNK),
    NameRule("backbone.res{n}.{rest}", None, OTHER_TRUNK),
    NameRule("backbone.patch_embed.{rest}", None, OTHER_TRUNK),
    NameRule("backbone.layers.{rest}", None, OTHER_TRUNK),
    NameRule("backbone.norm{n}.{leaf}", None, OTHER_TRUNK),
)

HUGGINGFACE_RULES = (
    *huggingface_rules(),
    NameRule("class_predictor.{leaf}", "classifier.{leaf}", "classifier"),
    NameRule("model.pixel_level_module.encoder.{rest}", None, OTHER_TRUNK),
)

OWN_RULES = tuple(
    NameRule(f"{part}.{{rest}}", f"{part}.{{rest}}", kind)
    for part, kind in (
        ("backbone", "image tower"),
        ("decoder.pixel_decoder", "pixel decoder"),
        ("decoder.transformer_module", "transformer decoder"),
        ("classifier", "classifier"),
    )
)
