"""Averages follow the parameters, show themselves for a while, and keep a pruned weight at zero."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from opentrans_cli.training.ema import Average


def two():
    trained = {"a": nn.Parameter(torch.tensor([0.0, 2.0])), "b": nn.Parameter(torch.tensor(3.0))}
    average = Average(trained, 0.9)
    average.begin()
    return trained, average


def test_an_average_moves_by_its_decay_which_rises_in_the_first_updates():
    trained, average = two()
    expected = torch.tensor([0.0, 2.0])
    for number in range(200):
        with torch.no_grad():
            trained["a"][1] = number
        average.update(number)
        decay = min(0.9, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * torch.tensor([0.0, number])
        assert average.tensors["a"][0] == 0
        torch.testing.assert_close(average.tensors["a"], expected)
    assert average.tensors["a"][1] == pytest.approx(199 - 9, rel=1e-3)  # decay / (1 - decay) behind


def test_averages_are_shown_for_a_while_and_the_parameters_come_back_to_the_bit():
    trained, average = two()
    with torch.no_grad():
        trained["a"][1] = 0.1
    for error in (None, KeyboardInterrupt):
        try:
            with average.shown():
                assert trained["a"].tolist() == [0, 2]
                if error is not None:
                    raise error
        except KeyboardInterrupt:
            pass
        assert torch.equal(trained["a"], torch.tensor([0, 0.1]))
    average.fill()
    assert trained["a"].tolist() == [0, 2]


def test_begin_forgets_what_was_before():
    trained, average = two()
    with torch.no_grad():
        trained["a"].zero_()
    average.begin()
    assert average.tensors["a"].tolist() == [0, 0]
