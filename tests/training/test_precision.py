"""The scale of a float16 loss follows what the gradients can bear; other precisions have none."""

from __future__ import annotations

import pytest
import torch

from opentrans_cli.training.precision import LossScale, autocast

CPU = torch.device("cpu")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_products_are_computed_in_the_precision_asked_for(precision):
    matrix = torch.ones(2, 2)
    with autocast(CPU, precision):
        assert (matrix @ matrix).dtype is getattr(torch, precision)
    assert (matrix @ matrix).dtype is torch.float32


def test_the_scale_is_that_of_torch_after_the_same_steps():
    ours, theirs = LossScale("float16"), torch.amp.GradScaler("cpu", growth_interval=2000)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0)
    theirs.scale(torch.zeros(1))
    for number in range(2300):
        bad = number in (3, 4, 250)
        weight.grad = torch.full((1,), float("inf") if bad else 1.0)
        theirs.step(optimizer)
        theirs.update()
        if bad:
            assert ours.back_off()
        else:
            ours.count_good()
        assert ours.value == theirs.get_scale()
    assert ours.value == 2.0**14


def test_a_scale_goes_on_where_it_stopped():
    first, second = LossScale("float16"), LossScale("float16")
    first.back_off()
    first.count_good()
    second.restore(first.state())
    assert second.state() == first.state() == {"value": 2.0**15, "good_steps": 1}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_without_float16_gradients_that_are_not_finite_are_the_end(precision):
    scale = LossScale(precision)
    assert not scale.back_off() and scale.value == 1 and scale.state() == {}
