"""Fisher scores against per-image gradients of every output, and what they must not depend on."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opentrans_cli.sparsity.criteria.fisher import FISHER

LAYERS = ("conv1", "conv2", "proj")


def squared_gradients(tower: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """|de/dw|^2 of one image (3, S, S): the squared gradients of every output component, summed."""
    embedding = F.normalize(tower(image[None]), dim=-1).flatten()
    weights = [tower.get_submodule(layer).weight for layer in LAYERS]
    rows = [torch.autograd.grad(component, weights, retain_graph=True) for component in embedding]
    return {layer: sum(row[n].square() for row in rows) for n, layer in enumerate(LAYERS)}  # type: ignore[misc]


def exact(tower: nn.Module, batches: list[Tensor], samples: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Expectation of the scores, and standard error of a mean of `samples` scores of one probe, by layer.

    A batch's gradient is normal with variance V, the sum over its images, so its square has variance 2 V^2.
    """
    count = sum(len(batch) for batch in batches)
    result = {}
    for layer in LAYERS:
        sums = [sum(squared_gradients(tower, image)[layer] for image in batch) for batch in batches]
        scale = tower.get_submodule(layer).weight.detach().square() / count
        variance = sum(2 * total.square() for total in sums)
        result[layer] = (scale * sum(sums), scale * (variance / samples).sqrt())  # type: ignore[union-attr]
    return result


def test_scores_converge_to_the_mean_squared_change_of_the_embedding(tower, images, evidence_of):
    """Within standard errors that fall with the root of the number of probes: 5 % at 400 in two batches."""
    batches = [images[:4], images[4:]]
    for probes in (40, 400):
        scores = FISHER.score(evidence_of(tower, batches, probes=probes))
        for layer, (mean, error) in exact(tower, batches, probes).items():
            off = (scores[layer] - mean).abs()
            assert scores[layer].dtype == torch.float32 and (off <= 5 * error + 1e-7 * mean).all()
            assert off.sum() <= mean.sum() * 2 / probes**0.5


def test_scores_of_one_probe_are_unbiased(tower, images, evidence_of):
    batches, samples = [images[:3], images[3:]], 150
    means = dict.fromkeys(LAYERS, torch.zeros(()).double())
    for seed in range(samples):
        scores = FISHER.score(evidence_of(tower, batches, seed=seed))
        means = {layer: total + scores[layer].double() / samples for layer, total in means.items()}
    for layer, (mean, error) in exact(tower, batches, samples).items():
        off = means[layer] - mean
        assert (off.abs() <= 5 * error + 1e-7 * mean).all()
        # As large as chance makes it, neither larger nor smaller: the law of the error holds too.
        alive = error > 0
        assert 0.3 < (off[alive] / error[alive]).square().mean() < 3


def test_folding_batchnorm_into_the_weights_changes_no_score(tower, images, evidence_of):
    folded = copy.deepcopy(tower)
    for conv, norm in (("conv1", "bn1"), ("conv2", "bn2")):
        folded.set_submodule(conv, nn.utils.fuse_conv_bn_eval(tower.get_submodule(conv), tower.get_submodule(norm)))
        folded.set_submodule(norm, nn.Identity())
    torch.testing.assert_close(folded(images), tower(images))
    assert not torch.allclose(folded.conv1.weight, tower.conv1.weight)
    scores, others = (FISHER.score(evidence_of(t, [images], probes=3)) for t in (tower, folded))
    for layer in LAYERS:
        torch.testing.assert_close(others[layer], scores[layer], rtol=1e-5, atol=0)


def test_probes_follow_from_seed_number_of_the_batch_and_number_of_the_probe(tower, images, evidence_of):
    def conv1(number: int = 5, **more: int) -> Tensor:
        return FISHER.score(evidence_of(tower, [images], numbers=[number], **more))["conv1"].double()

    torch.manual_seed(7)
    state = torch.get_rng_state()
    score = conv1(seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(8)
    assert torch.equal(conv1(seed=1), score)
    others = [conv1(seed=2), conv1(6, seed=1), 2 * conv1(seed=1, probes=2) - score]  # the last: probe 1 alone
    for other in others:
        assert not torch.allclose(other, score, rtol=0.05)
    assert not torch.allclose(others[0], others[1], rtol=0.05)


def test_images_of_a_batch_are_probed_independently(tower, images, evidence_of):
    """One probe for all would give a batch of n equal images n^2 times the squares of one, not n times."""
    image = images[:1]
    scores, ones = (FISHER.score(evidence_of(tower, [image.expand(count, -1, -1, -1)], probes=200)) for count in (8, 1))
    for layer in LAYERS:
        assert float(scores[layer].sum()) == pytest.approx(float(ones[layer].sum()), rel=0.3)


def test_a_weight_the_output_does_not_depend_on_scores_zero(tower, images, evidence_of):
    tower.bn1.weight.data[1], tower.bn1.bias.data[1] = 0, -1  # channel 1 is dead behind its ReLU
    scores = FISHER.score(evidence_of(tower, [images]))
    assert not scores["conv1"][1].any() and scores["conv1"][0].any()
    assert not scores["conv2"][:3, 1].any() and scores["conv2"][:3, 0].any()
