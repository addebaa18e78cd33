"""Random weights of a layer's shape and scale: known alphas, seeds, and that trained-like weights lie outside."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from opentrans_cli.errors import SpectrumError
from opentrans_cli.spectral.esd import eigenvalues
from opentrans_cli.spectral.estimators import ESTIMATORS, estimator
from opentrans_cli.spectral.null import null_alphas


@pytest.mark.parametrize("name", ESTIMATORS.names())
def test_the_control_is_the_alpha_of_gaussian_weights(name):
    fit, random = estimator(name), np.random.Generator(np.random.PCG64(3))
    expected = [fit(eigenvalues(0.2 * torch.from_numpy(random.standard_normal((20, 10, 3, 3))))).alpha for _ in "ab"]
    assert null_alphas((20, 10, 3, 3), 0.2, fit, draws=2, seed=3).tolist() == expected


def test_the_scale_matters_only_through_the_threshold():
    fit = estimator("xmin_mid")
    large, larger, small = (null_alphas((32, 32), scale, fit, draws=3, seed=0) for scale in (1.0, 10.0, 1e-3))
    torch.testing.assert_close(large, larger)
    assert not torch.allclose(large, small)


def test_seeds_alone_decide():
    fit = estimator("xmin_mid")
    first = null_alphas((16, 16), 1.0, fit, draws=3, seed=0).tolist()
    torch.manual_seed(5)
    assert null_alphas((16, 16), 1.0, fit, draws=3, seed=0).tolist() == first
    assert null_alphas((16, 16), 1.0, fit, draws=3, seed=1).tolist() != first


def test_the_upper_half_of_a_marchenko_pastur_bulk_is_met():
    # For square matrices lambda = 4 n sin(t)**2 with density (2 / pi) cos(t)**2 2 dt on [0, pi / 2].
    angles = (np.arange(200_000) + 0.5) / 200_000 * np.pi / 2
    mass = 4 / np.pi * np.cos(angles) ** 2 * (np.pi / 2 / 200_000)
    upper = np.cumsum(mass) >= 0.5
    logs = 2 * np.log(np.sin(angles[upper]))
    expected = 1 + 0.5 / float((mass[upper] * (logs - logs[0])).sum())
    assert float(null_alphas((400, 400), 1.0, estimator("xmin_mid"), draws=3, seed=0).mean()) == pytest.approx(
        expected, rel=0.03
    )


def test_strong_directions_put_a_weight_outside_its_control():
    random = np.random.RandomState(0)
    weight = random.standard_normal((128, 16)) @ random.standard_normal((16, 128)) + random.standard_normal((128, 128))
    fit, scale = estimator("xmin_mid"), float(np.sqrt((weight**2).mean()))
    control = null_alphas((128, 128), scale, fit, draws=20, seed=0)
    assert fit(eigenvalues(torch.from_numpy(weight))).alpha < float(control.min())


def test_a_control_that_cannot_be_fitted_is_infinite():
    assert null_alphas((4, 4), 0.0, estimator("xmin_ks"), draws=2, seed=0).tolist() == [math.inf] * 2


@pytest.mark.parametrize("shape", [(4,), (4, 0), (2, 2, 2)])
def test_shapes_without_a_spectrum_are_refused(shape):
    with pytest.raises(SpectrumError):
        null_alphas(shape, 1.0, estimator("xmin_mid"), draws=1, seed=0)
