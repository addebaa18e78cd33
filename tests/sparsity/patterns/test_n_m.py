"""N:M masks: exactly N of every M consecutive inputs, equality with a sort of each group, and nested rounds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opentrans_cli.errors import OptionError
from opentrans_cli.sparsity.patterns.base import pattern_for
from opentrans_cli.sparsity.patterns.n_m import LARGEST_M, NOfM, n_m
from opentrans_cli.sparsity.selection import sparsity_of

Array = np.ndarray[Any, Any]
RANDOM = np.random.default_rng(0).random
VALUES = [-math.inf, -1.0, -0.0, 0.0, 1e-45, 0.5, 1.0, 2.0, math.inf]


def groups(array: Array, size: int) -> Array:
    """(O, I, ...) -> (number of groups, size): the inputs of each group side by side."""
    return np.moveaxis(array, 1, -1).reshape(-1, size)


@st.composite
def patterns(draw: st.DrawFn) -> NOfM:
    size = draw(st.integers(2, 6))
    return n_m(f"{draw(st.integers(1, size - 1))}:{size}", {})


@st.composite
def cases(draw: st.DrawFn) -> tuple[NOfM, int, Array]:
    """A pattern, its M, and the scores of a linear layer or a convolution, mostly tied."""
    pattern = draw(patterns())
    size = int(pattern.name.split(":")[1])
    shape = (draw(st.integers(1, 3)), size * draw(st.integers(1, 3)), *draw(st.sampled_from([(), (1, 1), (2, 3)])))
    count = math.prod(shape)
    values = draw(st.lists(st.sampled_from(VALUES), min_size=count, max_size=count))
    dtype = draw(st.sampled_from([np.float32, np.float64, np.float16]))
    return pattern, size, np.array(values).astype(dtype).reshape(shape)


@settings(deadline=None, max_examples=100)
@given(case=cases(), data=st.data())
def test_every_group_keeps_its_n_highest_scores_of_those_it_had_and_among_equal_ones_the_earlier(case, data):
    pattern, size, score = case
    kept = int(pattern.name.split(":")[0])
    before = groups(np.ones(score.shape, np.bool_), size)
    for row in before:
        row[data.draw(st.lists(st.integers(0, size - 1), max_size=size - kept))] = False
    inside = {"a": np.moveaxis(before.reshape(np.moveaxis(score, 1, -1).shape), -1, 1)}
    mask = pattern.masks({"a": score}, pattern.sparsity, inside=None if before.all() else inside)["a"]
    assert mask.shape == score.shape and mask.dtype == np.bool_
    rows = zip(groups(score, size).tolist(), groups(mask, size).tolist(), before.tolist(), strict=True)
    for row, keeps, had in rows:
        order = sorted((index for index in range(size) if had[index]), key=lambda index: (row[index], -index))
        assert [index for index in range(size) if keeps[index]] == sorted(order[len(order) - kept :])


def test_inputs_are_grouped_for_each_output_and_kernel_position():
    score = np.zeros((1, 4, 1, 2))
    score[0, :2, 0, 0] = 1
    score[0, 2:, 0, 1] = 1
    mask = pattern_for("2:4", {}).masks({"conv": score}, 0.5)["conv"]
    assert np.array_equal(mask, score.astype(np.bool_))


def test_2_of_4_passes_through_3_of_4_on_its_way():
    pattern, score = n_m("2:4", {}), {"a": RANDOM((3, 8))}
    sparsities = [0.0, 0.24, 0.25, 0.49, 0.5 - 1e-10, 0.5, 0.5 + 1e-10]
    assert [sparsity_of(pattern.masks(score, s)) for s in sparsities] == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.5]


def test_the_sparsity_of_every_pattern_is_reached_exactly():
    for size in range(2, LARGEST_M + 1):
        score = {"a": RANDOM((2, size, 1, 1))}
        for kept in range(1, size):
            pattern = pattern_for(f"{kept}:{size}", {})
            assert pattern.name == f"{kept}:{size}" and pattern.sparsity == 1 - kept / size
            for sparsity in (pattern.sparsity, pattern.sparsity - 9e-10):  # as rounds reach it, but for rounding
                assert pattern.masks(score, sparsity)["a"].sum(1).flatten().tolist() == [kept, kept], pattern.name


def test_texts_and_sparsities_out_of_range_are_refused():
    for text in ("n_m", "2", "2:", ":4", "2:4:8", "-1:4", "a:b", "99999:4"):
        with pytest.raises(OptionError, match=f"without its numbers: '{text}'; write N:M such as 2:4"):
            n_m(text, {})
    for text in ("0:4", "4:4", "5:4", "1:1", f"2:{LARGEST_M + 1}"):
        with pytest.raises(OptionError, match=f"out of range: '{text}'; choose N:M with 1 <= N < M <= {LARGEST_M}"):
            pattern_for(text, {})
    for sparsity in (0.5 + 1e-6, 0.75, 0.999):
        with pytest.raises(OptionError, match=rf"sparsity above that of 2:4: {sparsity}; ask for 0\.5"):
            n_m("2:4", {}).masks({"a": RANDOM((2, 4))}, sparsity)


def test_layers_whose_inputs_cannot_be_grouped_are_told_and_refused():
    pattern = n_m("2:4", {})
    assert pattern.problem("conv", (8, 16, 3, 3)) is None and pattern.problem("linear", (3, 4)) is None
    assert pattern.problem("depthwise", (8, 1, 3, 3)) == "inputs not divisible by 4: 1"
    with pytest.raises(OptionError, match="does not fit 2:4: stem, inputs not divisible by 4: 3; leave it out"):
        pattern.masks({"stem": RANDOM((8, 3, 3, 3))}, 0.5)


def test_a_group_that_lost_too_many_already_is_refused_by_layer():
    inside = {"a": np.array([[True, True, True, True], [False, False, True, False]])}
    with pytest.raises(OptionError, match=r"already pruned: 0\.5, a group in a keeps fewer than 2 of 4; start from a"):
        n_m("2:4", {}).masks({"a": RANDOM((2, 4))}, 0.5, inside=inside)
