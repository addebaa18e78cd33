"""Two processes train as one: the same steps, one state, and an end that all reach together."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from opentrans_cli.errors import RunStopped, TrainingError
from opentrans_cli.sparsity.masking import hold
from opentrans_cli.training.loop import Hooks, train
from opentrans_cli.training.processes.distributed import World, open_world
from opentrans_cli.training.settings import TrainSettings
from opentrans_cli.training.state_file import load_meta, read_run_state

pytestmark = pytest.mark.slow

SETTINGS = TrainSettings(
    steps=4, batch_size=8, optimizer="sgd", lr=0.1, backbone_lr_factor=1.0, weight_decay=0.01, seed=3
)
KINDS: dict[str, dict[str, Any]] = {
    "copies, in parts": {"accumulate": 2, "ema": 0.5},
    "shards": {"shard": True, "ema": 0.5},
    "shards, in parts, adamw": {"shard": True, "accumulate": 2, "optimizer": "adamw", "lr": 1e-3},
    "float16": {"precision": "float16"},
}
CLOSE = {"float16": 0.05, "shards, in parts, adamw": 0.02}  # elsewhere 1e-4 of the way gone


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.Dropout(0.3))
        self.head = nn.Conv2d(8, 4, 1)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scale * self.head(self.backbone(images))


def fresh() -> Net:
    torch.manual_seed(0)
    return Net()


class Pixels:
    """Cross-entropy over all pixels of all processes."""

    def __init__(self, called: nn.Module, world: World) -> None:
        self.called, self.world = called, world

    def whole(self, batch):
        count = torch.tensor(batch[1].numel())
        self.world.total(count)
        return int(count)

    def __call__(self, part, whole):
        return {"pixels": F.cross_entropy(self.called(part[0]), part[1], reduction="sum") / whole}


def run(world: World, settings: TrainSettings, *, poison: int | None = None, **options: Any):
    """(net, log) of a run on this process's share; `poison`: the step at which the last row is NaN."""
    net = fresh()
    mask = torch.rand(net.backbone[0].weight.shape, generator=torch.Generator().manual_seed(9)) < 0.5

    def batch_of(step):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(8, 3, 6, 6, generator=generator)
        labels = torch.randint(4, (8, 6, 6), generator=generator)
        if step == poison:
            images[-1] = float("nan")
        rows = world.share(np.arange(8), accumulate=settings.accumulate)
        return images[rows], labels[rows]

    loss = options.pop("loss", lambda called: Pixels(called, world))
    own = {name: options.pop(name) for name in ("evaluate", "on_evaluation") if name in options}
    hooks = Hooks(after_step=hold(net, {"backbone.0": mask}), **own)
    log = train(net, batch_of, settings, loss=loss, world=world, hooks=hooks, **options)
    assert not net.backbone[0].weight[~mask].any()
    return net, log


def digest(net: nn.Module) -> str:
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in net.state_dict().values())).hexdigest()


def way(net: nn.Module, other: nn.Module) -> float:
    """How far two nets are from each other, in parts of the way gone."""
    start, one, two = fresh().state_dict(), net.state_dict(), other.state_dict()
    floats = [name for name in start if start[name].is_floating_point()]
    return max(float((one[name] - two[name]).norm() / (two[name] - start[name]).norm()) for name in floats)


def compared(world: World, kind: str, folder: Path) -> dict[str, Any]:
    settings = dataclasses.replace(SETTINGS, **KINDS[kind])
    alone = World(torch.device("cpu"))
    wanted, wanted_log = run(alone, settings)
    found, log = run(world, settings)
    state = folder / kind
    run(world, settings, stop_at=2, checkpoint=state)
    resumed, _ = run(world, settings, state=state)
    other, _ = run(alone, dataclasses.replace(settings, shard=False), state=state)
    return {
        "apart": way(found, wanted),
        "losses": [list(log.losses), list(wanted_log.losses)],
        "digest": digest(found),
        "resumed": digest(resumed),
        "resumed alone": way(other, wanted),
        "shapes": {name: list(tensor.shape) for name, tensor in read_run_state(state)[0].items()},
        "plain": all(type(p) is nn.Parameter for p in found.parameters()),
    }


