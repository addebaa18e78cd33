"""Spectra of many layers: each in its place, the same for any number of threads, errors with the layer's name."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from opentrans_cli.errors import SpectrumError
from opentrans_cli.spectral.esd import eigenvalues
from opentrans_cli.spectral.estimators import ESTIMATORS, estimator
from opentrans_cli.spectral.measure import in_threads, measure

FIT = estimator("xmin_peak")
OTHERS = {rule: estimator(rule) for rule in ESTIMATORS.names()}


def weights() -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(0)
    shapes = {"conv": (12, 8, 3, 3), "fc": (40, 30), "attention": (32, 32), "few": (4, 30)}
    state = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return {**state, "zero": np.zeros((20, 20))}


def threads() -> int:
    """Those of numpy's BLAS."""
    return int(ThreadpoolController().select(user_api="blas").info()[0]["num_threads"])


@pytest.fixture
def two_threads() -> Iterator[None]:
    with ThreadpoolController().limit(limits=2, user_api="blas"):
        yield


def test_every_layer_has_the_spectrum_and_the_fits_of_its_own_weight_in_the_order_asked_for() -> None:
    state = weights()
    names = ["fc", "zero", "conv"]
    spectra = measure(names, state.__getitem__, FIT, others=OTHERS)
    assert [layer.name for layer in spectra] == names
    for layer in spectra:
        values = eigenvalues(state[layer.name])
        assert np.array_equal(layer.eigenvalues, values) and layer.shape == state[layer.name].shape
        unfitted = layer.verdict == "zero matrix"
        alphas = {rule: math.inf if unfitted else fit(values).alpha for rule, fit in OTHERS.items()}
        assert layer.fit == FIT(values) and layer.others == alphas
        assert layer.scale == pytest.approx(float(np.sqrt(np.square(state[layer.name].astype(np.float64)).mean())))


def test_an_alpha_that_says_nothing_is_infinite_by_every_rule() -> None:
    """Four eigenvalues have an exponent, but nobody should decide by it."""
    (few,) = measure(["few"], weights().__getitem__, FIT, others=OTHERS)
    assert few.verdict == "too few eigenvalues" and math.isfinite(few.fit.alpha)
    assert few.alpha == math.inf and list(few.others.values()) == [math.inf] * 3
    (fc,) = measure(["fc"], weights().__getitem__, FIT, others=OTHERS)
    assert fc.alpha == fc.fit.alpha and math.isfinite(fc.others["xmin_ks"])


@pytest.mark.usefixtures("two_threads")
def test_two_threads_give_the_figures_of_one_and_leave_numpy_as_it_was() -> None:
    state = weights()
    several = measure(list(state), state.__getitem__, FIT, others=OTHERS)
    assert threads() == 2
    with ThreadpoolController().limit(limits=1, user_api="blas"):
        one = measure(list(state), state.__getitem__, FIT, others=OTHERS)
    assert several == one
    for a, b in zip(several, one, strict=True):
        assert np.array_equal(a.eigenvalues, b.eigenvalues) and (a.others, a.log_norm) == (b.others, b.log_norm)


@pytest.mark.usefixtures("two_threads")
def test_an_error_in_a_thread_comes_out_and_leaves_numpy_as_it_was() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda number: 1 / number, [1, 0, 1]))
    assert threads() == 2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_no_number_is_told_with_its_layer(value: float) -> None:
    state = weights()
    state["fc"][3, 4] = value
    with pytest.raises(SpectrumError, match=r"NaN or infinite values: layer fc; repair or replace the checkpoint"):
        measure(["conv", "fc"], state.__getitem__, FIT)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_scale_is_counted_in_float64_whatever_the_weight_is(dtype: type) -> None:
    weight = np.full((16, 32), 2.0**14, dtype)
    (layer,) = measure(["a"], {"a": weight}.__getitem__, FIT)
    assert layer.scale == pytest.approx(2.0**14)
    (huge,) = measure(["a"], {"a": np.full((16, 32), 1e30, np.float32)}.__getitem__, FIT)
    assert huge.scale == pytest.approx(1e30)
