"""The quick search finds the start the plain scan finds: other spectra, other candidates, ties and zeros."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opentrans_cli.spectral import tail_search
from opentrans_cli.spectral.esd import Eigenvalues
from opentrans_cli.spectral.power_law import TailScan, fit_all_tails
from opentrans_cli.spectral.tail_search import best_start


def bulk(count: int, random: np.random.Generator) -> Eigenvalues:
    square = random.standard_normal((count, count))
    return np.linalg.eigvalsh(square @ square.T).clip(min=0)


def pareto(count: int, random: np.random.Generator) -> Eigenvalues:
    return (1 - random.random(count)) ** (-1 / 1.5)


def lognormal(count: int, random: np.random.Generator) -> Eigenvalues:
    return np.exp(random.standard_normal(count))


def repeated(count: int, random: np.random.Generator) -> Eigenvalues:
    return random.integers(1, count // 4, count).astype(np.float64)


def with_zeros(count: int, random: np.random.Generator) -> Eigenvalues:
    return np.concatenate([np.zeros(count // 3), lognormal(count, random)])


def outliers(count: int, random: np.random.Generator) -> Eigenvalues:
    return np.concatenate([bulk(count, random), 1e4 * pareto(20, random)])


def uniform(count: int, random: np.random.Generator) -> Eigenvalues:
    return random.random(count)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", [bulk, pareto, lognormal, repeated, with_zeros, outliers, uniform])
def test_the_search_over_all_starts_equals_the_plain_scan(kind, seed):
    random = np.random.default_rng(seed)
    for count in (12, 90, 91, 200, 700):
        values = np.sort(kind(count, random))
        every = np.arange(len(values) - 1)
        assert best_start(values, every) == fit_all_tails(values, every).best_start()


@given(st.lists(st.integers(0, 6), min_size=2, max_size=40), st.integers(0, 2**32 - 1))
def test_small_spectra_with_many_ties_equal_the_plain_scan_and_the_first_start_wins(integers, seed):
    values = np.sort(np.array(integers, np.float64))
    some = np.random.default_rng(seed).permutation(len(values) - 1)[: 1 + seed % 20]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tail_search, "_PLAIN", 0)
        assert best_start(values, some) == fit_all_tails(values, some).best_start()


def test_distances_that_differ_by_rounding_are_ties_and_the_first_start_wins():
    distances = np.array([0.5, 0.3 + 1e-14, 0.3, 0.3 + 1e-9])
    scan = TailScan(np.array([7, 8, 9, 10]), np.full(4, 2.0), distances)
    assert scan.best_start() == 8


def test_a_spectrum_of_zeros_takes_the_first_candidate():
    assert best_start(np.zeros(200), np.arange(5, 199)) == 5


def test_a_large_search_computes_few_tails_in_full(monkeypatch):
    values = np.sort(lognormal(3000, np.random.default_rng(1)))
    computed = []
    compute = tail_search._Search._compute
    monkeypatch.setattr(
        tail_search._Search, "_compute", lambda search, tails: (computed.append(len(tails)), compute(search, tails))
    )
    best_start(values, np.arange(2999))
    assert 0 < sum(computed) < 150
