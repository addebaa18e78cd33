"""The state of a run survives the disk bit for bit, and nothing else is taken for one."""

from __future__ import annotations

import os

import pytest
import torch

from opentrans_cli.errors import TrainingError
from opentrans_cli.files.tensorfile import write_tensors
from opentrans_cli.training.state_file import (
    load_meta,
    optimizer_tensors,
    read_run_state,
    restore_module,
    restore_optimizer,
    save_state,
    under_prefix,
    with_prefix,
)


def test_tensors_and_meta_come_back_as_they_were(tmp_path):
    tensors = {
        "a": torch.randn(2, 3).to(memory_format=torch.contiguous_format),
        "scalar": torch.tensor(3.5),
        "flags": torch.tensor([True, False]),
        "count": torch.tensor(7),
        "strided": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }
    save_state(tmp_path / "state", tensors=tensors, meta={"step": 3, "nested": {"lr": 0.1}})
    found, meta = read_run_state(tmp_path / "state")
    assert meta == {"step": 3, "nested": {"lr": 0.1}}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_what_was_said_of_a_run_is_read_without_its_tensors(tmp_path):
    save_state(tmp_path / "state", tensors={"a": torch.ones(64)}, meta={"step": 3})
    whole = (tmp_path / "state").read_bytes()
    (tmp_path / "state").write_bytes(whole[:-256] + b"\xff" * 256)
    assert load_meta(tmp_path / "state") == {"step": 3}


def test_only_one_of_several_processes_writes(tmp_path):
    save_state(tmp_path / "state", tensors={"a": torch.ones(2)}, meta={}, write=False)
    assert list(tmp_path.iterdir()) == []


def test_same_content_gives_the_same_bytes(tmp_path):
    content = {"b": torch.arange(4.0), "a": torch.ones(2)}
    save_state(tmp_path / "one", tensors=content, meta={"x": 1, "y": 2})
    save_state(tmp_path / "two", tensors=dict(reversed(content.items())), meta={"y": 2, "x": 1})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_write_that_dies_leaves_the_old_state(tmp_path, monkeypatch):
    path = tmp_path / "state"
    save_state(path, tensors={"a": torch.ones(2)}, meta={"step": 1})

    def full_disk(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(TrainingError, match=r"No space left on device \(.* bytes needed, .* free\); check free space"):
        save_state(path, tensors={"a": torch.zeros(2)}, meta={"step": 2})
    assert read_run_state(path)[1] == {"step": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_damaged_missing_and_foreign_files_are_refused_in_one_line(tmp_path):
    save_state(tmp_path / "good", tensors={"a": torch.ones(64)}, meta={})
    (tmp_path / "cut").write_bytes((tmp_path / "good").read_bytes()[:-9])
    (tmp_path / "text").write_text("not a state")
    torch.save({"a": torch.ones(2)}, tmp_path / "pickle")
    write_tensors(tmp_path / "foreign", {"a": torch.ones(2).numpy()})
    for name in ("cut", "text", "pickle", "missing"):
        with pytest.raises(
            TrainingError, match=r"cannot resume: .*; start anew with --force and without --resume"
        ) as error:
            read_run_state(tmp_path / name)
        assert "\n" not in str(error.value)
    for load in (read_run_state, load_meta):
        with pytest.raises(TrainingError, match=r"not the state of a run of this version"):
            load(tmp_path / "foreign")


def test_prefixes_are_put_on_and_taken_off():
    tensors = {"a.b": torch.ones(1), "c": torch.zeros(1)}
    flat = {**with_prefix("model", tensors), **with_prefix("model2", tensors)}
    assert under_prefix("model", flat) == tensors


OPTIMIZERS = {
    "adamw": (lambda parameters: torch.optim.AdamW(parameters, lr=0.01), {"step", "exp_avg", "exp_avg_sq"}),
    "sgd": (lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9), {"momentum_buffer"}),
    "plain": (lambda parameters: torch.optim.SGD(parameters, lr=0.01), set()),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimizer_goes_on_exactly_where_it_stopped(small_net, kind):
    make, slots = OPTIMIZERS[kind]

    def step(net, optimizer, seed):
        optimizer.zero_grad()
        images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
        net.eval()(images).square().mean().backward()
        optimizer.step()

    def fresh():
        net = small_net().to(memory_format=torch.channels_last)
        return net, make(net.parameters())

    net, optimizer = fresh()
    step(net, optimizer, 0)
    kept = optimizer_tensors(optimizer, dict(net.named_parameters()))
    assert {name.rpartition(".")[2] for name in kept} == slots
    twin, twin_optimizer = fresh()
    twin.load_state_dict(net.state_dict())
    restore_optimizer(
        twin_optimizer, dict(twin.named_parameters()), tensors={name: t.clone() for name, t in kept.items()}
    )
    step(net, optimizer, 1)
    step(twin, twin_optimizer, 1)
    for one, two in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, two)
        assert one.stride() == two.stride()


def test_a_state_for_a_parameter_that_is_not_trained_is_refused(small_net):
    net = small_net()
    optimizer = torch.optim.AdamW(net.head.parameters())
    with pytest.raises(TrainingError, match=r"'backbone.conv1.weight'; freeze the layers that run froze"):
        restore_optimizer(
            optimizer,
            {"head.weight": net.head.weight},
            tensors={"backbone.conv1.weight.exp_avg": torch.zeros(8, 3, 3, 3)},
        )


def test_a_state_of_another_model_is_refused_before_anything_changes(small_net):
    net = small_net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    other = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    other["head.bias"] = torch.zeros(5)
    with pytest.raises(TrainingError, match=r"another model: here .*'head.bias'"):
        restore_module(net, other, origin="here")
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
