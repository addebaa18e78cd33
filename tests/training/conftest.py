"""A tiny tower whose residual branches are alive, and a small network that is quick to train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from opentrans_cli.clip.architecture import build_clip

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "patch_size": None},
    "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="session")
def tower() -> Callable[[], nn.Module]:
    """Builds the same tower at every call."""

    def build() -> nn.Module:
        torch.manual_seed(0)
        visual: Any = build_clip(TINY).visual
        for module in visual.modules():
            if isinstance(module, nn.BatchNorm2d):  # open_clip starts with zeros in bn3: no gradient gets through
                nn.init.uniform_(module.weight, 0.5, 1.5)
        return visual

    return build


class SmallNet(nn.Module):
    """Two convolutions with BatchNorm in a backbone, dropout, and a head: images (B, 3, H, W) -> (B, 4, H,
    W).
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential()
        self.backbone.add_module("conv1", nn.Conv2d(3, 8, 3, padding=1, bias=False))
        self.backbone.add_module("bn1", nn.BatchNorm2d(8))
        self.backbone.add_module("conv10", nn.Conv2d(8, 8, 3, padding=1, bias=False))
        self.backbone.add_module("bn10", nn.BatchNorm2d(8))
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.backbone(images)))


@pytest.fixture(scope="session")
def small_net() -> Callable[[], nn.Module]:
    """Builds the same SmallNet at every call."""

    def build() -> nn.Module:
        torch.manual_seed(0)
        return SmallNet()

    return build
