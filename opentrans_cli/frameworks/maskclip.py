"""CLIP's own dense embedding as a segmentor (MaskCLIP, Zhou et al. 2022); nothing is trained.

With it a pruned tower can be evaluated without training: it applies the attention pool's value and output
projections to every pixel of the layer4 features, and takes the cosine with the text.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from opentrans_cli.checkpoints.rules import NameRule
from opentrans_cli.clip.features import dense_embedding, require_resnet, set_output_stride, stage_features
from opentrans_cli.errors import OptionError
from opentrans_cli.frameworks.base import BACKBONE, ClassText, Framework, class_scores
from opentrans_cli.frameworks.keys import pool_rules, tower_rules
from opentrans_cli.frameworks.readout import MAX_SCALE, CosineClassifier, resize


@dataclass(frozen=True)
class MaskClipOptions:
    """Raises OptionError if a value is out of range."""

    # The embedded CLIP on `shapes` of 64 to 128 pixels: 8 is 1 to 3 points of mIoU ahead of 16, and 16 is 13
    # to 17 ahead of 32, the tower as it was trained.
    output_stride: int = 8  # pixels per layer4 cell: 8, 16 or 32

    def __post_init__(self) -> None:
        if self.output_stride not in (8, 16, 32):
            raise OptionError(f"maskclip has no output stride: {self.output_stride}; choose 8, 16 or 32")


class MaskClip(nn.Module):
    """A Segmentor without learned parts; `visual` is changed in place. The scale is fixed at CLIP's, 100."""

    def __init__(self, visual: nn.Module, options: MaskClipOptions) -> None:
        super().__init__()
        require_resnet(visual)
        set_output_stride(visual, options.output_stride)
        self.backbone = visual
        self.classifier = CosineClassifier(scale=MAX_SCALE, learned=False)

    def forward(self, images: Tensor, text: ClassText) -> Tensor:
        """See Segmentor."""
        scores = resize(self.classifier(self.embed(images), text.embeddings), images)
        return class_scores(scores, text.class_indices)

    def embed(self, images: Tensor) -> Tensor:
        """See PixelSegmentor; the grid is that of layer4."""
        return dense_embedding(self.backbone, stage_features(self.backbone, images)["layer4"])


def _key_table(options: MaskClipOptions) -> tuple[NameRule, ...]:
    return (*tower_rules(BACKBONE), *pool_rules(BACKBONE))


MASKCLIP = Framework(
    name="maskclip",
    trainable=False,
    options_type=MaskClipOptions,
    key_table=_key_table,
    builder=MaskClip,
)
