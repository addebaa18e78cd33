"""Two processes train as one with the whole batch, agree to the bit, and end together."""

from __future__ import annotations

import copy
import hashlib
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.errors import OptionError, TrainingError
from opentrans_cli.training.processes import failures
from opentrans_cli.training.processes.distributed import World, open_world

TEXT = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1}
TOWERS = {
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "vit": {"image_size": 64, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
}


def tower(kind: str) -> Any:
    torch.manual_seed(0)
    visual: Any = build_clip({"embed_dim": 16, "vision_cfg": TOWERS[kind], "text_cfg": TEXT}).visual
    for module in visual.modules():
        if isinstance(module, nn.BatchNorm2d):  # open_clip starts with zeros in bn3: no gradient gets through
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return visual.double().to(memory_format=torch.channels_last)


def trained(visual, student, rows):
    """The gradients of the first of three steps on the same images, and the state after the last."""
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    teacher = torch.randn(4, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    optimizer = torch.optim.AdamW(visual.parameters(), lr=1e-2)
    gradients: dict[str, torch.Tensor] = {}
    for _ in range(3):
        visual.train()
        optimizer.zero_grad(set_to_none=True)
        (student(images[rows]) - teacher[rows]).square().sum(1).mean().backward()
        gradients = gradients or {name: part.grad.clone() for name, part in visual.named_parameters()}
        optimizer.step()
        visual.eval()
        visual(images[rows][:1]).sum().backward()  # a gradient outside the wrapper, of this process alone
    return gradients, visual.state_dict()


def furthest(found, wanted):
    """The largest difference, in parts of the largest value of all tensors together."""
    assert list(found) == list(wanted)
    largest = max(float(tensor.abs().max()) for tensor in wanted.values())
    return max(float((found[name] - tensor).abs().max()) for name, tensor in wanted.items()) / largest


def training_results(world, kind):
    visual = tower(kind)
    alone = copy.deepcopy(visual)
    before = dict(visual.named_parameters())
    if not world.is_main:
        nn.init.zeros_(visual.conv1.weight)  # wrapping gives everybody rank 0's
    student = world.wrap(visual)
    gradients, state = trained(visual, student, world.share(np.arange(4)))
    world.unwrap(visual)
    wanted_gradients, wanted = trained(alone, alone, np.arange(4))
    digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in state.values())).hexdigest()
    return {
        "gradients": furthest(gradients, wanted_gradients),
        "state": furthest(state, wanted),
        "digest": digest,
        "same parameters": all(part is before[name] for name, part in visual.named_parameters()),
        "layout": visual.conv1.weight.is_contiguous(memory_format=torch.channels_last),
        "classes": [type(part) for part in visual.modules()] == [type(part) for part in alone.modules()],
    }


def shared_results(world):
    """What comes of tensors that differ by process."""
    own = 1 + world.rank
    striped = torch.full((1, 2, 3, 3), float(own)).to(memory_format=torch.channels_last)
    kinds = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8)
    totals = {str(kind): torch.tensor([own, 10 * own], dtype=kind) for kind in kinds}
    for tensor in (*totals.values(), striped):
        world.total(tensor)
    masks = {"a": torch.tensor([[world.is_main, False]]), "b": torch.tensor([not world.is_main])}
    agreed = world.agree(masks)
    return {
        "rows": world.share(np.array([5, 2, 9, 7])).tolist(),
        "parts": world.share(np.arange(12), accumulate=3).tolist(),
        "totals": {name: tensor.tolist() for name, tensor in totals.items()},
        "striped": striped.unique().tolist(),
        "agreed": {name: mask.tolist() for name, mask in agreed.items()},
        "untouched": masks["b"].tolist() == [not world.is_main],
        "bool": agreed["a"].dtype is torch.bool,
    }


