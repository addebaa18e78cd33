"""A tiny tower whose residual branches are alive, a small network that is quick to train, and two processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from forked import in_two
from torch import Tensor, nn

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.sparsity.masking import hold
from opentrans_cli.training.freezing import freeze_layers
from opentrans_cli.training.loop import Hooks, TrainLog, train
from opentrans_cli.training.settings import TrainSettings

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


def batch_of(step: int) -> tuple[Tensor, Tensor]:
    """Images (4, 3, 8, 8) and label maps (4, 8, 8) of a step."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(4, 3, 8, 8, generator=generator), torch.randint(4, (4, 8, 8), generator=generator)


class PixelLoss:
    """Cross-entropy over the pixels, half of it called "rest"; `heard` is told before every part."""

    def __init__(self, called: nn.Module, heard: Callable[[], None]) -> None:
        self.called, self.heard = called, heard

    def whole(self, batch: tuple[Tensor, ...]) -> int:
        return batch[1].numel()

    def __call__(self, part: tuple[Tensor, ...], whole: int) -> dict[str, Tensor]:
        self.heard()
        images, labels = part
        half = 0.5 * F.cross_entropy(self.called(images), labels, reduction="sum") / whole
        return {"pixels": half, "rest": half}


class Experiment:
    """A SmallNet with a mask on one layer, and if so wished another layer frozen, ready to train."""

    def __init__(self, settings: TrainSettings, *, frozen: bool = True, net: nn.Module | None = None) -> None:
        torch.manual_seed(0)
        self.net: Any = net or SmallNet()
        self.settings = settings
        if frozen:
            freeze_layers(self.net, ["backbone.conv10"], batchnorm_of={"backbone.conv10": "backbone.bn10"})
        self.weight = self.net.backbone.conv1.weight
        self.removed = torch.rand(self.weight.shape, generator=torch.Generator().manual_seed(9)) < 0.5

    def run(self, *, batches: Callable[[int], Any] = batch_of, **options: Any) -> TrainLog:
        """`options` of `train`, and hooks by their names."""
        holding = {"after_step": hold(self.net, {"backbone.conv1": ~self.removed})}
        given = {name: options.pop(name) for name in vars(Hooks()) if name in options}
        options = {"loss": lambda called: PixelLoss(called, lambda: None), **options}
        return train(self.net, batches, self.settings, hooks=Hooks(**holding | given), **options)

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.net.state_dict().items()}


@pytest.fixture(scope="session")
def experiment() -> type[Experiment]:
    """Makes the same Experiment at every call."""
    return Experiment


@pytest.fixture(scope="session")
def pixel_loss() -> type[PixelLoss]:
    """The loss of an Experiment."""
    return PixelLoss


@pytest.fixture(scope="session")
def batch() -> Callable[[int], tuple[Tensor, Tensor]]:
    """The batch of a step of an Experiment."""
    return batch_of


@pytest.fixture(scope="session")
def in_processes() -> Callable[[Callable[[], Any]], list[Any]]:
    """Calls a function of a test file in two processes that torch can join, and gives their results by rank."""
    return in_two
