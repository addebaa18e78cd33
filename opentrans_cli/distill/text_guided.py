"""Text-guided distillation, the paper's loss: the student's region embeddings are trained to match the dense
tower's, and their affinities with all regions of the image to match those of the class names.

OpenTrans (arXiv 2404.07448), Sec. 3.2 and Table 5, in the squared form of the published training run. Shapes: R regions
of a batch, D embedding; visual and text embeddings have rows of length 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Mode = Literal["text-guided", "vision-guided", "vanilla"]
"""Where the affinities come from: class names, the student's own embeddings, or nowhere (embeddings alone)."""


def text_guided_loss(
    student: Tensor,
    teacher: Tensor,
    text: Tensor,
    image_of: Tensor,
    scale: Tensor | float,
    *,
    mode: Mode = "text-guided",
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, 0-d, and its detached terms: `visual`, the mean of E1, and `affinity`, that of E2.

    For region i with student v, teacher c and text t, and every j of the same image, i itself included:

        E1_i = |v_i - c_i|^2        E2_ij = (scale^2 t_i.t_j - v_i.c_j)^2

    The loss is the mean over all E1 and all E2 of the batch together, so images count by the square of their number of
    regions. "vision-guided" uses v_i.v_j in place of the text's affinity; "vanilla" leaves E2 out. `student`, `teacher`
    and `text` are (R, D) on one device, `image_of` int64 (R,). Without regions: zero, with zero gradients.
    """
    visual = (student - teacher).square().sum(1)
    if mode == "vanilla":
        loss = visual.sum() / max(1, len(visual))
        return loss, {"visual": loss.detach(), "affinity": loss.detach().new_zeros(())}
    wanted = student @ student.T if mode == "vision-guided" else scale**2 * (text @ text.T)
    together = image_of[:, None] == image_of
    affinity = (wanted - student @ teacher.T).square().masked_fill(~together, 0.0).sum()
    pairs = together.sum()
    loss = (visual.sum() + affinity) / (len(visual) + pairs).clamp(min=1)
    terms = {"visual": visual.sum() / max(1, len(visual)), "affinity": affinity / pairs.clamp(min=1)}
    return loss, {name: value.detach() for name, value in terms.items()}


class RegionHeads(nn.Module):
    """The learned parts of the loss: a projection for each distilled layer, and the scale of the text, initially 1.

    A single projection between equal spaces starts as the identity: our pixel segmentors embed in CLIP's own space, so
    a random projection would first train the tower towards noise. The projections of a decoder's layers start at
    random, as published.
    """

    def __init__(self, layers: int, width: int, dimension: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList([nn.Linear(width, dimension) for _ in range(layers)])
        if layers == 1:
            nn.init.eye_(self.projections[0].weight)  # type: ignore[arg-type]
            nn.init.zeros_(self.projections[0].bias)  # type: ignore[arg-type]
        # One number in one dimension, because sharded parameters need a dimension.
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Embeddings (..., D) with rows of length 1, by layer, of `states` (..., W) of any length."""
        return tuple(
            F.normalize(project(state).float(), dim=-1) for project, state in zip(self.projections, states, strict=True)
        )
