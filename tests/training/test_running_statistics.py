"""Running statistics come back to the bit after a step that failed."""

from __future__ import annotations

import torch

from opentrans_cli.training.step import RunningStatistics


def test_a_forward_pass_on_nan_is_undone(small_net):
    net = small_net()
    kept = RunningStatistics(net)
    net(torch.randn(2, 3, 4, 4))
    kept.keep()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    net(torch.full((2, 3, 4, 4), float("nan")))
    assert net.backbone.bn1.running_mean.isnan().all() and net.backbone.bn1.num_batches_tracked == 2
    kept.restore()
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())


def test_a_net_without_batchnorm_has_nothing_to_keep():
    kept = RunningStatistics(torch.nn.Linear(2, 2))
    kept.keep()
    kept.restore()
