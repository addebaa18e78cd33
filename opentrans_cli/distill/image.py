"""Label-free image distillation: the subnet's image embeddings are trained to match the dense tower's.

The loss is the first term of the paper's distillation loss (OpenTrans, Sec. 3.2: distance of visual embeddings), on
whole images and crops instead of labelled regions, so that pruning needs neither labels nor a segmentation framework.
Teacher and student embeddings are pooled and L2-normalised; the teacher's are computed once, because the inputs are
fixed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@torch.no_grad()
def embed(visual: nn.Module, images: Tensor) -> Tensor:
    """Unit-length embeddings (B, D), float32, of normalised images (B, 3, S, S), S the tower's own size."""
    return F.normalize(visual(images).float(), dim=-1)


def image_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance of unit vectors, 0-d, in [0, 4].

    `student`: embeddings (B, D) as the tower gives them; `teacher`: unit rows (B, D).
    """
    return (F.normalize(student.float(), dim=-1) - teacher).square().sum(-1).mean()
