"""BatchNorm over two processes is BatchNorm of one process over both batches."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from opentrans_cli.errors import OptionError
from opentrans_cli.training.processes.batchnorm import GlobalBatchNorm2d, own_statistics, share_statistics
from opentrans_cli.training.processes.distributed import open_world

CASES = {
    "float64": {"dtype": torch.float64},
    "float32": {"dtype": torch.float32},
    "large mean": {"dtype": torch.float32, "shift": 3000.0},
    "unequal counts": {"dtype": torch.float64, "parts": (3, 5)},
    "cumulative": {"dtype": torch.float64, "momentum": None},
    "not affine": {"dtype": torch.float64, "affine": False},
    "bfloat16": {"dtype": torch.bfloat16},
}


def example(dtype, shift=0.0, parts=(4, 4), **options):
    """A BatchNorm with its own numbers, and for each process the inputs and the gradient from above."""
    random = torch.Generator().manual_seed(0)
    normal = nn.BatchNorm2d(3, dtype=torch.float64 if dtype is torch.float64 else torch.float32, **options)
    for tensor in [*normal.parameters(), *normal.buffers()]:
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5, generator=random)
    shape = (sum(parts), 3, 5, 7)
    values = torch.randn(shape, generator=random, dtype=torch.float64) * torch.tensor([1.0, 3.0, 0.2]).view(-1, 1, 1)
    values += shift + torch.arange(shape[0]).view(-1, 1, 1, 1) / 4
    above = torch.randn(shape, generator=random, dtype=torch.float64)
    return normal, values.to(dtype).split(parts), above.to(dtype).split(parts)


def two_steps(layer, inputs, above):
    """Output, gradients and buffers after two steps on the same inputs; gradients are those of the second."""
    layer.train()
    for _ in range(2):
        layer.zero_grad()
        inputs = inputs.detach().requires_grad_()
        output = layer(inputs)
        output.backward(above)
    gradients = {name: parameter.grad for name, parameter in layer.named_parameters()}
    return {"output": output.detach(), "inputs": inputs.grad, **gradients, **dict(layer.named_buffers())}


def results():
    with open_world("cpu") as world:
        found = {name: case_results(world, **options) for name, options in CASES.items()}
        layer, inputs, _ = example(torch.float32)
        share_statistics(layer)
        plain = copy.deepcopy(layer)
        own_statistics(plain)
        if world.is_main:  # the other process takes no part, so a message to it would never be answered
            layer.eval(), plain.eval()
            found["eval"] = torch.equal(layer(inputs[0]), plain(inputs[0]))
        striped = inputs[world.rank].contiguous(memory_format=torch.channels_last).requires_grad_()
        output = layer.train()(striped)
        output.square().sum().backward()
        layouts = (output, striped.grad)
        found["channels_last"] = all(part.is_contiguous(memory_format=torch.channels_last) for part in layouts)
        found["dtypes"] = [str(output.dtype), str(layer(striped.detach().bfloat16()).dtype)]
        world.barrier()
    return found


def case_results(world, **options):
    """The largest difference by tensor from one process on both batches, in parts of its largest value."""
    layer, inputs, above = example(**options)
    alone = two_steps(copy.deepcopy(layer), torch.cat(inputs), torch.cat(above))
    share_statistics(layer)
    shared = two_steps(layer, inputs[world.rank], above[world.rank])
    for name, _ in layer.named_parameters():
        world.total(shared[name])
    sizes = [len(part) for part in inputs]
    for name in ("output", "inputs"):
        alone[name] = alone[name].split(sizes)[world.rank]
    differences = {
        name: float((shared[name].double() - value.double()).abs().max() / value.double().abs().max())
        for name, value in alone.items()
    }
    buffers = {name: value.tolist() for name, value in layer.named_buffers()}
    return {"differences": differences, "buffers": buffers}


@pytest.fixture(scope="module")
def both(in_processes):
    return in_processes(results)


# A large mean leaves float32 inputs with few digits behind it, which torch's own BatchNorm loses too.
TOLERANCE = {"float32": 3e-6, "large mean": 2e-4, "bfloat16": 1e-2}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_compute_what_one_computes_on_both_batches(both, case):
    for found in both:
        for name, difference in found[case]["differences"].items():
            assert difference <= TOLERANCE.get(case, 1e-12), name


@pytest.mark.parametrize("case", CASES)
def test_running_statistics_have_the_same_bits_in_both_processes(both, case):
    first, second = both
    assert first[case]["buffers"] == second[case]["buffers"]


def test_in_eval_mode_a_process_needs_no_other(both):
    assert both[0]["eval"]


def test_memory_format_and_dtype_of_the_inputs_survive(both):
    for found in both:
        assert found["channels_last"]
        assert found["dtypes"] == ["torch.float32", "torch.bfloat16"]


def test_sharing_keeps_parameters_names_and_hooks_and_can_be_undone(small_net):
    net = small_net()
    calls = []
    net.backbone.bn1.register_forward_pre_hook(lambda module, inputs: calls.append(module))
    modules, state = dict(net.named_modules()), net.state_dict(keep_vars=True)
    share_statistics(net)
    share_statistics(net)
    assert type(net.backbone.bn1) is GlobalBatchNorm2d
    own_statistics(net)
    assert type(net.backbone.bn1) is nn.BatchNorm2d
    assert dict(net.named_modules()) == modules
    after = net.state_dict(keep_vars=True)
    assert list(after) == list(state)
    assert all(after[name] is tensor for name, tensor in state.items())
    net(torch.zeros(1, 3, 4, 4))
    assert calls == [net.backbone.bn1]


def test_another_batchnorm_is_refused_by_name_and_nothing_changes(small_net):
    net = small_net()
    net.head = nn.BatchNorm3d(4)
    with pytest.raises(OptionError, match="no global statistics for this BatchNorm: 'head' is BatchNorm3d; run in one"):
        share_statistics(net)
    assert type(net.backbone.bn1) is nn.BatchNorm2d
