"""A tower small enough for brute force, and evidence about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opentrans_cli.sparsity.criteria.base import Criterion, Evidence

LAYERS = ("conv1", "conv2", "proj")


class SmallTower(nn.Module):
    """Images (B, 3, 6, 6) -> (B, 2, 5): two convolutions with BatchNorm, the second in groups, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3, groups=2, bias=False)
        self.bn2: nn.Module = nn.BatchNorm2d(6)
        self.proj = nn.Linear(6, 5)

    def hidden(self, images: Tensor) -> Tensor:
        """What conv2 is given, (B, 4, 6, 6)."""
        return F.relu(self.bn1(self.conv1(images)))

    def pooled(self, images: Tensor) -> Tensor:
        """What proj is given: two positions of 6 channels, (B, 2, 6)."""
        maps = F.relu(self.bn2(self.conv2(self.hidden(images))))
        return F.adaptive_avg_pool2d(maps, (1, 2)).flatten(2).transpose(1, 2)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.proj(self.pooled(images))
        return out


@pytest.fixture
def tower() -> SmallTower:
    """With statistics that are not those of a fresh BatchNorm; float64, so that references agree to many digits."""
    torch.manual_seed(0)
    tower = SmallTower().double().eval()
    for norm in (tower.bn1, tower.bn2):
        for tensor, low in ((norm.weight, 0.5), (norm.bias, 0.0), (norm.running_mean, -0.2), (norm.running_var, 0.3)):
            tensor.data.uniform_(low, low + 0.5)
    return tower


@pytest.fixture
def images() -> Tensor:
    """Seven of them, (7, 3, 6, 6)."""
    return torch.randn(7, 3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


EvidenceOf = Callable[..., Evidence]


@pytest.fixture
def evidence_of() -> EvidenceOf:
    """`evidence_of(tower, batches)`: its output, normalised, of these batches, numbered from 0 or by `numbers`."""

    def make(
        tower: nn.Module,
        batches: Sequence[Tensor],
        *,
        numbers: Sequence[int] | None = None,
        layers: Sequence[str] = LAYERS,
        **more: Any,
    ) -> Evidence:
        def readout(images: Tensor) -> Tensor:
            embedding = F.normalize(tower(images), dim=-1)
            return embedding if embedding.ndim == 3 else embedding[:, None]

        counted = list(zip(range(len(batches)) if numbers is None else numbers, batches, strict=True))
        return Evidence(tower, tuple(layers), readout, lambda: iter(counted), **more)

    return make


@pytest.fixture
def in_two_worlds(evidence_of: EvidenceOf) -> Callable[..., dict[str, Tensor]]:
    """`in_two_worlds(criterion, tower, batches, {0, 2})`: scores as the process has them whose batches these are, when
    another has the rest.
    """

    def score(
        criterion: Criterion, tower: nn.Module, batches: Sequence[Tensor], own: set[int], **more: Any
    ) -> dict[str, Tensor]:
        sent: list[Tensor] = []

        def send(tensor: Tensor) -> None:
            sent.append(tensor.clone())
            tensor += 1  # stands for the other's share, which no run on its own can know

        def receive(tensor: Tensor) -> None:
            tensor += sent.pop(0)

        def share(numbers: set[int], total: Callable[[Tensor], None]) -> dict[str, Tensor]:
            chosen = [batches[number] for number in sorted(numbers)]
            return criterion.score(evidence_of(tower, chosen, numbers=sorted(numbers), total=total, **more))

        share(set(range(len(batches))) - own, send)
        scores = share(own, receive)
        assert not sent, "the processes did not sum the same tensors"
        return scores

    return score
