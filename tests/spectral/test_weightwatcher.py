"""`xmin_ks` gives WeightWatcher's numbers where the definitions coincide, and differs where they do not.

Compared with `WeightWatcher(model).analyze()` at its defaults, version 0.7.7: alpha, KS distance, xmin, size of the
tail, standard error and largest eigenvalue. They coincide for Linear and Conv2d layers of at least 20 eigenvalues above
1e-5: both pool the kernel positions of a convolution, take each times sqrt(1/2), drop eigenvalues up to 1e-5 and scan
every start. They do not coincide:

- below 20 eigenvalues WeightWatcher corrects alpha for bias, (n - 1) in place of n, tries only tails of eight or more,
  and takes 0.868 / sqrt(n) off their distances;
- a layer of fewer than eight eigenvalues, or more than 15,000, is missing in its table; here every layer has a verdict;
- where none is above 1e-5 its fit fails; here there are numbers and the verdict "below threshold".
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from opentrans_cli.spectral.esd import Eigenvalues, eigenvalues
from opentrans_cli.spectral.estimators.xmin_ks import fit_xmin_ks
from opentrans_cli.spectral.power_law import PowerLawFit, verdict


@pytest.fixture(scope="module")
def weightwatcher() -> ModuleType:
    """The package, imported without the warnings of its own dependencies; it resets filters while it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("weightwatcher")
    logging.getLogger("weightwatcher").setLevel(logging.CRITICAL)
    return module


def analyzed(weightwatcher: ModuleType, layers: list[nn.Module]) -> list[dict[str, Any]]:
    """WeightWatcher's row of every layer it keeps, with the position of the layer as `name`."""
    with warnings.catch_warnings():
        # Its own code and pandas; nothing of ours runs in here.
        warnings.simplefilter("ignore")
        table = weightwatcher.WeightWatcher(model=nn.Sequential(*layers)).analyze()
    return table.to_dict("records")


def filled(layer: nn.Module, seed: int, scale: float = 0.05) -> nn.Module:
    """The layer with Student-t(3) weights."""
    random = np.random.RandomState(seed)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(scale * random.standard_t(3, size=tuple(layer.weight.shape))))
    return layer


def assert_same(row: dict[str, Any], values: Eigenvalues, fit: PowerLawFit) -> None:
    assert row["lambda_max"] == pytest.approx(float(values[-1]), rel=1e-5)
    assert row["alpha"] == pytest.approx(fit.alpha, rel=1e-5)
    assert row["D"] == pytest.approx(fit.ks_distance, rel=1e-5)
    assert row["xmin"] == pytest.approx(fit.xmin, rel=1e-5)
    assert row["num_pl_spikes"] == fit.tail_size
    assert row["sigma"] == pytest.approx(fit.standard_error, rel=1e-5)


def test_convolutions_and_linear_layers_get_the_same_numbers(weightwatcher: ModuleType) -> None:
    layers = [nn.Conv2d(32, 64, 3), nn.Conv2d(64, 32, 1), nn.Linear(96, 128), nn.Conv2d(8, 16, (1, 3))]
    layers += [nn.Linear(128, 96), nn.Conv2d(3, 32, 7)]
    layers = [filled(layer, seed) for seed, layer in enumerate(layers)]
    rows = analyzed(weightwatcher, layers)
    assert len(rows) == len(layers)
    for row, layer in zip(rows, layers, strict=True):
        values = eigenvalues(layer.weight.detach().numpy())
        assert_same(row, values, fit_xmin_ks(values))


def test_trained_layers_get_the_same_numbers(weightwatcher: ModuleType, shared: Path) -> None:
    path = shared / "data" / "weights" / "resnet20-12fca82f.th"
    if not path.is_file():
        pytest.skip(f"trained weights not found at {path}")
    loaded = torch.load(path, weights_only=True, map_location="cpu")
    layers = []
    for weight in loaded.get("state_dict", loaded).values():
        if weight.ndim == 4:
            layers.append(nn.Conv2d(weight.shape[1], weight.shape[0], tuple(weight.shape[2:])))
            layers[-1].weight.data.copy_(weight)
    compared = 0
    for row, layer in zip(analyzed(weightwatcher, layers), layers, strict=True):
        values = eigenvalues(layer.weight.detach().numpy())
        if len(values) >= 20:
            assert_same(row, values, fit_xmin_ks(values))
            compared += 1
    assert compared >= 18


def test_small_spectra_get_another_alpha_and_the_smallest_are_left_out(weightwatcher: ModuleType) -> None:
    layers = [filled(nn.Linear(15, 40), 0), filled(nn.Linear(5, 40), 1), filled(nn.Linear(40, 40), 2)]
    rows = analyzed(weightwatcher, layers)
    assert [row["num_evals"] for row in rows] == [15, 40]
    values = eigenvalues(layers[0].weight.detach().numpy())
    assert rows[0]["alpha"] != pytest.approx(fit_xmin_ks(values).alpha, rel=1e-3)
    few = eigenvalues(layers[1].weight.detach().numpy())
    assert verdict(few, fit_xmin_ks(few)) == "too few eigenvalues"


def test_a_layer_below_the_threshold_has_numbers_here_and_fails_there(weightwatcher: ModuleType) -> None:
    layer = filled(nn.Linear(40, 60), 0, scale=1e-5)
    (row,) = analyzed(weightwatcher, [layer])
    values = eigenvalues(layer.weight.detach().numpy())
    assert row["status"] == "failed" and fit_xmin_ks(values).tail_size > 1
    assert verdict(values, fit_xmin_ks(values)) == "below threshold"