def own_batch_results(world):
    """A network whose BatchNorm keeps to its process, wrapped for steps of two parts."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).double()
    alone = copy.deepcopy(net)
    images = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(world.rank), dtype=torch.float64)
    called = world.wrap(net, sync_batchnorm=False, accumulate=2)
    found = {"gradients": []}
    for number, part in enumerate(images.split(4)):
        with world.part(number):
            called(part).square().sum().backward()
        alone(part)
        found["gradients"].append(net[0].weight.grad.flatten().tolist())
    found["own"] = torch.equal(net[1].running_mean, alone[1].running_mean)
    found["training"] = net[1].running_mean.tolist()
    with world.gathered(net):
        found["gathered"] = net[1].running_mean.tolist()
    for part in images.split(4):
        called(part)
    world.unwrap(net)
    found["unwrapped"] = [net[1].running_mean.tolist(), int(net[1].num_batches_tracked)]
    return found


def told(world, error):
    """What a command line sees of `error`, raised inside the world."""
    try:
        with world:
            raise error
    except Exception as seen:
        return getattr(seen, "reported", False), str(seen)


def failure_results():
    """Worlds that end badly; the last leaves rank 0 waiting for a process that has gone."""
    failures.PATIENCE = 0.5
    with open_world("cpu") as world:
        world.barrier()
    found = {"both": told(open_world("cpu"), OptionError("no such file: a; give another"))}
    world = open_world("cpu")
    world.barrier()
    if world.rank == 1:
        found["alone"] = told(world, OSError("disk full"))
        world = open_world("cpu")
        told(world, TrainingError("no memory"))
        return found
    try:
        with open_world("cpu") as world:
            world.total(torch.ones(()))
    except TrainingError as error:
        found["left"] = (error.reported, str(error))
    return found


def refusal(world, rows, parts):
    try:
        world.share(np.arange(rows), accumulate=parts)
    except OptionError as error:
        return str(error)


def results():
    with open_world("cpu") as world:
        found = {kind: training_results(world, kind) for kind in TOWERS}
        found["own batches"] = own_batch_results(world)
        found |= {"shared": shared_results(world), "place": [world.rank, world.size, world.is_main, str(world.device)]}
        found["indivisible"] = [refusal(world, 3, 1), refusal(world, 6, 2)]
    return found | failure_results()


@pytest.fixture(scope="module")
def both(in_processes):
    return in_processes(results)


@pytest.mark.parametrize("kind", TOWERS)
def test_gradients_are_those_of_one_process_with_the_whole_batch(both, kind):
    for found in both:
        assert found[kind]["gradients"] < 1e-12


@pytest.mark.parametrize("kind", TOWERS)
def test_after_some_steps_the_tower_is_that_of_one_process_and_has_the_same_bits_everywhere(both, kind):
    # AdamW turns the sign of a gradient that is zero but for rounding into a step of its own.
    assert both[0][kind]["state"] < 1e-7
    assert both[0][kind]["digest"] == both[1][kind]["digest"]


@pytest.mark.parametrize("kind", TOWERS)
def test_wrapping_keeps_parameters_and_memory_format_and_unwrapping_the_classes(both, kind):
    for found in both:
        assert found[kind]["same parameters"]
        assert found[kind]["layout"]
        assert found[kind]["classes"]


def test_each_process_knows_its_place(both):
    assert [found["place"] for found in both] == [[0, 2, True, "cpu"], [1, 2, False, "cpu"]]


def test_rows_are_shared_in_the_order_of_ranks(both):
    assert [found["shared"]["rows"] for found in both] == [[5, 2], [9, 7]]


def test_a_part_has_the_same_rows_whatever_the_number_of_processes(both):
    shares = [np.reshape(found["shared"]["parts"], (3, 2)) for found in both]
    assert (
        np.concatenate(shares, axis=1).tolist()
        == World(torch.device("cpu")).share(np.arange(12), accumulate=3).reshape(3, 4).tolist()
    )


def test_rows_that_do_not_divide_are_refused(both):
    for found in both:
        few, odd = found["indivisible"]
        assert few.startswith("a batch must divide among the processes: 3 by 2; choose another --batch-size")
        assert odd.startswith("a batch must divide among the processes: 6 by 2 x 2 parts; choose another")


def test_gradients_are_shared_with_the_last_part_of_a_step(both):
    (first, last), (other, other_last) = (found["own batches"]["gradients"] for found in both)
    assert first != other
    assert last == other_last


def test_without_sync_each_process_keeps_its_own_statistics_until_those_of_rank_0_count(both):
    first, second = (found["own batches"] for found in both)
    assert first["own"] and second["own"]
    assert first["training"] != second["training"]
    assert first["training"] == first["gathered"] == second["gathered"]
    assert first["unwrapped"] == second["unwrapped"]
    assert first["unwrapped"] != [first["training"], 4]
    assert first["unwrapped"][1] == 4


def test_totals_are_the_same_everywhere(both):
    first, second = (found["shared"] for found in both)
    assert first == {**second, "rows": first["rows"], "parts": first["parts"]}
    assert len(first["totals"]) == 7
    assert all(total == [3, 30] for total in first["totals"].values())
    assert first["striped"] == [3.0]


def test_all_take_the_masks_of_rank_0_and_keep_their_own_unchanged(both):
    for found in both:
        assert found["shared"]["agreed"] == {"a": [[True, False]], "b": [False]}
        assert found["shared"]["bool"]
        assert found["shared"]["untouched"]


def test_an_error_that_all_processes_meet_is_left_to_rank_0_to_tell(both):
    assert [found["both"] for found in both] == [[told, "no such file: a; give another"] for told in (False, True)]


def test_an_error_of_one_process_alone_is_told_by_that_process(both):
    assert both[1]["alone"] == [False, "disk full"]


def test_who_waits_for_a_process_that_failed_ends_too_and_has_nothing_to_tell(both):
    told, message = both[0]["left"]
    assert told
    assert message.startswith("another process of this run has ended")


# One process, and what a world refuses to be.


def test_a_process_alone_is_a_world_of_one(small_net):
    net, rows = small_net(), np.arange(3)
    with open_world("cpu") as world:
        assert (world.rank, world.size, world.is_main, world.device) == (0, 1, True, torch.device("cpu"))
        assert world.wrap(net) is net
        assert world.share(rows).tolist() == [0, 1, 2]
        tensor = torch.ones(2)
        world.total(tensor)
        assert tensor.tolist() == [1, 1]
        assert world.agree({"a": tensor})["a"] is tensor
        world.barrier()
        with world.gathered(net), world.part(0):
            assert world.share(rows, accumulate=3).tolist() == [0, 1, 2]
        world.unwrap(net)
        assert type(net.dropout) is nn.Dropout


def test_an_error_of_a_process_alone_passes_through_as_it_is():
    with pytest.raises(OptionError) as caught, open_world("cpu"):
        raise OptionError("no such file: a; give another")
    assert not hasattr(caught.value, "reported") or not caught.value.reported


@pytest.fixture
def two(monkeypatch):
    """The environment of a process of two, whose other never starts."""
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


TORCHRUN = {
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
}


def test_an_environment_that_torchrun_did_not_make_is_refused(two):
    two.delenv("MASTER_PORT")
    with pytest.raises(OptionError, match=r"WORLD_SIZE is set, but not MASTER_PORT; start several processes with tor"):
        open_world("cpu")


def test_without_accelerate_one_line_says_what_to_install(two):
    two.setitem(sys.modules, "accelerate", None)
    with pytest.raises(OptionError, match=r"not installed; pip install 'opentrans-cli\[distributed\]'"):
        open_world("cpu")


def test_more_processes_than_gpus_are_refused(two):
    two.setattr(torch.cuda, "is_available", lambda: True)
    two.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(OptionError, match=r"more processes than GPUs on this machine: 2 > 1; lower --nproc-per-node"):
        open_world("auto")


def test_several_processes_on_mps_are_refused(two):
    two.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(OptionError, match=r"several processes cannot share MPS"):
        open_world("mps")
