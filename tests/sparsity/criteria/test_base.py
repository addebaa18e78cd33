"""A tower is scored in eval mode, layer by layer, and is afterwards as it was."""

from __future__ import annotations

import copy

import pytest
import torch

from opentrans_cli.sparsity.criteria.base import empty_sums, scoring, weight_and_gradient


def test_only_the_layers_get_gradients_even_where_they_are_frozen(tower, images, evidence_of):
    tower.conv1.weight.requires_grad_(False)
    evidence = evidence_of(tower, [images], layers=("conv1", "proj"))
    with torch.no_grad(), scoring(evidence):
        evidence.readout(images).sum().backward()
        with_gradient = {name for name, parameter in tower.named_parameters() if parameter.grad is not None}
        assert with_gradient == {"conv1.weight", "proj.weight"}
        assert weight_and_gradient(tower, "conv1")[1].any()
    assert {name for name, parameter in tower.named_parameters() if not parameter.requires_grad} == {"conv1.weight"}
    assert all(parameter.grad is None for parameter in tower.parameters())


def test_a_tower_is_as_it_was_also_after_an_error(tower, images, evidence_of):
    tower.train()
    tower.bn2.eval()  # frozen statistics in a tower that is trained
    before, modes = copy.deepcopy(tower.state_dict()), [module.training for module in tower.modules()]
    with pytest.raises(ZeroDivisionError), scoring(evidence_of(tower, [images])):
        assert not any(module.training for module in tower.modules())
        tower(images).sum().backward()
        raise ZeroDivisionError
    assert [module.training for module in tower.modules()] == modes
    assert all(parameter.requires_grad for parameter in tower.parameters())
    assert all(parameter.grad is None for parameter in tower.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in tower.state_dict().items())


def test_a_layer_nothing_flows_back_to_has_a_gradient_of_zeros_and_sums_are_double(tower, images, evidence_of):
    with scoring(evidence_of(tower, [images])):
        tower.hidden(images).sum().backward()
        assert weight_and_gradient(tower, "conv1")[1].any()
        weight, gradient = weight_and_gradient(tower, "proj")
    assert gradient.shape == weight.shape == (5, 6) and not gradient.any()
    sums = empty_sums(evidence_of(tower.bfloat16(), [images]))
    assert [tuple(total.shape) for total in sums.values()] == [(4, 3, 3, 3), (6, 2, 3, 3), (5, 6)]
    assert all(total.dtype == torch.float64 and not total.any() for total in sums.values())
