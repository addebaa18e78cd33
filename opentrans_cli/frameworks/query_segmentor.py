"""What the frameworks of masks share: features of the trunk, queries, a class for each, scores of every pixel.

Shapes: B images, Q queries, C classes, H W pixels, h w cells.
"""

from __future__ import annotations

from torch import Tensor, nn

from opentrans_cli.clip.stages import stage_maps
from opentrans_cli.frameworks.base import ClassText, MaskQueries
from opentrans_cli.frameworks.mask_decoder import MaskDecoder, pad_images
from opentrans_cli.frameworks.mask_inference import semantic_scores


class QuerySegmentor(nn.Module):
    """A MaskSegmentor whose `classifier` takes the states of the queries, (B, Q, d), and the text to (B, Q, C + 1)."""

    backbone: nn.Module
    decoder: MaskDecoder
    classifier: nn.Module

    def forward(self, images: Tensor, text: ClassText) -> Tensor:
        """See Segmentor."""
        found = self.queries(images, text)
        return semantic_scores(found.class_logits, found.mask_logits, (images.shape[-2], images.shape[-1]))

    def queries(self, images: Tensor, text: ClassText) -> MaskQueries:
        """See MaskSegmentor."""
        found = self.decoder(stage_maps(self.backbone, pad_images(images)))
        *earlier, last = [
            (self.classifier(states, text), masks)
            for states, masks in zip(found.states, found.mask_logits, strict=True)
        ]
        return MaskQueries(*last, auxiliary=tuple(earlier))
