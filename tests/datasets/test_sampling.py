"""The order of the data is a permutation per epoch and a function of (seed, step)."""

from __future__ import annotations

import numpy as np
import pytest

from opentrans_cli.datasets.sampling import batch_indices, epoch_order


def test_every_sample_occurs_once_an_epoch() -> None:
    for count, batch_size in ((12, 4), (10, 4), (3, 8), (1, 1), (7, 7)):
        steps = [batch_indices(step, count=count, batch_size=batch_size, seed=5) for step in range(3 * count)]
        assert all(batch.shape == (batch_size,) and batch.dtype == np.int64 for batch in steps)
        epochs = np.concatenate(steps)[: 3 * count].reshape(3, count)
        assert (np.sort(epochs, axis=1) == np.arange(count)).all()


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    wanted = {step: batch_indices(step, count=50, batch_size=8, seed=1).tolist() for step in range(20)}
    for step in (19, 3, 3, 11):
        epoch_order.cache_clear()
        assert batch_indices(step, count=50, batch_size=8, seed=1).tolist() == wanted[step]


def test_seeds_and_epochs_give_other_orders_that_are_fixed_for_ever() -> None:
    orders = {tuple(epoch_order(20, seed=seed, epoch=epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25
    assert epoch_order(8, seed=0, epoch=0).tolist() == [7, 6, 0, 4, 1, 5, 2, 3]
    with pytest.raises(ValueError, match="read-only"):  # it is cached
        epoch_order(4, seed=0, epoch=0)[0] = 1


def test_every_place_is_equally_likely() -> None:
    first = np.array([epoch_order(4, seed=0, epoch=epoch) for epoch in range(4000)])
    shares = np.stack([(first == sample).mean(axis=0) for sample in range(4)])
    assert np.abs(shares - 0.25).max() < 0.03


def test_impossible_batches_are_a_mistake_of_the_program() -> None:
    for step, count, batch_size in ((-1, 4, 2), (0, 0, 2), (0, 4, 0)):
        with pytest.raises(ValueError, match="no batch"):
            batch_indices(step, count=count, batch_size=batch_size, seed=0)
