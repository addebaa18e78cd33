"""The control: what alpha a layer gets that has learned nothing, a Gaussian matrix of its shape and scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from opentrans_cli.spectral.esd import eigenvalues
from opentrans_cli.spectral.estimators import Estimator


def null_alphas(shape: Sequence[int], scale: float, fit: Estimator, *, draws: int, seed: int) -> Tensor:
    """alpha of `draws` weights of independent Gaussian entries, float64 (draws,); inf where there is no fit.

    `shape` is that of a weight, (O, I) or (O, I, kh, kw); `scale` its root mean square, which matters because
    the threshold of eigenvalues is absolute. An alpha of the layer inside the range of these says nothing
    about training. The draws depend on `seed` and `shape` alone (PCG64).
    Raises SpectrumError for a shape that has no spectrum.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    alphas = []
    for _ in range(draws):
        weight = torch.from_numpy(generator.standard_normal(tuple(shape)))
        alphas.append(fit(eigenvalues(weight.mul_(scale))).alpha)
    return torch.tensor(alphas, dtype=torch.float64)
