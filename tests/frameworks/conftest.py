"""Tiny towers whose residual branches are alive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from opentrans_cli.clip.architecture import build_clip

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "patch_size": None},
    "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="session")
def tower() -> Callable[..., nn.Module]:
    """Builds a tower with random weights; the same seed, the same weights."""

    def build(seed: int = 0, config: Mapping[str, Any] = TINY) -> nn.Module:
        torch.manual_seed(seed)
        visual: Any = build_clip(config).visual
        for module in visual.modules():
            if isinstance(module, nn.BatchNorm2d):  # open_clip starts with zeros in bn3: no gradient gets through
                nn.init.uniform_(module.weight, 0.5, 1.5)
        return visual

    return build


@pytest.fixture(scope="session")
def text() -> Tensor:
    """Five text embeddings (5, 16), rows of length 1."""
    rows = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))
    return nn.functional.normalize(rows, dim=1)


@pytest.fixture(scope="session")
def images() -> Tensor:
    """Two images (2, 3, 75, 100): sides that no stride divides."""
    return torch.randn(2, 3, 75, 100, generator=torch.Generator().manual_seed(2))
