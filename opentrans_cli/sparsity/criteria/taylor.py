"""|w dL/dw|: first-order change of a loss without labels (Molchanov et al. 2019, with CLIP's embedding as the task).

The distillation loss itself has no gradient at the dense tower, so L is instance discrimination: each image's embedding
against the embeddings that the same tower gives all images of its batch, held fixed (InfoNCE at CLIP's initial
temperature, 0.07), averaged over images and positions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from opentrans_cli.errors import OptionError
from opentrans_cli.sparsity.criteria.base import Criterion, Evidence, empty_sums, scoring, weight_and_gradient

_TEMPERATURE = 0.07  # Radford et al. 2021, Sec. 2.5


def taylor_scores(evidence: Evidence) -> dict[str, Tensor]:
    """|w times the gradient of the mean loss over all batches|; float32.

    A batch of one image is skipped. Raises OptionError if all are.
    """
    assert evidence.batches is not None
    sums = empty_sums(evidence)
    losses = torch.zeros((), dtype=torch.float64)
    with scoring(evidence):
        for _, batch in evidence.batches():
            if len(batch) < 2:
                continue  # its loss is 0: there is no other image to compare with
            embedding = evidence.readout(batch)
            logits = torch.einsum("bpd,cpd->pbc", embedding, embedding.detach()) / _TEMPERATURE
            target = torch.arange(len(batch), device=batch.device).expand(len(logits), -1)
            F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum").backward()  # type: ignore[no-untyped-call]
            for layer, total in sums.items():
                total += weight_and_gradient(evidence.visual, layer)[1]
            evidence.visual.zero_grad(set_to_none=True)
            losses += target.numel()
    evidence.total(losses)
    if not losses:
        raise OptionError("criterion taylor tells images apart: there is only one; add images, or choose fisher")
    scores = {}
    for layer, total in sums.items():
        evidence.total(total)
        weight, _ = weight_and_gradient(evidence.visual, layer)
        scores[layer] = (total / float(losses) * weight.to(total.dtype)).abs().to(torch.float32)
    return scores


TAYLOR = Criterion("taylor", needs_images=True, score=taylor_scores)
