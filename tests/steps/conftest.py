"""What the tests of several steps need: short runs, an interruption at a chosen moment, folders compared as bytes."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from opentrans_cli.steps.finetune.options import FinetuneOptions
from opentrans_cli.steps.prune.options import PruneOptions


@pytest.fixture(scope="session")
def content() -> Callable[[Path], dict[str, bytes]]:
    """A folder as name -> bytes, hidden files included."""

    def read(folder: Path) -> dict[str, bytes]:
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    return read


@pytest.fixture(scope="session")
def distilled() -> Callable[..., PruneOptions]:
    """Options of a run of four rounds (0.1, 0.19, 0.271, 0.3) with two steps in each."""

    def options(**changes: object) -> PruneOptions:
        given = {"images": "shapes", "image_limit": 8, "batch_size": 4, "steps_per_round": 2, "final_steps": 2}
        return PruneOptions(**{"source": "tiny", "sparsity": 0.3, **given, **changes})  # type: ignore[arg-type]

    return options


@pytest.fixture(scope="session")
def torchrun() -> Callable[..., None]:
    """Runs a Python file in two processes, as a user's torchrun does, and returns when both have ended well."""

    def run(file: str, *arguments: Path, timeout: float) -> None:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
        command += ["--local-addr=127.0.0.1", file, *map(str, arguments)]
        # Otherwise gloo asks for the address of this machine's name, which need not have one.
        environment = {
            **os.environ,
            "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, done.stderr

    return run


class Interruption:
    """A reporter that raises KeyboardInterrupt at unit `at` (from 1) of the bar number `bar` (from 1)."""

    def __init__(self, *, bar: int, at: int) -> None:
        self.remaining, self.at = bar, at

    def say(self, text: str) -> None:
        pass

    @contextmanager
    def bar(self, title: str, total: int, *, done: int = 0, left: object = None) -> Iterator[Callable[[str], None]]:
        self.remaining -= 1
        done = 0

        def advance(status: str) -> None:
            nonlocal done
            done += 1
            if self.remaining == 0 and done == self.at:
                raise KeyboardInterrupt

        yield advance


@pytest.fixture(scope="session")
def interruption() -> type[Interruption]:
    return Interruption


class LossCase:
    """A tiny segmentor in fine-tuning: what is trained, a batch of four whole scenes, and losses for it."""

    def __init__(self, framework: str, *, classes: int | None, **options: Any) -> None:
        from opentrans_cli.clip.source import load_clip
        from opentrans_cli.datasets import DATASETS
        from opentrans_cli.datasets.options import DatasetOptions
        from opentrans_cli.steps.finetune.loss import make_loss
        from opentrans_cli.steps.segmentors.built import build_segmentor
        from opentrans_cli.steps.sources import clip_tower
        from opentrans_cli.steps.training_data import TrainingData
        from opentrans_cli.training.processes.distributed import World

        self.options = FinetuneOptions(batch_size=4, crop=64, points=200, **options)
        clip = load_clip("tiny")
        tower = clip_tower(load_clip("tiny"))
        small = {"queries": 12, "width": 32, "encoder_layers": 1, "decoder_layers": 2}
        more = {} if classes is None else {"classes": classes}
        self.built = build_segmentor(tower, framework, options={**small, **more} if framework != "deeplabv3" else None)
        samples = DATASETS.load("shapes")(DatasetOptions(limit=8, size=64))
        self.loader = TrainingData(samples, self.options, preprocess=tower.preprocess)
        self.world = World(torch.device("cpu"))
        self.trained, factory = make_loss(self.built, self.loader, clip, self.options, self.world)
        self.terms = factory(self.trained)._terms
        self.kd: Any = self.terms.kd
        self.batch = self.batch_of(range(4))

    def batch_of(self, rows: Any) -> tuple[torch.Tensor, ...]:
        """Whole scenes, the first of them as draw 10."""
        names, seen = self.loader.samples.vocabulary.names, self.loader.seen_vocabulary.names
        ids = np.array([seen.index(name) if name in seen else -1 for name in names] + [-1] * 256)
        scenes = [self.loader.samples[row] for row in rows]
        images = self.loader.preprocess.normalise(torch.from_numpy(np.stack([scene.image for scene in scenes])))
        label_maps = torch.from_numpy(np.stack([ids[scene.label_map] for scene in scenes]))
        return images, label_maps, torch.tensor([10 + row for row in rows]), torch.tensor([*rows])

    def options_with(self, **changes: Any) -> FinetuneOptions:
        """The options of the case but for these."""
        return replace(self.options, **changes)

    def kd_in(self, world: Any) -> Any:
        """The distillation of the case in another world."""
        from opentrans_cli.steps.finetune.region_kd import RegionKd

        kd = self.kd
        return kd and RegionKd(kd._teacher, kd._text, world=world, whole_cells=kd._whole_cells)

    def loss(self, module: torch.nn.Module, *, world: Any = None, **changes: Any) -> Any:
        """The loss that calls `module`."""
        from opentrans_cli.steps.finetune.loss import FinetuneLoss

        world = world or self.world
        terms = replace(self.terms, options=self.options_with(**changes), world=world, kd=self.kd_in(world))
        return FinetuneLoss(module, self.trained, terms)


@pytest.fixture(scope="session")
def loss_cases() -> dict[tuple[Any, ...], LossCase]:
    """Those that were built, to be copied."""
    return {}


@pytest.fixture(scope="session")
def loss_case(
    tmp_path_factory: pytest.TempPathFactory, loss_cases: dict[tuple[Any, ...], LossCase]
) -> Callable[..., LossCase]:
    """Builds a case: framework, options of fine-tuning, `grounding` with captions for the first three scenes, and
    `classes`, the length of the fixed list of a mask2former.
    """
    captions = tmp_path_factory.mktemp("captions") / "captions.tsv"
    words = "red circle,grass,blue square,sand,disc,stripes,sky"
    captions.write_text("".join(f"train-{row:06d}\t{words}, number {row}\n" for row in range(3)))

    def make(framework: str, *, grounding: bool = False, classes: int | None = None, **options: Any) -> LossCase:
        if grounding:
            options |= {"grounding_weight": 2.0, "captions": str(captions)}
        key = (framework, classes, *sorted(options.items()))
        if key not in loss_cases:
            loss_cases[key] = LossCase(framework, classes=classes, **options)
        return copy.deepcopy(loss_cases[key])

    return make
