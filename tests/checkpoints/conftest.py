"""A checkpoint as every kind of file that people have, for tests of the reader and of the commands that take one."""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import pickle
import sys
import types
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

State = Mapping[str, Tensor]


class Holder(nn.Module):
    """A module whose state dict is what it is given: as whole models and TorchScript archives are saved."""

    def __init__(self, state: State) -> None:
        super().__init__()
        for head in dict.fromkeys(key.partition(".")[0] for key in state):
            if head in state:
                self.register_buffer(head, state[head].clone())
            else:
                inside = {k.removeprefix(f"{head}."): v for k, v in state.items() if k.startswith(f"{head}.")}
                self.add_module(head, Holder(inside))

    def forward(self, x: Tensor) -> Tensor:
        return x


def below(prefix: str, state: State) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in state.items()}


def contiguous(state: State) -> dict[str, Tensor]:
    return {key: tensor.contiguous() for key, tensor in state.items()}


def shards(state: State, path: Path, save: Callable[[Any, Path], object]) -> None:
    places = {key: f"{path.name}-part-{number % 2}" for number, key in enumerate(state)}
    for part in set(places.values()):
        save(contiguous({key: state[key] for key in state if places[key] == part}), path.parent / part)
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))


def torchscript(state: State, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, its archives are still around
        torch.jit.trace(Holder(state).eval(), torch.ones(1)).save(path)


def with_strangers(state: State) -> dict[str, Any]:
    """What mmengine, Lightning and argparse users save beside their weights; none of the classes is known."""

    class HistoryBuffer:
        def __init__(self) -> None:
            self._log_history, self._count_history = np.array([1.0, 2.0]), np.array([1, 1])

    module = types.ModuleType("mmengine_of_the_test")
    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    return {
        "meta": {"time": datetime.datetime(2026, 1, 2), "path": Path("work_dirs") / "a", "best": np.float64(0.4)},
        "message_hub": {"log_scalars": {"loss": HistoryBuffer()}},
        "hyper_parameters": argparse.Namespace(lr=0.1, layers=collections.deque([1]), device=torch.device("cpu")),
        "state_dict": collections.OrderedDict(state),
        "counts": collections.defaultdict(list, a=[1]),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
        "epoch": torch.tensor(3),
    }


def arrays(state: State) -> dict[str, np.ndarray]:
    return {key: tensor.numpy() for key, tensor in state.items()}


KINDS: dict[str, Callable[[State, Path], object]] = {
    "safetensors": lambda state, path: save_file(contiguous(state), path),
    "torch": lambda state, path: torch.save(dict(state), path),
    "old torch": lambda state, path: torch.save(dict(state), path, _use_new_zipfile_serialization=False),
    "safetensors shards": lambda state, path: shards(state, path, save_file),
    "torch shards": lambda state, path: shards(state, path, torch.save),
    "TorchScript": torchscript,
    "whole module": lambda state, path: torch.save(Holder(state), path),
    "old whole module": lambda state, path: torch.save(Holder(state), path, _use_new_zipfile_serialization=False),
    "pickled tensors": lambda state, path: path.write_bytes(pickle.dumps(dict(state))),
    "pickled arrays": lambda state, path: path.write_bytes(pickle.dumps({"model": arrays(state), "__author__": "a"})),
    "strangers": lambda state, path: torch.save(with_strangers(state), path),
    "old strangers": lambda state, path: torch.save(with_strangers(state), path, _use_new_zipfile_serialization=False),
    "average beside": lambda state, path: torch.save(
        {"model_ema": {key: tensor * 2 for key, tensor in state.items()}, "model": dict(state), "epoch": 1}, path
    ),
    "average alone": lambda state, path: torch.save({"ema": below("module.", state), "epoch": 1}, path),
    "data parallel": lambda state, path: torch.save({"model_state_dict": below("module.", state)}, path),
    "compiled": lambda state, path: torch.save({"state_dict": below("module._orig_mod.", state)}, path),
    "Lightning": lambda state, path: torch.save({"state_dict": below("model.", state), "loops": {}}, path),
    "prefix of their own": lambda state, path: save_file(below("net.clip_tower.", contiguous(state)), path),
    "pair": lambda state, path: torch.save((dict(state), {"epoch": 3}), path),
}
"""By name: how a state dict becomes a file of this kind."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def kinds() -> dict[str, Callable[[State, Path], object]]:
    return KINDS
