"""Magnitude with BatchNorm folded in: that of the folded network, and blind to how a channel's scale is shared out."""

from __future__ import annotations

import torch
from torch import nn

from opentrans_cli.sparsity.criteria.base import Evidence
from opentrans_cli.sparsity.criteria.magnitude import folded_scores


class Net(nn.Module):
    """A convolution with a BatchNorm, and one without."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 2, 1, bias=False)
        generator = torch.Generator().manual_seed(0)
        for tensor in (self.bn1.weight, self.bn1.running_var):
            tensor.data.uniform_(0.2, 3.0, generator=generator)
        self.bn1.weight.data[1] *= -1
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.last(self.bn1(self.conv1(images)).relu())
        return result


def scores(net: nn.Module) -> dict[str, torch.Tensor]:
    found = folded_scores(Evidence(net, ("conv1", "last"), net))
    return {layer: found[layer] for layer in found}


def test_the_scores_are_the_magnitudes_of_torch_s_own_folding() -> None:
    net = Net()
    folded = nn.utils.fusion.fuse_conv_bn_eval(net.conv1, net.bn1)
    torch.testing.assert_close(scores(net)["conv1"], folded.weight.detach().abs())
    assert not scores(net)["conv1"].requires_grad


def test_a_layer_without_batchnorm_has_its_magnitudes() -> None:
    net = Net()
    assert torch.equal(scores(net)["last"], net.last.weight.detach().abs())


def test_moving_a_scale_from_the_weights_into_the_batchnorm_changes_nothing() -> None:
    net, images = Net(), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    before, output = scores(net), net(images)
    by = torch.tensor([0.1, 2.0, 7.0, 1.0])
    with torch.no_grad():
        net.conv1.weight.mul_(by.view(-1, 1, 1, 1))
        net.bn1.weight.div_(by)
    torch.testing.assert_close(net(images), output)
    torch.testing.assert_close(scores(net)["conv1"], before["conv1"])