def ended(world: World, folder: Path) -> dict[str, Any]:
    """What ends a run that only one process has reason to end."""
    told: dict[str, Any] = {}
    for shard in (False, True):
        minutes = 1e-9 if world.is_main else 1e9
        state = folder / f"ended{shard}"
        settings = dataclasses.replace(SETTINGS, shard=shard)
        for name, options in {
            "time": {"settings": dataclasses.replace(settings, max_minutes=minutes)},
            "nan": {"settings": settings, "poison": 2},
        }.items():
            try:
                run(world, checkpoint=state, **options)
            except (TrainingError, RunStopped) as error:
                told[f"{name} {shard}"] = [type(error).__name__, str(error).split(" (")[0].split(";")[0]]
                told[f"{name} {shard} step"] = load_meta(state)["step"]
    return told


def looked_at(world: World) -> dict[str, Any]:
    """Evaluations see whole parameters in eval mode, and change nothing."""
    found = {}
    for shard in (False, True):
        settings = dataclasses.replace(SETTINGS, shard=shard, ema=0.5, eval_every=2)
        plain, _ = run(world, settings)
        seen: list[Any] = []
        made: list[Any] = []

        def loss(called, made=made):
            made.append(called)
            return Pixels(called, world)

        def evaluate(made=made, seen=seen):
            net = getattr(made[0], "module", made[0])
            net(torch.ones(1 + world.rank, 3, 6, 6))
            weight = net.head.weight.detach()
            seen.append([list(weight.shape), not hasattr(weight, "device_mesh"), net.training, weight.sum().item()])
            return {"miou": 0.5}

        heard: list[int] = []
        net, _ = run(world, settings, evaluate=evaluate, on_evaluation=lambda s, _, h=heard: h.append(s), loss=loss)
        left = net.head.weight.detach().sum().item()
        found[str(shard)] = {"same": digest(net) == digest(plain), "seen": seen, "heard": heard, "left": left}
    return found


def results() -> dict[str, Any]:
    torch.set_num_threads(1)
    with open_world("cpu") as world:
        name = torch.zeros(64, dtype=torch.uint8)
        if world.is_main:
            folder = tempfile.mkdtemp()
            name[: len(folder)] = torch.tensor(list(folder.encode()), dtype=torch.uint8)
        folder = Path(bytes(world.agree({"folder": name})["folder"].tolist()).decode().rstrip("\0"))
        return {
            "kinds": {kind: compared(world, kind, folder) for kind in KINDS},
            "ended": ended(world, folder),
            "looked": looked_at(world),
        }


@pytest.fixture(scope="module")
def both(in_processes):
    return in_processes(results)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_are_one_up_to_rounding_and_each_other_to_the_bit(both, kind):
    first, second = (found["kinds"][kind] for found in both)
    close = CLOSE.get(kind, 1e-4)
    assert first["digest"] == second["digest"]
    assert first["losses"] == second["losses"]
    assert first["losses"][0] == pytest.approx(first["losses"][1], rel=close)
    assert 0 < first["apart"] < close
    assert first["plain"] and second["plain"]


@pytest.mark.parametrize("kind", KINDS)
def test_their_one_state_is_that_of_a_process_alone_and_goes_on_in_any_number(both, kind):
    for found in both:
        assert found["kinds"][kind]["resumed"] == found["kinds"][kind]["digest"]
        assert found["kinds"][kind]["resumed alone"] < CLOSE.get(kind, 1e-4)
    shapes = both[0]["kinds"][kind]["shapes"]
    assert shapes["model.head.weight"] == [4, 8, 1, 1]
    assert any(name.startswith("optimizer.head.weight.") for name in shapes)


@pytest.mark.parametrize("shard", [False, True])
def test_what_one_process_meets_ends_both_with_the_state_kept(both, shard):
    for found in both:
        ended = found["ended"]
        assert ended[f"time {shard}"] == [RunStopped.__name__, "the time is up"]
        assert ended[f"time {shard} step"] == 1
        assert ended[f"nan {shard}"][1] == "loss is not finite: step 3 of 4"
        assert ended[f"nan {shard} step"] == 2


@pytest.mark.parametrize("shard", ["False", "True"])
def test_evaluations_see_whole_parameters_and_change_nothing(both, shard):
    for rank, found in enumerate(both):
        looked = found["looked"][shard]
        assert looked["same"]
        assert [what[:3] for what in looked["seen"]] == [[[4, 8, 1, 1], True, False]] * 2
        assert looked["seen"][1][3] == looked["left"] != looked["seen"][0][3]  # the averages
        assert looked["heard"] == ([] if rank else [2, 4])
