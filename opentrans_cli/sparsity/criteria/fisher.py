"""Label-free sensitivity of the embedding: w^2 E[(d(r.e)/dw)^2], e the tower's unit output, r a random probe.

Setting weight w to zero moves the output e of an image by about -w de/dw; the squared length of that, averaged over
images, is the score. For r drawn from N(0, I), E_r[(d(r.e)/dw)^2] = |de/dw|^2, so one backward pass gives an
estimate for every weight. Probes are independent between images, so the cross terms of a batch's gradient vanish in
expectation and the squared gradient of a whole batch is an unbiased estimate of the sum over its images: no per-image
gradients. A second-order view of pruning (optimal brain damage, LeCun et al. 1989) whose function is the frozen CLIP's
own embedding instead of a task's loss. Rescaling an output channel before an eval-mode BatchNorm changes no score, so
folding BatchNorm into the weights would change none either.
"""

from __future__ import annotations

import torch
from torch import Tensor

from opentrans_cli.clip.layers import layer_weight
from opentrans_cli.sparsity.criteria.base import Criterion, Evidence, empty_sums, scoring, weight_and_gradient


def fisher_scores(evidence: Evidence) -> dict[str, Tensor]:
    """w^2 times the mean over images and probes of the squared gradient of r.e; float32.

    It costs `probes` backward passes over the batches. The relative error of a weight's score falls with one over the
    root of the number of batches times probes, since a batch is one sample of the gradient.
    """
    assert evidence.batches is not None
    sums = empty_sums(evidence)
    images = torch.zeros((), dtype=torch.float64)
    with scoring(evidence):
        for number, batch in evidence.batches():
            embedding = evidence.readout(batch)
            for probe in range(evidence.probes):
                drawn = _probe(embedding, (evidence.seed, number, probe))
                more = probe + 1 < evidence.probes
                (drawn * embedding).sum().backward(retain_graph=more)  # type: ignore[no-untyped-call]
                _add_squares(evidence, sums)
            images += len(batch)
    evidence.total(images)
    scores = {}
    for layer, total in sums.items():
        evidence.total(total)
        weight = layer_weight(evidence.visual, layer)
        mean = total / (float(images) * evidence.probes)
        scores[layer] = (mean * weight.to(total.dtype).square()).to(torch.float32)
    return scores


def _probe(embedding: Tensor, name: tuple[int, ...]) -> Tensor:
    """N(0, 1) numbers in the shape of `embedding`, a function of `name` alone: made on the CPU for every device."""
    seed = 0
    for part in name:
        seed = (seed * 1_000_003 + part) % 2**63
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(embedding.shape, generator=generator).to(embedding.device)


def _add_squares(evidence: Evidence, sums: dict[str, Tensor]) -> None:
    for layer, total in sums.items():
        _, gradient = weight_and_gradient(evidence.visual, layer)
        total += gradient.square()  # squared in float32: exact enough, and half the memory
    evidence.visual.zero_grad(set_to_none=True)


FISHER = Criterion("fisher", needs_images=True, score=fisher_scores)
