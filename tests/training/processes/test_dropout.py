"""What dropout drops of an image depends neither on the number of processes nor on the parts of a step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from opentrans_cli.errors import OptionError
from opentrans_cli.training.processes.dropout import SharedDropout, SharedDropout2d, own_dropout, share_dropout

BATCH = 12
KINDS = {"values": (nn.Dropout, (10, 9)), "channels": (nn.Dropout2d, (60, 2, 2))}


class Twice(nn.Module):
    """Drops at two places, so that the order of calls counts."""

    def __init__(self, kind):
        super().__init__()
        self.first, self.second = kind(0.5), kind(0.3)

    def forward(self, inputs):
        return self.second(self.first(inputs) + 1)


def taken_in(kind, *, size, accumulate, seed=0):
    """The outputs of all rows, by the processes and parts that they were computed in."""
    layer, shape = KINDS[kind]
    inputs = torch.randn(BATCH, *shape, generator=torch.Generator().manual_seed(1))
    rows, outputs = BATCH // (size * accumulate), []
    for part in range(accumulate):
        for rank in range(size):
            net = Twice(layer)
            draws = share_dropout(net, rank=rank, size=size, accumulate=accumulate)
            draws.part = part
            torch.manual_seed(seed)
            outputs.append(net(inputs[len(outputs) * rows :][:rows]))
    return torch.cat(outputs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "accumulate"), [(2, 1), (1, 2), (3, 2), (12, 1)])
def test_rows_are_dropped_alike_in_any_number_of_processes_and_parts(kind, size, accumulate):
    alone = taken_in(kind, size=1, accumulate=1)
    assert torch.equal(taken_in(kind, size=size, accumulate=accumulate), alone)


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_rows_drop_the_same_and_another_seed_drops_other_things(kind):
    dropped = taken_in(kind, size=1, accumulate=1) == 0
    assert len({row.numpy().tobytes() for row in dropped}) == BATCH
    assert not torch.equal(dropped, taken_in(kind, size=1, accumulate=1, seed=1) == 0)


@pytest.mark.parametrize("probability", [0.2, 0.7])
def test_the_given_share_is_dropped_and_what_is_kept_is_scaled_up(probability):
    layer = nn.Dropout(probability)
    share_dropout(layer, rank=0, size=1)
    torch.manual_seed(0)
    outputs = layer(torch.ones(8, 5000))
    assert float((outputs == 0).float().mean()) == pytest.approx(probability, abs=0.01)
    assert outputs.unique().tolist() == pytest.approx([0, 1 / (1 - probability)])


def test_dropout2d_drops_whole_channels():
    layer = nn.Dropout2d(0.5)
    share_dropout(layer, rank=0, size=1)
    torch.manual_seed(0)
    zeros = (layer(torch.ones(4, 16, 3, 3)) == 0).flatten(2)
    assert torch.equal(zeros.all(2), zeros.any(2))
    assert 0 < int(zeros.all(2).sum()) < 64


def test_the_gradient_is_that_of_a_product_with_the_mask():
    layer = nn.Dropout(0.5)
    share_dropout(layer, rank=0, size=1)
    inputs = torch.ones(3, 7, requires_grad=True)
    outputs = layer(inputs)
    outputs.sum().backward()
    assert torch.equal(inputs.grad, outputs.detach())


def test_half_precision_stays_half_precision():
    layer = nn.Dropout(0.5)
    share_dropout(layer, rank=0, size=1)
    assert layer(torch.ones(3, 7, dtype=torch.bfloat16)).dtype is torch.bfloat16


@pytest.mark.parametrize(("probability", "mode", "wanted"), [(0.0, True, 1.0), (0.9, False, 1.0), (1.0, True, 0.0)])
def test_nothing_everything_and_evaluation_draw_no_numbers_that_matter(probability, mode, wanted):
    layer = nn.Dropout(probability).train(mode)
    share_dropout(layer, rank=0, size=1)
    before = torch.get_rng_state()
    assert layer(torch.ones(3, 7)).unique().tolist() == [wanted]
    assert torch.equal(torch.get_rng_state(), before) == (probability < 1)


def test_sharing_keeps_names_and_hooks_and_can_be_undone():
    net = nn.Sequential(nn.Dropout(0.1), nn.Dropout2d(0.2), nn.Linear(2, 2))
    calls = []
    net[0].register_forward_hook(lambda module, inputs, outputs: calls.append(module))
    modules, attributes = dict(net.named_modules()), [sorted(vars(part)) for part in net.modules()]
    share_dropout(net, rank=0, size=2)
    draws = share_dropout(net, rank=1, size=2)
    assert [type(part) for part in net[:2]] == [SharedDropout, SharedDropout2d]
    assert net[0].rows is net[1].rows is draws
    net(torch.zeros(1, 2, 2, 2))
    assert calls == [net[0]]
    own_dropout(net)
    assert [type(part) for part in net] == [nn.Dropout, nn.Dropout2d, nn.Linear]
    assert dict(net.named_modules()) == modules
    assert [sorted(vars(part)) for part in net.modules()] == attributes


class OfTransformers(nn.Module):
    """Names its share and drops in its forward method, as transformers' layers do."""

    def __init__(self, share):
        super().__init__()
        self.dropout = share


class OfTimm(nn.Module):
    """Gives the share of an inner dropout to scaled_dot_product_attention."""

    def __init__(self, share):
        super().__init__()
        self.attn_drop = nn.Dropout(share)


class DropPath(nn.Module):
    """Leaves out a whole branch."""

    def __init__(self, share):
        super().__init__()
        self.drop_prob = share


OTHERS = {
    "MultiheadAttention": lambda share: nn.MultiheadAttention(4, 2, dropout=share),
    "OfTransformers": OfTransformers,
    "OfTimm": OfTimm,
    "DropPath": DropPath,
    "AlphaDropout": nn.AlphaDropout,
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_dropout_is_refused_by_name_among_processes_and_nothing_changes(kind):
    net = nn.Sequential(nn.Dropout(0.1))
    net.add_module("odd", OTHERS[kind](0.25))
    with pytest.raises(OptionError, match=rf"dropout that processes cannot share: 'odd' \({kind}\) drops 0.25"):
        share_dropout(net, rank=0, size=2)
    assert type(net[0]) is nn.Dropout


@pytest.mark.parametrize("kind", OTHERS)
def test_one_process_and_a_share_of_zero_are_not_refused(kind):
    share_dropout(OTHERS[kind](0.25), rank=0, size=1)
    share_dropout(OTHERS[kind](0.0), rank=0, size=2)
