"""What is drawn follows from the numbers given, and the caller's generator goes on where it was."""

from __future__ import annotations

import pytest
import torch

from opentrans_cli.training.generators import generators_kept, seed_all

CPU = torch.device("cpu")


def drawn(*numbers):
    seed_all(CPU, *numbers)
    return torch.rand(8).tolist()


def test_the_same_numbers_draw_the_same_and_others_something_else():
    assert drawn(0, 1) == drawn(0, 1)
    draws = [drawn(*numbers) for numbers in [(0, 0), (0, 1), (1, 0), (1, 1), (11,), (0,), (0, 2)]]
    assert len({tuple(values) for values in draws}) == 7


def test_the_callers_generator_goes_on_where_it_was():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = torch.rand(2)
    with pytest.raises(KeyboardInterrupt), generators_kept(CPU):
        drawn(5)
        raise KeyboardInterrupt
    assert torch.equal(torch.cat([first, torch.rand(2)]), expected)
