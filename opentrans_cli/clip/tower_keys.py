"""Find the image tower of a CLIP among the names of a checkpoint, by rule: nothing is loaded or built.

Frameworks keep the tower below prefixes of their own (`module.`, `visual.`, `backbone.clip_model.visual.`). A kind of
tower is known by a few names that only it has; whatever stands before the first of them is the prefix.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

OUTPUT_HEAD = "output head"
TEXT_TOWER = "text tower"
OUTSIDE = "outside the image tower"

# Parts of prefixes that say nothing about which of several towers is the model's own.
NOISE = {"module", "model", "visual", "backbone", "clip_model", "encoder", "image_encoder", "vision_model"}
TEXT_PARTS = {"text", "text_model", "text_encoder", "text_tower"}
_TEXT_BESIDE_VISUAL = ("transformer.", "token_embedding", "positional_embedding", "text_projection", "ln_final")


@dataclass(frozen=True)
class TowerKind:
    """How the tensors of one kind of image tower are called, below their prefix."""

    name: str
    marks: tuple[str, ...]  # names that all have to be there
    heads: tuple[str, ...]  # starts of the names that map into the joint embedding space


KINDS = (
    TowerKind(
        "ModifiedResNet",
        ("conv1.weight", "conv2.weight", "conv3.weight", "layer1.0.conv1.weight"),
        ("attnpool.",),
    ),
    TowerKind(
        "VisionTransformer",
        ("conv1.weight", "class_embedding", "transformer.resblocks.0.attn.in_proj_weight"),
        ("proj", "attn_pool.", "attn_pool_contrastive."),
    ),
    TowerKind(
        "timm ConvNeXt",
        ("trunk.stem.0.weight", "trunk.stages.0.blocks.0.conv_dw.weight"),
        ("head.", "trunk.head."),
    ),
    TowerKind(
        "timm ViT",
        ("trunk.patch_embed.proj.weight", "trunk.blocks.0.norm1.weight"),
        ("head.", "trunk.head.", "trunk.attn_pool."),
    ),
    TowerKind(
        "timm ResNet",
        ("stem.conv1.conv.weight", "stem.conv2.conv.weight", "stages.0.0.conv1_1x1.conv.weight"),
        ("head.",),
    ),
    TowerKind(
        "Hugging Face ViT",
        ("embeddings.patch_embedding.weight", "encoder.layers.0.self_attn.q_proj.weight"),
        ("head.",),
    ),
)


@dataclass(frozen=True)
class TowerPlace:
    """Where the image tower of a checkpoint is."""

    kind: TowerKind
    prefix: str  # of its names in the file: "" or ending in a dot

    @property
    def parent(self) -> str:
        """Prefix of the whole CLIP: image and text tower."""
        return self.prefix.removesuffix("visual.")

    def inside(self, key: str) -> str | None:
        """The name of a tensor inside the tower; None if it is outside."""
        if not key.startswith(self.prefix) or (not self.prefix and key.split(".")[0] in TEXT_PARTS):
            return None
        return key[len(self.prefix) :]

    def reason(self, key: str) -> str | None:
        """Why the tensor `key` is no part of what is analysed; None: it is."""
        name = self.inside(key)
        if name is not None:
            return OUTPUT_HEAD if name.startswith(self.kind.heads) else None
        beside = self.parent != self.prefix and key.startswith(self.parent)
        if TEXT_PARTS & set(key.split(".")) or (beside and key[len(self.parent) :].startswith(_TEXT_BESIDE_VISUAL)):
            return TEXT_TOWER
        return OUTSIDE


def find_tower(keys: Collection[str]) -> TowerPlace | None:
    """The image tower of a CLIP among the tensors of a checkpoint; None if there is none.

    Of several, such as a student and its teacher, it is the one below a usual prefix (`backbone.`); None if that
    does not decide either.
    """
    found = list(_places(set(keys)))
    if len(found) > 1:
        found = [place for place in found if set(place.prefix.split(".")[:-1]) <= NOISE]
    return found[0] if len(found) == 1 else None


def _places(keys: set[str]) -> Iterable[TowerPlace]:
    for kind in KINDS:
        first, *others = kind.marks
        for key in sorted(keys):
            prefix = key.removesuffix(first)
            if key.endswith(first) and prefix[-1:] in ("", ".") and all(prefix + mark in keys for mark in others):
                yield TowerPlace(kind, prefix)
