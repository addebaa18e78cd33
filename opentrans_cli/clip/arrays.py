"""State dicts of torch as numpy arrays and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def arrays(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Tensors as contiguous numpy arrays on the CPU, of the same shapes."""
    # Not np.ascontiguousarray, which would give BatchNorm's counter, a scalar, one dimension.
    return {name: np.asarray(value.detach().cpu().numpy(), order="C") for name, value in state.items()}


def tensors(state: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Arrays as tensors that own their memory."""
    import torch

    return {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
