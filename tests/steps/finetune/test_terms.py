"""Options of the loss are refused before anything is read; captions are read once and fit the images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from opentrans_cli.clip.source import load_clip
from opentrans_cli.errors import DataError, OptionError
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.steps.finetune.options import FinetuneOptions
from opentrans_cli.steps.finetune.terms import check_loss_options, loss_identity, make_loss
from opentrans_cli.training.processes.distributed import World

Case = Callable[..., Any]
GROUNDED: dict[str, Any] = {"grounding_weight": 1.0, "captions": "captions.tsv"}


@pytest.mark.parametrize("framework", ["deeplabv3", "han", "mask2former", "fcclip"])
def test_the_defaults_are_fine_for_every_framework(framework: str) -> None:
    check_loss_options(FinetuneOptions(), FRAMEWORKS.load(framework))
    check_loss_options(FinetuneOptions(kd_weight=2.0), FRAMEWORKS.load(framework))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weight": -1.0}, "no weight of a loss: --class-weight -1.0; "),
        ({"kd_weight": float("nan")}, "no weight of a loss: --kd-weight nan; "),
        ({"dice_weight": float("inf")}, "no weight of a loss: --dice-weight inf; "),
        ({"class_weight": 0.0, "mask_weight": 0.0, "dice_weight": 0.0}, "every weight of the loss is 0; "),
        ({"points": 0}, "at 0 points: --points; give 1 to 1000000"),
        ({"oversample": 0.5}, "fewer points than it takes: --oversample 0.5; "),
        ({"importance": 1.1}, r"no share: --importance 1.1; give a value in \[0, 1\]"),
        ({"region_dropout": 1.0}, r"no share: --region-dropout 1.0; give a value in \[0, 1\)"),
        ({"captions": "captions.tsv"}, "captions without a part in the loss: captions.tsv; give --grounding-weight"),
        ({"grounding_weight": 1.0}, "words of images are missing: --grounding-weight; name their file with --captions"),
        ({**GROUNDED, "batch_size": 4, "accumulate": 4}, "--batch-size 4 in 4 parts; give at least 2 images a part"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        check_loss_options(FinetuneOptions(**options), FRAMEWORKS.load("han"))


def test_words_need_queries() -> None:
    with pytest.raises(OptionError, match="deeplabv3 has none: --grounding-weight; leave it out"):
        check_loss_options(FinetuneOptions(**GROUNDED), FRAMEWORKS.load("deeplabv3"))


def made(case: Any, captions: Path, *, world: World | None = None) -> Any:
    options = case.options_with(grounding_weight=1.0, captions=str(captions))
    return make_loss(case.built, case.feed, load_clip("tiny"), options, world or case.world)


def test_captions_have_to_be_of_the_images(tmp_path: Path, loss_case: Case) -> None:
    captions = tmp_path / "captions.tsv"
    with pytest.raises(DataError, match="captions not found"):
        made(loss_case("han"), captions)
    captions.write_text("elsewhere\tred dog\n")
    with pytest.raises(DataError, match=r"none of the images: .*, first 'elsewhere'; images are called like 'train-0"):
        made(loss_case("han"), captions)


def test_processes_with_one_image_each_have_nothing_to_tell_a_caption_from(tmp_path: Path, loss_case: Case) -> None:
    world = World(torch.device("cpu"))
    world.size = 4
    with pytest.raises(OptionError, match="4 processes share --batch-size 4; give at least 2 images"):
        made(loss_case("han"), tmp_path / "captions.tsv", world=world)


def test_what_the_loss_reads_is_part_of_the_identity_of_a_run(tmp_path: Path) -> None:
    captions = tmp_path / "captions.tsv"
    options = FinetuneOptions(grounding_weight=1.0, captions=str(captions))
    with pytest.raises(DataError, match=r"captions cannot be read: .*; name a text file"):
        loss_identity(options)
    captions.write_text("a\tdog\n")
    first = loss_identity(options)
    captions.write_text("a\tcat\n")
    assert loss_identity(options).keys() == first.keys() == {"captions"}
    assert loss_identity(options) != first
    assert loss_identity(FinetuneOptions()) == {}


def test_the_teacher_is_the_dense_tower_and_stays_as_it_is(loss_case: Case) -> None:
    case = loss_case("deeplabv3", kd_weight=1.0)
    dense = load_clip("tiny").model.visual.state_dict()
    taught = case.kd._teacher._visual
    assert all(torch.equal(tensor, dense[name]) for name, tensor in taught.state_dict().items())
    assert not any(parameter.requires_grad for parameter in taught.parameters()) and not taught.training
    assert {id(p) for p in taught.parameters()}.isdisjoint(id(p) for p in case.trained.parameters())
