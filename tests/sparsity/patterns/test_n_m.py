"""N:M masks: exactly N of every M consecutive inputs, equality with a sort of each group, and nested rounds."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from opentrans_cli.errors import MaskError, OptionError
from opentrans_cli.sparsity.masking import sparsity_of
from opentrans_cli.sparsity.patterns.base import pattern_for
from opentrans_cli.sparsity.patterns.n_m import LARGEST_M, NOfM, n_m

VALUES = [-math.inf, -1.0, -0.0, 0.0, 1e-45, 0.5, 1.0, 2.0, math.inf]


def groups(tensor: torch.Tensor, size: int) -> torch.Tensor:
    """(O, I, ...) -> (number of groups, size): the inputs of each group side by side."""
    return tensor.movedim(1, -1).reshape(-1, size)


@st.composite
def patterns(draw: st.DrawFn) -> NOfM:
    size = draw(st.integers(2, 6))
    return n_m(f"{draw(st.integers(1, size - 1))}:{size}", nn.Identity())


@st.composite
def cases(draw: st.DrawFn) -> tuple[NOfM, int, torch.Tensor]:
    """A pattern, its M, and the scores of a linear layer or a convolution, mostly tied."""
    pattern = draw(patterns())
    size = int(pattern.name.split(":")[1])
    shape = (draw(st.integers(1, 3)), size * draw(st.integers(1, 3)), *draw(st.sampled_from([(), (1, 1), (2, 3)])))
    count = math.prod(shape)
    values = draw(st.lists(st.sampled_from(VALUES), min_size=count, max_size=count))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    return pattern, size, torch.tensor(values, dtype=torch.float64).to(dtype).reshape(shape)


@settings(deadline=None, max_examples=100)
@given(case=cases())
def test_every_group_keeps_its_n_highest_scores_and_among_equal_ones_the_earlier(case):
    pattern, size, score = case
    mask = pattern.masks({"a": score}, pattern.sparsity)["a"]
    assert mask.shape == score.shape and mask.dtype == torch.bool
    kept = int(pattern.name.split(":")[0])
    for row, keeps in zip(groups(score, size).tolist(), groups(mask, size).tolist(), strict=True):
        order = sorted(range(size), key=lambda index: (row[index], -index))
        assert [index for index in range(size) if keeps[index]] == sorted(order[size - kept :])


@settings(deadline=None, max_examples=60)
@given(case=cases(), shares=st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted))
def test_rounds_cut_every_group_alike_and_nest(case, shares):
    pattern, size, score = case
    kept = int(pattern.name.split(":")[0])
    loose, tight = (pattern.masks({"a": score}, share * pattern.sparsity)["a"] for share in shares)
    assert not bool((tight & ~loose).any())
    assert torch.equal(pattern.masks({"a": score}, shares[1] * pattern.sparsity, inside={"a": loose})["a"], tight)
    for mask, share in ((loose, shares[0]), (tight, shares[1])):
        counts = groups(mask, size).sum(1)
        assert bool((counts == counts[0]).all()) and kept <= counts[0]
        assert sparsity_of({"a": mask}) <= share * pattern.sparsity + 1e-8


@settings(deadline=None, max_examples=60)
@given(case=cases(), data=st.data())
def test_what_was_removed_stays_removed_and_counts_whatever_its_score(case, data):
    pattern, size, score = case
    kept = int(pattern.name.split(":")[0])
    before = groups(torch.ones_like(score, dtype=torch.bool), size)
    for row in before:
        row[data.draw(st.lists(st.integers(0, size - 1), max_size=size - kept))] = False
    inside = before.reshape(*score.movedim(1, -1).shape).movedim(-1, 1)
    mask = pattern.masks({"a": score}, pattern.sparsity, inside={"a": inside})["a"]
    rows = zip(groups(score, size).tolist(), groups(mask, size).tolist(), before.tolist(), strict=True)
    for row, keeps, had in rows:
        order = sorted((index for index in range(size) if had[index]), key=lambda index: (row[index], -index))
        assert [index for index in range(size) if keeps[index]] == sorted(order[len(order) - kept :])


def test_inputs_are_grouped_for_each_output_and_kernel_position():
    score = torch.zeros(1, 4, 1, 2)
    score[0, :2, 0, 0] = 1
    score[0, 2:, 0, 1] = 1
    mask = pattern_for("2:4", nn.Identity()).masks({"conv": score}, 0.5)["conv"]
    assert torch.equal(mask, score.bool())


def test_2_of_4_passes_through_3_of_4_on_its_way():
    pattern, score = n_m("2:4", nn.Identity()), {"a": torch.rand(3, 8)}
    sparsities = [0.0, 0.24, 0.25, 0.49, 0.5 - 1e-10, 0.5, 0.5 + 1e-10]
    assert [sparsity_of(pattern.masks(score, s)) for s in sparsities] == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.5]


def test_a_last_round_that_misses_the_sparsity_by_rounding_is_the_last_round():
    mask = n_m("1:16", nn.Identity()).masks({"a": torch.rand(2, 16)}, 15 / 16 - 9e-10)["a"]
    assert mask.sum(1).tolist() == [1, 1]


@pytest.mark.parametrize("text", [f"{n}:{m}" for m in range(2, LARGEST_M + 1) for n in range(1, m)])
def test_the_sparsity_of_every_pattern_is_reached_exactly(text):
    pattern = pattern_for(text, nn.Identity())
    kept, size = map(int, text.split(":"))
    assert pattern.name == text and pattern.sparsity == 1 - kept / size
    mask = pattern.masks({"a": torch.rand(2, size, 1, 1, generator=torch.Generator().manual_seed(0))}, pattern.sparsity)
    assert mask["a"].sum(1).flatten().tolist() == [kept, kept]


def test_the_memory_format_of_scores_and_previous_masks_does_not_matter():
    score = torch.rand(4, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    pattern = n_m("2:4", nn.Identity())
    first = pattern.masks({"a": score}, 0.25)
    last = {"a": score.to(memory_format=torch.channels_last)}
    assert torch.equal(pattern.masks(last, 0.25)["a"], first["a"])
    previous = {"a": first["a"].to(memory_format=torch.channels_last)}
    assert torch.equal(pattern.masks(last, 0.5, inside=previous)["a"], pattern.masks({"a": score}, 0.5)["a"])


@pytest.mark.parametrize("text", ["n_m", "2", "2:", ":4", "2:4:8", "-1:4", "a:b", "99999:4"])
def test_a_text_without_the_two_numbers_is_refused(text):
    with pytest.raises(OptionError, match=f"without its numbers: '{text}'; write N:M such as 2:4"):
        n_m(text, nn.Identity())


@pytest.mark.parametrize("text", ["0:4", "4:4", "5:4", "1:1", f"2:{LARGEST_M + 1}"])
def test_numbers_out_of_range_are_refused(text):
    with pytest.raises(OptionError, match=f"out of range: '{text}'; choose N:M with 1 <= N < M <= {LARGEST_M}"):
        pattern_for(text, nn.Identity())


def test_layers_whose_inputs_cannot_be_grouped_are_told_and_refused():
    pattern = n_m("2:4", nn.Identity())
    assert pattern.problem("conv", (8, 16, 3, 3)) is None and pattern.problem("linear", (3, 4)) is None
    assert pattern.problem("depthwise", (8, 1, 3, 3)) == "inputs not divisible by 4: 1"
    with pytest.raises(OptionError, match="does not fit 2:4: stem, inputs not divisible by 4: 3; leave it out"):
        pattern.masks({"stem": torch.rand(8, 3, 3, 3)}, 0.5)


@pytest.mark.parametrize("sparsity", [0.5 + 1e-6, 0.75, 0.999])
def test_a_sparsity_above_that_of_the_pattern_is_refused(sparsity):
    with pytest.raises(OptionError, match=rf"sparsity above that of 2:4: {sparsity}; ask for 0\.5"):
        n_m("2:4", nn.Identity()).masks({"a": torch.rand(2, 4)}, sparsity)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, math.nan])
def test_a_sparsity_out_of_range_is_refused(sparsity):
    with pytest.raises(OptionError, match="out of range"):
        n_m("2:4", nn.Identity()).masks({"a": torch.rand(2, 4)}, sparsity)


def test_a_group_that_lost_too_many_already_is_refused_by_layer():
    inside = {"a": torch.tensor([[True, True, True, True], [False, False, True, False]])}
    with pytest.raises(OptionError, match=r"already pruned: 0\.5, a group in a keeps fewer than 2 of 4; start from a"):
        n_m("2:4", nn.Identity()).masks({"a": torch.rand(2, 4)}, 0.5, inside=inside)


def test_nan_scores_and_previous_masks_that_do_not_match_are_refused_by_layer():
    pattern = n_m("1:2", nn.Identity())
    with pytest.raises(MaskError, match="NaN: a;"):
        pattern.masks({"a": torch.tensor([[1.0, math.nan]])}, 0.5)
    with pytest.raises(MaskError, match="no mask of the previous round: a;"):
        pattern.masks({"a": torch.rand(2, 4)}, 0.5, inside={})
    with pytest.raises(MaskError, match=r"differ in shape: a, \(4, 2\) and \(2, 4\)"):
        pattern.masks({"a": torch.rand(2, 4)}, 0.5, inside={"a": torch.ones(4, 2, dtype=torch.bool)})


def test_layers_stay_as_chosen_and_nothing_beside_them_is_touched():
    pattern = n_m("2:4", nn.Identity())
    assert pattern.layers(("b", "a")) == ("b", "a")
    assert pattern.coupled({"a": torch.zeros(2, 4, dtype=torch.bool)}) == {}
