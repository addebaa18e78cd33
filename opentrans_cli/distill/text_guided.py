"""Text-guided distillation, the paper's loss: the student's region embeddings are pulled to the dense tower's, and
their affinities with all regions of the image to those of the class names.

OpenTrans (arXiv 2404.07448), Sec. 3.2 and Table 5, in the squared form of the published training run. Shapes: R regions
of a batch, D embedding; visual and text embeddings have rows of length 1.
"""

from __future__ import annotations

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

    The loss is the mean over all E1 and all E2 of the batch together, so images weigh by the square of their regions.
    "vision-guided" puts v_i.v_j in place of the text's affinity, "vanilla" leaves E2 out. `student`, `teacher` and
    `text` are (R, D) on one device, `image_of` int64 (R,). Without regions: zero, with zero gradients.
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


class RegionHead(nn.Module):
    """The learned parts of the loss: a projection of pooled embeddings, and the scale of the text, 1 at first.

    The projection starts as the identity: our segmentors embed in CLIP's own space, so a random one would first have
    to unlearn itself, and the tower would meanwhile be pulled by noise. (The published head starts from decoder queries
    of another space.)
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.projection = nn.Linear(dimension, dimension)
        nn.init.eye_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, pooled: Tensor) -> Tensor:
        """Student embeddings (R, D), rows of length 1, of pooled ones (R, D) of any length."""
        return F.normalize(self.projection(pooled), dim=1)
