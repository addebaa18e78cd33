"""The quick search finds the start the plain scan finds: other spectra, other candidates, ties and zeros."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opentrans_cli.spectral import tail_search
from opentrans_cli.spectral.power_law import TailScan, fit_all_tails
from opentrans_cli.spectral.tail_search import best_start


def bulk(count: int, generator: torch.Generator) -> torch.Tensor:
    square = torch.randn(count, count, dtype=torch.float64, generator=generator)
    return torch.linalg.eigvalsh(square @ square.T).clamp(min=0)


def pareto(count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(count, dtype=torch.float64, generator=generator) ** (-1 / 1.5)


def lognormal(count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(count, dtype=torch.float64, generator=generator).exp()


def repeated(count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(1, count // 4, (count,), generator=generator).double()


def with_zeros(count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.cat([torch.zeros(count // 3, dtype=torch.float64), lognormal(count, generator)])


def outliers(count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.cat([bulk(count, generator), 1e4 * pareto(20, generator)])


def uniform(count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(count, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", [bulk, pareto, lognormal, repeated, with_zeros, outliers, uniform])
def test_the_search_over_all_starts_equals_the_plain_scan(kind, seed):
    generator = torch.Generator().manual_seed(seed)
    for count in (12, 90, 91, 200, 700):
        values = kind(count, generator).sort().values
        every = torch.arange(len(values) - 1)
        assert best_start(values, every) == fit_all_tails(values, every).best_start()


@given(st.lists(st.integers(0, 6), min_size=2, max_size=40), st.integers(0, 2**32 - 1))
def test_small_spectra_with_many_ties_equal_the_plain_scan_and_the_first_start_wins(integers, seed):
    values = torch.tensor(integers, dtype=torch.float64).sort().values
    some = torch.randperm(len(values) - 1, generator=torch.Generator().manual_seed(seed))[: 1 + seed % 20]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tail_search, "_PLAIN", 0)
        assert best_start(values, some) == fit_all_tails(values, some).best_start()


def test_distances_that_differ_by_rounding_are_ties_and_the_first_start_wins():
    distances = torch.tensor([0.5, 0.3 + 1e-14, 0.3, 0.3 + 1e-9], dtype=torch.float64)
    scan = TailScan(torch.tensor([7, 8, 9, 10]), torch.full((4,), 2.0, dtype=torch.float64), distances)
    assert scan.best_start() == 8


def test_a_spectrum_of_zeros_takes_the_first_candidate():
    assert best_start(torch.zeros(200, dtype=torch.float64), torch.arange(5, 199)) == 5


def test_a_large_search_computes_few_tails_in_full(monkeypatch):
    values = lognormal(3000, torch.Generator().manual_seed(1)).sort().values
    computed = []
    compute = tail_search._Search._compute
    monkeypatch.setattr(
        tail_search._Search, "_compute", lambda search, tails: (computed.append(len(tails)), compute(search, tails))
    )
    best_start(values, torch.arange(2999))
    assert 0 < sum(computed) < 150
