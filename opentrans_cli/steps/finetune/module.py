"""What fine-tuning trains: a segmentor, and beside it what a loss learns and the bundle never sees.

Shapes: B images, C classes, R regions, Q queries, D embedding, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from opentrans_cli.clip.prefix import replay
from opentrans_cli.distill.regions import pool_regions
from opentrans_cli.distill.text_guided import RegionHeads
from opentrans_cli.errors import OptionError
from opentrans_cli.frameworks.base import ClassText, MaskQueries, class_scores
from opentrans_cli.frameworks.readout import resize
from opentrans_cli.steps.finetune.grounding import GroundingScale
from opentrans_cli.steps.finetune.options import FinetuneOptions
from opentrans_cli.steps.finetune.region_kd import Regions
from opentrans_cli.steps.segmentors.built import BuiltSegmentor

SEGMENTOR = "segmentor."
"""Where the segmentor stands in the names of what is trained."""


class Found(NamedTuple):
    """What the module says of a batch; a tuple, so that wrappers of modules find the tensors in it."""

    scores: Tensor | None = None  # (B, C, H, W), of a PixelSegmentor
    queries: MaskQueries | None = None  # of a MaskSegmentor, with its auxiliary layers
    students: tuple[Tensor, ...] = ()  # rows of length 1: (R, D) of the regions asked for, or by layer (B, Q, D)
    text_scale: Tensor | None = None  # (1,), of the words in the distillation of regions
    grounding_scale: Tensor | None = None  # (1,), of the cosine of words and queries


class TrainedModule(nn.Module):
    """`segmentor` and, if the options ask for them, what distillation and grounding learn. The one to wrap and to call.

    Every parameter that requires gradients takes part in each call, so that processes need not look for unused ones.
    The embeddings of the seen classes are a buffer that no state holds. Raises OptionError for a grounding of queries
    that have no embeddings.
    """

    text_embeddings: Tensor

    def __init__(self, built: BuiltSegmentor, options: FinetuneOptions, text: ClassText) -> None:
        super().__init__()
        self.segmentor: Any = built.module
        self.masks = built.framework.masks
        self.prefix_end: str | None = None  # where the cached features end, if batches bring some
        self._text = text
        self.register_buffer("text_embeddings", text.embeddings.clone(), persistent=False)
        if options.grounding_weight and getattr(built.options, "classes", None) is not None:
            raise OptionError(
                "queries of a fixed list of classes have no embeddings to compare with words: --grounding-weight; "
                "leave it out"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.regions = RegionHeads(*self._sizes(built)) if options.kd_weight else None
        self.grounding = GroundingScale() if options.grounding_weight else None

    def _sizes(self, built: BuiltSegmentor) -> tuple[int, int, int]:
        """Layers whose embeddings are taught, their width, and that of the teacher's."""
        if not self.masks:
            return 1, built.dimension, built.dimension
        sizes = self.segmentor.decoder.sizes
        return sizes.decoder_layers + 1, sizes.width, built.dimension

    @property
    def text(self) -> ClassText:
        """The seen classes, on the module's device."""
        return ClassText(self.text_embeddings, self._text.class_indices, self._text.seen)

    def forward(
        self, images: Tensor, *features: Tensor, label_maps: Tensor | None = None, regions: Regions | None = None
    ) -> Found:
        """What the segmentor says of `images` (B, 3, H, W), in training mode as in any.

        features: of the blocks up to `prefix_end`, which then compute nothing. label_maps: int64 (B, H, W), and
        `regions` of them, which the embeddings of a PixelSegmentor are pooled over for distillation.
        """
        with self._replaying(features):
            if self.masks:
                return self._of_queries(self.segmentor.queries(images, self.text))
            return self._of_pixels(images, label_maps, regions)

    def _of_queries(self, queries: MaskQueries) -> Found:
        return Found(
            queries=queries,
            students=() if self.regions is None else self.regions(queries.states),
            text_scale=None if self.regions is None else self.regions.scale * 1,
            grounding_scale=None if self.grounding is None else self.grounding(),
        )

    def _of_pixels(self, images: Tensor, label_maps: Tensor | None, regions: Regions | None) -> Found:
        if self.regions is None:
            return Found(scores=self.segmentor(images, self.text))
        assert label_maps is not None and regions is not None
        embedding = self.segmentor.embed(images)
        scores = class_scores(
            resize(self.segmentor.classifier(embedding, self.text_embeddings), images), self.text.class_indices
        )
        with torch.autocast(images.device.type, enabled=False):
            pooled = pool_regions(embedding.float(), label_maps, image_of=regions.image_of, class_of=regions.class_of)
            students = self.regions((pooled,))
        return Found(scores=scores, students=students, text_scale=self.regions.scale * 1)

    @contextmanager
    def _replaying(self, features: tuple[Tensor, ...]) -> Iterator[None]:
        if not features:
            yield
            return
        assert self.prefix_end is not None
        with replay(self.segmentor.backbone, self.prefix_end, features):
            yield
