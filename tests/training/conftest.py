"""A tiny tower whose residual branches are alive, a small network that is quick to train, and two processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from opentrans_cli.clip.architecture import build_clip

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


@pytest.fixture(scope="session")
def in_processes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[], Any]], list[Any]]:
    """Calls a function of a test file in two fresh processes that torch can join, and gives their results by rank.

    Results pass through JSON.
    """

    def run(function: Callable[[], Any]) -> list[Any]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        folder = tmp_path_factory.mktemp("processes")
        shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        # Otherwise gloo asks for the address of this machine's name, which need not have one.
        shared |= {"GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0", "OMP_NUM_THREADS": "1"}
        children = []
        for rank in range(2):
            command = [sys.executable, "-c", CHILD, function.__code__.co_filename, function.__name__]
            environment = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            with (folder / f"{rank}.log").open("wb") as log:
                children.append(subprocess.Popen([*command, folder / f"{rank}.json"], env=environment, stderr=log))
        try:
            codes = [child.wait(timeout=170) for child in children]
        finally:
            for child in children:
                child.kill()
                child.wait()
        logs = "\n".join((folder / f"{rank}.log").read_text() for rank in range(2))
        assert codes == [0, 0], logs
        return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]

    return run


CHILD = """
import importlib.util, json, pathlib, sys
spec = importlib.util.spec_from_file_location("law", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["law"] = module
spec.loader.exec_module(module)
result = getattr(module, sys.argv[2])()
pathlib.Path(sys.argv[3]).write_text(json.dumps(result))
"""
