"""Evaluation in the middle of training: the figures of eval, and a run that never notices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from opentrans_cli.clip.source import load_clip
from opentrans_cli.datasets import DATASETS
from opentrans_cli.datasets.base import SegDataset
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.errors import DataError, OptionError
from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.steps.eval.evaluate import score
from opentrans_cli.steps.finetune.options import FinetuneControls
from opentrans_cli.steps.finetune.validator import Validator, check_validation_options, validation_samples
from opentrans_cli.steps.segmentors.built import BuiltSegmentor, build_segmentor
from opentrans_cli.steps.segmentors.tally import Tally
from opentrans_cli.steps.segmentors.words import embed_vocabulary
from opentrans_cli.steps.sources import clip_tower
from opentrans_cli.training.processes.distributed import World

CPU = torch.device("cpu")
FIGURES = ("miou", "miou_seen", "miou_unseen", "pixel_accuracy")


@pytest.fixture(scope="module")
def scenes() -> SegDataset:
    return validation_samples("shapes", DatasetOptions(size=64), FinetuneControls(eval_limit=5))


@pytest.fixture(scope="module")
def text(scenes: SegDataset) -> ClassText:
    seen = [name not in scenes.unseen for name in scenes.vocabulary.names]
    return embed_vocabulary(load_clip("tiny"), scenes.vocabulary, seen=seen)


@pytest.fixture(params=["maskclip", "deeplabv3"])
def built(request: pytest.FixtureRequest) -> BuiltSegmentor:
    return build_segmentor(clip_tower(load_clip("tiny")), request.param)


def test_the_figures_are_those_of_eval(built: BuiltSegmentor, scenes: SegDataset, text: ClassText) -> None:
    report = score(built, scenes, text, world=World(CPU))
    validator = Validator(built, text, scenes, device=CPU)
    assert validator.images == 5
    assert validator() == validator() == {name: report[name] for name in FIGURES if report[name] is not None}
    assert report["miou_unseen"] is not None


def test_training_goes_on_as_if_nothing_had_been(scenes: SegDataset, text: ClassText) -> None:
    built = build_segmentor(clip_tower(load_clip("tiny")), "deeplabv3")
    module: Any = built.module.train()
    module.backbone.eval()
    modes = [part.training for part in module.modules()]
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    before = torch.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = Validator(built, text, scenes, device=CPU, limit=2)()
    assert found == Validator(built, text, scenes, device=CPU, limit=2)()
    assert [part.training for part in module.modules()] == modes and True in modes and False in modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_processes_share_the_images_and_agree(scenes: SegDataset, text: ClassText) -> None:
    class Process(World):
        """Collects what the processes before it counted."""

        def __init__(self, rank: int) -> None:
            super().__init__(CPU)
            self.rank, self.size = rank, 2

        def collect(self, value: Any) -> list[Any]:
            counted.append(value)
            return [*counted]

    counted: list[Tally] = []
    built = build_segmentor(clip_tower(load_clip("tiny")), "maskclip")
    partial, whole = (Validator(built, text, scenes, device=CPU, world=Process(rank))() for rank in range(2))
    assert whole == Validator(built, text, scenes, device=CPU)() != partial
    assert [sorted(tally.rows) for tally in counted] == [[0, 2, 4], [1, 3]]


def test_words_of_another_data_set_are_a_mistake_of_the_program(scenes: SegDataset) -> None:
    built = build_segmentor(clip_tower(load_clip("tiny")), "maskclip")
    with pytest.raises(ValueError, match="2 classes of text"):
        Validator(built, ClassText.one_each(torch.eye(2)), scenes, device=CPU)


def test_shapes_are_scored_on_their_validation_split_at_the_size_of_training() -> None:
    samples = validation_samples("shapes", DatasetOptions(size=64, limit=2), FinetuneControls(eval_limit=7))
    wanted: SegDataset = DATASETS.load("shapes")(DatasetOptions(split="val", size=64, limit=7))
    assert samples.fingerprint == wanted.fingerprint and len(samples) == 7


def test_a_folder_is_scored_on_the_images_that_are_named(labelled_folder: Any, tmp_path: Path) -> None:
    kept, trained = tmp_path / "val.txt", tmp_path / "train.txt"
    kept.write_text("4\n1\n")
    trained.write_text("0\n2\n")
    data = DatasetOptions(
        images=labelled_folder.images, labels=labelled_folder.labels, classes=labelled_folder.classes, limit=1,
        split_list=trained, hold_out=("grass",),
    )  # fmt: skip
    samples = validation_samples("folder", data, FinetuneControls(eval_split_list=kept))
    assert [samples[index].name for index in range(len(samples))] == ["4", "1"] and samples.unseen == ("grass",)
    kept.write_text("4\n9\n")
    with pytest.raises(DataError, match="'9' in line 2"):
        validation_samples("folder", data, FinetuneControls(eval_split_list=kept))


@pytest.mark.parametrize(
    ("dataset", "controls", "message"),
    [
        ("folder", {"eval_every": 5}, "data set 'folder' has no validation split: --eval-every 5; name the images"),
        ("shapes", {"eval_split_list": Path("a")}, "--eval-split-list a; leave it out"),
        ("shapes", {"eval_every": -1}, "out of range: --eval-every -1"),
        ("shapes", {"eval_limit": 0}, "out of range: --eval-limit 0"),
    ],
)
def test_nonsense_is_refused_before_anything_is_read(dataset: str, controls: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        check_validation_options(dataset, FinetuneControls(**controls))
    assert message in str(caught.value)
