"""Sparsity after each round."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opentrans_cli.errors import OptionError
from opentrans_cli.sparsity.schedule import imp_sparsities, one_shot


def test_the_schedule_of_the_paper_takes_22_rounds():
    rounds = imp_sparsities(0.9)
    assert len(rounds) == 22
    assert rounds[:3] == pytest.approx((0.1, 0.19, 0.271))
    assert rounds[20] == pytest.approx(1 - 0.9**21) and rounds[21] == 0.9


@given(target=st.floats(0, 0.999), rate=st.floats(0.01, 0.99))
def test_rounds_grow_to_exactly_the_target_and_none_removes_more_than_the_rate(target, rate):
    rounds = imp_sparsities(target, rate=rate)
    assert rounds[-1] == target
    remaining = [1.0, *(1 - sparsity for sparsity in rounds)]
    for before, after in pairwise(remaining):
        assert (1 - rate) * before - 2e-9 <= after <= before


@pytest.mark.parametrize(("target", "count"), [(0.1, 1), (0.19, 2), (0.05, 1), (0.191, 3), (0.0, 1)])
def test_a_target_on_the_schedule_needs_no_extra_round(target, count):
    assert len(imp_sparsities(target)) == count


def test_a_faster_rate_takes_fewer_rounds():
    assert imp_sparsities(0.9, rate=0.5) == (0.5, 0.75, 0.875, 0.9)


def test_one_shot_is_a_single_round():
    assert one_shot(0.9) == (0.9,)


@pytest.mark.parametrize("schedule", [imp_sparsities, one_shot])
@pytest.mark.parametrize("target", [-0.1, 1.0, 2.0, math.nan])
def test_a_target_out_of_range_is_refused(schedule, target):
    with pytest.raises(OptionError, match=f"out of range: {target}; choose a number from 0 to just below 1"):
        schedule(target)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.5, math.nan])
def test_a_rate_out_of_range_is_refused(rate):
    with pytest.raises(OptionError, match=f"out of range: {rate}; choose a number above 0 and below 1"):
        imp_sparsities(0.5, rate=rate)
