"""What the frameworks of masks share: features of the trunk, queries, a class for each, scores of every pixel.

Shapes: B images, Q queries, C classes, H W pixels, h w cells.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from opentrans_cli.clip.stages import stage_maps
from opentrans_cli.frameworks.base import ClassText, MaskQueries
from opentrans_cli.frameworks.mask_decoder import MaskDecoder, pad_images
from opentrans_cli.frameworks.mask_inference import semantic_scores
from opentrans_cli.frameworks.query_classifier import Classified


class QuerySegmentor(nn.Module):
    """A MaskSegmentor whose `classifier` takes the states of the queries, (B, Q, d), and the text to `Classified`."""

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
        return as_queries([self.classifier(states, text) for states in found.states], found.mask_logits)


def as_queries(classified: Sequence[Classified], masks: Sequence[Tensor]) -> MaskQueries:
    """Classes and mask logits (B, Q, h, w) by layer, the result last, as what a decoder says."""
    *earlier, last = [(one.logits, mask) for one, mask in zip(classified, masks, strict=True)]
    return MaskQueries(
        *last,
        auxiliary=tuple(earlier),
        states=tuple(one.state for one in classified),
        embeddings=tuple(one.embedding for one in classified if one.embedding is not None),
    )
