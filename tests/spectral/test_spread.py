"""Random matrices are told from trained and heavy-tailed ones by the spread of their eigenvalues; error rates, seeded.

Gaussian weights of every shape of CLIP's RN50, and linear layers, must be "random-like". Of 20,000 draws 0.08 % of
(32, 3, 3, 3) are missed, 0.005 % of (64, 64, 1, 1) and none of (32, 32, 3, 3). Student-t(3) weights and low rank with
noise must not be. Of 2,000 Student-t draws 9 % of (64, 64, 1, 1) are taken for random, for so few entries often hold no
large one, 0.7 % of (256, 64, 1, 1) and none of (128, 256) and (32, 32, 3, 3).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from opentrans_cli.spectral.esd import spectrum
from opentrans_cli.spectral.estimators import ESTIMATORS, estimator
from opentrans_cli.spectral.power_law import RANDOM_EXCESS, RANDOM_SPREAD, verdict
from opentrans_cli.spectral.report import PROBLEMS

RN50_SMALL = [(32, 3, 3, 3), (32, 32, 3, 3), (64, 32, 3, 3), (64, 64, 1, 1), (64, 64, 3, 3), (256, 64, 1, 1)]
RN50_SMALL += [(64, 256, 1, 1), (128, 256, 1, 1), (128, 128, 3, 3), (512, 128, 1, 1), (128, 512, 1, 1)]
RN50_LARGE = [(512, 256, 1, 1), (256, 512, 1, 1), (256, 256, 3, 3), (1024, 256, 1, 1), (256, 1024, 1, 1)]
RN50_LARGE += [(1024, 512, 1, 1), (512, 1024, 1, 1), (512, 512, 3, 3), (2048, 512, 1, 1), (2048, 1024, 1, 1)]
LINEAR = [(128, 256), (512, 512), (3072, 768)]


def verdicts(weight: np.ndarray) -> set[str]:
    """What all estimators say about a weight."""
    layer = spectrum(weight)
    fits = [estimator(name)(layer.eigenvalues) for name in ESTIMATORS.names()]
    return {verdict(layer.eigenvalues, fit, layer.spread, layer.excess) for fit in fits}


@pytest.mark.parametrize("shape", RN50_SMALL + RN50_LARGE + LINEAR, ids=str)
def test_a_gaussian_weight_is_random_like_by_every_estimator_and_at_every_scale(shape):
    # Untrained layers have a root mean square of 1 / sqrt(inputs); in large ones a tenth of it is below the threshold.
    usual = 1 / math.sqrt(math.prod(shape[1:]))
    for seed, scale in enumerate((usual, 1.0) if shape in RN50_LARGE else (usual, 0.3 * usual, 0.1, 1.0)):
        weight = np.random.RandomState(seed).standard_normal(shape) * scale
        assert verdicts(weight) == {"random-like"}


@pytest.mark.parametrize("shape", [(64, 64, 1, 1), (32, 3, 3, 3), (32, 32, 3, 3), (12, 300)], ids=str)
def test_at_most_one_of_a_thousand_gaussian_weights_is_missed(shape):
    random = np.random.RandomState(0)
    spreads = [spectrum(random.standard_normal(shape)).spread for _ in range(1000)]
    assert np.mean(spreads) == pytest.approx(0, abs=0.15) and np.std(spreads) == pytest.approx(1, abs=0.1)
    assert sum(spread > RANDOM_SPREAD for spread in spreads) <= 1


@pytest.mark.parametrize("shape", [(64, 64, 1, 1), (32, 3, 3, 3), (64, 3, 7, 7), (2, 50)], ids=str)
def test_the_largest_eigenvalue_of_gaussian_weights_stays_at_the_edge(shape):
    random = np.random.RandomState(6)
    excesses = [spectrum(random.standard_normal(shape)).excess for _ in range(300)]
    assert max(excesses) < RANDOM_EXCESS and -2 < np.mean(excesses) < 2.5


@pytest.mark.parametrize("alpha", [2.0, 2.5, 3.5])
@pytest.mark.parametrize("kernel", [(), (1, 1)], ids=["linear", "conv"])
def test_a_square_matrix_whose_eigenvalues_follow_a_power_law_is_heavy_tailed(alpha: float, kernel: tuple[int, ...]):
    quantiles = (np.arange(500) + 0.5) / 500
    values = (1 - quantiles) ** (-1 / (alpha - 1))
    for scale in (0.1, 1.0):
        weight = scale * np.diag(np.sqrt(values)).reshape(500, 500, *kernel)
        assert verdicts(weight) == {"heavy-tailed"}


def test_uniform_weights_of_an_untrained_layer_are_random_like():
    weight = torch.nn.init.kaiming_uniform_(torch.empty(128, 64, 3, 3), generator=torch.Generator().manual_seed(0))
    assert verdicts(weight.numpy()) == {"random-like"}


@pytest.mark.parametrize(
    ("shape", "missed"), [((64, 64, 1, 1), 15), ((256, 64, 1, 1), 1), ((128, 256), 1), ((32, 32, 3, 3), 1)], ids=str
)
def test_student_t_weights_are_rarely_taken_for_random_ones(shape, missed):
    random = np.random.RandomState(1)
    spreads = [spectrum(random.standard_t(3, size=shape)).spread for _ in range(100)]
    assert sum(spread <= RANDOM_SPREAD for spread in spreads) <= missed


@pytest.mark.parametrize("shape", [(64, 64), (64, 128, 3, 3), (512, 128)], ids=str)
def test_low_rank_with_noise_is_never_random_like(shape):
    random = np.random.RandomState(2)
    rows, columns = shape[0], math.prod(shape[1:])
    for rank in (2, 8, 32):
        low_rank = random.standard_normal((rows, rank)) @ random.standard_normal((rank, columns))
        weight = low_rank + 0.1 * random.standard_normal((rows, columns))
        assert "random-like" not in verdicts(weight.reshape(shape))


def test_one_strong_direction_in_a_random_matrix_is_seen():
    random = np.random.RandomState(3)
    noise, direction = random.standard_normal((256, 256)), np.outer(random.randn(256), random.randn(256)) / 256
    assert spectrum(noise).spread < RANDOM_SPREAD
    # Twice the largest eigenvalue of the noise, 4 * 256.
    assert spectrum(noise + direction * math.sqrt(8 * 256)).spread > RANDOM_SPREAD


def test_the_spread_does_not_depend_on_the_scale_although_eigenvalues_are_dropped():
    weight = np.random.RandomState(4).standard_normal((64, 64, 3, 3))
    plain, tiny = spectrum(weight), spectrum(1e-3 * weight)
    assert len(tiny.eigenvalues) < len(plain.eigenvalues)
    assert tiny.spread == pytest.approx(plain.spread, abs=1e-6)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1, 1, 1), (8, 1, 3, 3), (3, 3)], ids=str)
def test_the_spread_of_the_smallest_layers_is_a_number(shape):
    for weight in (np.zeros(shape), np.ones(shape), np.full(shape, 1e150)):
        found = spectrum(weight)
        assert math.isfinite(found.spread) and not math.isnan(found.excess)


@pytest.mark.parametrize(
    "file",
    ["resnet20-12fca82f.th", "resnet50v2_imagenet_trunk_fp16.safetensors", "squeezenet1_1_imagenet_fp16.safetensors"],
)
def test_trained_layers_are_not_random_like(shared: Path, file: str):
    path = shared / "data" / "weights" / file
    if not path.is_file():
        pytest.skip(f"trained weights not found at {path}")
    if path.suffix == ".safetensors":
        tensors = load_file(path)
    else:
        loaded = torch.load(path, weights_only=True, map_location="cpu")
        tensors = loaded.get("state_dict", loaded)
    layers = {name: spectrum(tensor.numpy()) for name, tensor in tensors.items() if tensor.ndim == 4}
    fits = {name: estimator("xmin_peak")(layer.eigenvalues) for name, layer in layers.items()}
    said = {name: verdict(layer.eigenvalues, fits[name], layer.spread, layer.excess) for name, layer in layers.items()}
    assert not set(said.values()) & set(PROBLEMS)
    assert sum(words == "random-like" for words in said.values()) <= 0.1 * len(said)
