"""Eigenvalues of layers against the plain singular-value route, and the errors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from opentrans_cli.errors import SpectrumError
from opentrans_cli.spectral.esd import eigenvalues, log_norm, stable_rank


@pytest.mark.parametrize("shape", [(8, 5, 3, 3), (5, 8, 3, 3), (16, 4, 1, 1), (6, 6, 1, 3), (7, 1, 3, 3)])
def test_eigenvalues_of_a_convolution_are_halved_squared_singular_values_of_its_slices(shape):
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    slow = []
    for row in range(shape[2]):
        for column in range(shape[3]):
            part = weight[:, :, row, column].astype(np.float64) * math.sqrt(0.5)
            slow.append(np.linalg.svd(part, compute_uv=False) ** 2)
    expected = np.sort(np.concatenate(slow))
    np.testing.assert_allclose(eigenvalues(weight), expected[expected > 1e-5], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
def test_eigenvalues_of_a_linear_map_are_plain_squared_singular_values(shape):
    weight = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    expected = np.sort(np.linalg.svd(weight.astype(np.float64), compute_uv=False) ** 2)
    np.testing.assert_allclose(eigenvalues(weight), expected, rtol=1e-9, atol=1e-12)


def test_only_eigenvalues_above_the_threshold_are_kept():
    assert eigenvalues(np.diag([1.0, 0.1, 0.001])).tolist() == pytest.approx([0.01, 1.0])


def test_all_eigenvalues_are_kept_when_none_is_above_the_threshold():
    assert eigenvalues(np.diag([1e-3, 2e-3])).tolist() == pytest.approx([1e-6, 4e-6])
    assert eigenvalues(np.zeros((4, 3, 2, 2))).tolist() == [0.0] * 12


def test_half_precision_weights_are_accepted():
    values = eigenvalues(np.eye(3, dtype=np.float16))
    assert values.dtype == np.float64 and values.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite_is_refused(bad):
    weight = np.ones((4, 4, 3, 3))
    weight[1, 2, 0, 1] = bad
    with pytest.raises(SpectrumError, match="NaN or infinite"):
        eigenvalues(weight)


@pytest.mark.parametrize("shape", [(4,), (4, 4, 3), (2, 2, 2, 2, 2), ()])
def test_other_numbers_of_dimensions_are_refused(shape):
    with pytest.raises(SpectrumError, match=f"weight of {len(shape)} dimensions"):
        eigenvalues(np.ones(shape))


def test_an_empty_weight_is_refused():
    with pytest.raises(SpectrumError, match="empty"):
        eigenvalues(np.ones((0, 4, 3, 3)))


def test_rank_and_norm_of_a_hand_computed_spectrum_and_of_a_zero_matrix():
    values, zeros = np.array([10.0, 40.0, 50.0]), np.zeros(4)
    assert (stable_rank(values), log_norm(values)) == (2.0, 2.0)
    assert (stable_rank(zeros), log_norm(zeros)) == (0.0, -math.inf)


def test_a_weight_whose_squares_overflow_is_refused():
    with pytest.raises(SpectrumError, match="values that are too large"):
        eigenvalues(np.full((3, 3), 1e200))
