"""Sparsity after each round."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opentrans_cli.errors import OptionError
from opentrans_cli.sparsity.schedule import SCHEDULES, imp_sparsities, schedule

every_schedule = pytest.mark.parametrize("name", SCHEDULES)


@st.composite
def start_and_target(draw: st.DrawFn) -> tuple[float, float]:
    target = draw(st.floats(0, 0.999))
    return draw(st.floats(0, target)), target


def test_the_schedule_of_the_paper_takes_22_rounds():
    rounds = imp_sparsities(0.9)
    assert len(rounds) == 22
    assert rounds[:3] == pytest.approx((0.1, 0.19, 0.271))
    assert rounds[20] == pytest.approx(1 - 0.9**21) and rounds[21] == 0.9
    assert schedule("rounds", 0.9) == rounds


@given(target=st.floats(0, 0.999), rate=st.floats(0.01, 0.99))
def test_rounds_grow_to_exactly_the_target_and_none_removes_more_than_the_rate(target, rate):
    rounds = imp_sparsities(target, rate=rate)
    assert rounds[-1] == target
    remaining = [1.0, *(1 - sparsity for sparsity in rounds)]
    for before, after in pairwise(remaining):
        assert (1 - rate) * before - 2e-9 <= after <= before


def test_a_target_on_the_schedule_needs_no_extra_round_and_a_faster_rate_takes_fewer():
    assert [len(imp_sparsities(target)) for target in (0.1, 0.19, 0.05, 0.191, 0.0)] == [1, 2, 1, 3, 1]
    assert imp_sparsities(0.9, rate=0.5) == schedule("rounds", 0.9, rate=0.5) == (0.5, 0.75, 0.875, 0.9)


def test_gradual_pruning_takes_these_shares_of_the_way():
    shares = {"linear": (0.25, 0.5, 0.75, 1.0), "cubic": (1 - 27 / 64, 1 - 8 / 64, 1 - 1 / 64, 1.0)}  # 1 - (1 - k/4)^3
    for name, wanted in shares.items():
        assert schedule(name, 0.8, rounds=4) == pytest.approx([0.8 * share for share in wanted])
        assert schedule(name, 0.8, start=0.4, rounds=4) == pytest.approx([0.4 + 0.4 * share for share in wanted])


@given(ends=start_and_target(), begin=st.integers(0, 100), every=st.integers(1, 9), rounds=st.integers(1, 40))
def test_cubic_is_the_formula_of_zhu_and_gupta(ends, begin, every, rounds):
    """s_t = s_f + (s_i - s_f) (1 - (t - t0) / (n dt))^3 at t = t0 + k dt; arXiv 1710.01878, Eq. 1."""
    start, target = ends
    got = schedule("cubic", target, start=start, rounds=rounds)
    for number, sparsity in enumerate(got, 1):
        time = begin + number * every
        part = 1 - (time - begin) / (len(got) * every)
        assert sparsity == pytest.approx(target + (start - target) * part**3, abs=1e-12)
    assert len(got) == (rounds if target - start > 1e-9 else 1)


@every_schedule
@given(ends=start_and_target(), rate=st.floats(0.01, 0.99), rounds=st.integers(1, 50))
def test_sparsity_rises_from_above_the_start_to_exactly_the_target(name, ends, rate, rounds):
    start, target = ends
    got = schedule(name, target, start=start, rate=rate, rounds=rounds)
    assert got[-1] == target and (name != "one-shot" or len(got) == 1)
    assert schedule(name, target, start=target) == (target,)
    assert all(before < after for before, after in pairwise(got))
    if target - start > 1e-9:
        assert got[0] > start
    else:
        assert got == (target,)


def test_rounds_go_on_where_a_sparser_tower_stands():
    """A tower between two rounds goes to the next of them, one on a round past it; rates are of the dense tower."""
    assert schedule("rounds", 0.9, start=0.6, rate=0.5) == (0.75, 0.875, 0.9)
    assert schedule("rounds", 0.9, start=0.75, rate=0.5) == (0.875, 0.9)
    assert schedule("rounds", 0.9, start=0.89, rate=0.5) == (0.9,)
    assert (
        schedule("rounds", 0.9, start=imp_sparsities(0.9)[1] - 1e-12) == imp_sparsities(0.9)[2:]
    )  # there but for rounding


def test_what_is_out_of_range_is_refused():
    target, start = "sparsity out of range: {}; choose a number from 0 to just below 1", "start of the schedule out of "
    start += "range: {}; choose a number from 0 to the target 0.5"
    rate, rounds = "pruning rate out of range: {}; choose a number above 0 and below 1", "rounds out of range: {}; "
    for name in SCHEDULES:
        for message, options in (
            *((target, {"target": value}) for value in (-0.1, 1.0, 2.0, math.nan)),
            *((start, {"target": 0.5, "start": value}) for value in (-0.1, 0.51, 1.0, math.nan)),
            *((rounds + "choose at least 1", {"target": 0.5, "rounds": value}) for value in (0, -1)),
        ):
            with pytest.raises(OptionError, match=f"^{message.format(list(options.values())[-1])}$"):
                schedule(name, **options)
    for value in (0.0, 1.0, -0.5, math.nan):
        with pytest.raises(OptionError, match=f"^{rate.format(value)}$"):
            schedule("rounds", 0.5, rate=value)
    for name in ("", "Cubic", "exponential"):
        with pytest.raises(OptionError, match=f"^unknown schedule: '{name}'; choose one of {', '.join(SCHEDULES)}"):
            schedule(name, 0.5)
