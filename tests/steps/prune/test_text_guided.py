"""Text-guided distillation of the embedded tower: a fixed teacher, a student on the tower's own tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opentrans_cli.clip.source import LoadedClip, load_clip
from opentrans_cli.clip.text import text_embeddings
from opentrans_cli.datasets import DATASETS
from opentrans_cli.datasets.base import SegDataset
from opentrans_cli.datasets.images import resize_image
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.datasets.sampling import batch_indices
from opentrans_cli.distill.regions import find_regions, region_picture
from opentrans_cli.errors import DataError, OptionError, SourceError
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.sparsity.masking import check_support, hold
from opentrans_cli.steps import region_teacher
from opentrans_cli.steps.prune import text_guided as module
from opentrans_cli.steps.prune.text_guided import RegionDistillation, RegionSettings, sharing_copy
from opentrans_cli.steps.region_teacher import RegionTeacher, raw_names
from opentrans_cli.steps.sources import Tower, clip_tower
from opentrans_cli.steps.training_data import IGNORED

CPU = torch.device("cpu")
OF_MASKS = [name for name in FRAMEWORKS.names() if FRAMEWORKS.load(name).masks]
every_framework = pytest.mark.parametrize("framework", [name for name in FRAMEWORKS.names() if name not in OF_MASKS])


@pytest.fixture(scope="module")
def clip() -> LoadedClip:
    """The embedded CLIP; read only."""
    return load_clip("tiny")


@pytest.fixture
def tower(clip: LoadedClip) -> Tower:
    """Its tower, to be changed."""
    original = clip_tower(clip)
    return replace(original, built=copy.deepcopy(original.visual))


@pytest.fixture(scope="module")
def scenes() -> SegDataset:
    samples: SegDataset = DATASETS.load("shapes")(DatasetOptions(limit=6, size=64))
    return samples


Distil = Callable[..., RegionDistillation]


@pytest.fixture
def distil(clip: LoadedClip, tower: Tower, scenes: SegDataset) -> Distil:
    """`distil(mode="vanilla")`: the distillation of a fresh tower, or of `tower=`, on six scenes or `samples=`."""

    def build(*, samples: SegDataset = scenes, tower: Tower = tower, **changes: Any) -> RegionDistillation:
        settings = RegionSettings(**{"batch_size": 3, "seed": 0, **changes})
        return RegionDistillation(tower, samples, settings, text=raw_names(clip), device=CPU)

    return build


class Edited:
    """A data set with other label maps: `edit(label map)` of each, None for none."""

    def __init__(self, samples: SegDataset, edit: Callable[[np.ndarray], np.ndarray | None]) -> None:
        self._samples, self._edit = samples, edit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._samples, name)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Any:
        sample = self._samples[index]
        return replace(sample, label_map=self._edit(sample.label_map))


def loss_of(distillation: RegionDistillation, step: int) -> Tensor:
    (loss,) = distillation(distillation.batch(step)).values()
    return loss


def optimise(distillation: RegionDistillation, visual: nn.Module, steps: range, *, batch: int | None = None) -> list:
    optimizer = torch.optim.AdamW([*visual.parameters(), *distillation.learned.parameters()], lr=1e-3, weight_decay=0.0)
    losses = []
    for step in steps:
        loss = loss_of(distillation, step if batch is None else batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("mode", ["text-guided", "vision-guided", "vanilla"])
def test_on_fixed_data_the_loss_falls(distil: Distil, tower: Tower, mode: Any) -> None:
    distillation = distil(mode=mode)
    losses = optimise(distillation, tower.visual, range(10), batch=0)
    assert losses[-1] < 0.8 * losses[0]
    assert all(np.isfinite(losses))


@every_framework
def test_the_same_seed_gives_the_same_run_whatever_others_draw(
    clip: LoadedClip, scenes: SegDataset, framework: str
) -> None:
    runs = []
    for noise in range(2):
        torch.manual_seed(noise)
        fresh = replace(clip_tower(clip), built=copy.deepcopy(clip.model.visual))
        settings = RegionSettings(batch_size=2, seed=3, framework=framework)
        distillation = RegionDistillation(fresh, scenes, settings, text=raw_names(clip), device=CPU)
        torch.manual_seed(9)  # as the loop does before each step
        losses = optimise(distillation, fresh.visual, range(3))
        runs.append((losses, {**fresh.visual.state_dict(), **distillation.learned.state_dict()}))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(tensor, runs[1][1][name]) for name, tensor in runs[0][1].items())


def test_the_teacher_embeds_each_seen_region_in_grey(clip: LoadedClip, distil: Distil, scenes: SegDataset) -> None:
    distillation = distil()
    names = distillation.data.seen_vocabulary.names
    for index in range(4):
        sample = scenes[index]
        present = {scenes.vocabulary.names[i]: i for i in np.unique(sample.label_map)}
        classes, rows = distillation.teacher(index)
        assert [names[i] for i in classes] == [name for name in present if name not in scenes.unseen]
        for place, row in zip(classes.tolist(), rows, strict=True):
            region = sample.label_map == present[names[place]]
            picture = torch.from_numpy(region_picture(sample.image, region, size=64, resize=resize_image))
            with torch.no_grad():
                pooled = clip.model.visual(clip.preprocess.normalise(picture[None]))[0]
            torch.testing.assert_close(row, F.normalize(pooled, dim=0), atol=1e-5, rtol=1e-5)


def test_teacher_embeddings_are_those_of_the_dense_tower_for_ever(distil: Distil, tower: Tower) -> None:
    distillation = distil(seed=1)
    early = [distillation.teacher(index)[1].clone() for index in range(6)]
    with torch.no_grad():
        for parameter in tower.visual.parameters():
            parameter.mul_(0.5)
    distillation.teacher._images.clear()
    assert all(torch.equal(distillation.teacher(index)[1], early[index]) for index in reversed(range(6)))


def test_each_image_is_shown_to_the_teacher_once(distil: Distil, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    original = region_teacher.region_pictures
    monkeypatch.setattr(region_teacher, "region_pictures", lambda *a, **k: shown.append(1) or original(*a, **k))
    distillation = distil()
    for step in range(6):  # three epochs
        loss_of(distillation, step)
    assert len(shown) == 6


def test_a_full_cache_forgets_the_image_unused_for_longest_and_nothing_else_changes(
    distil: Distil, tower: Tower
) -> None:
    distillation = distil()
    whole = [distillation.teacher(index) for index in range(6)]
    small = RegionTeacher(tower.visual, distillation.data, limit=4)
    for index in (0, 1, 2, 3, 4, 5, 0, 3):
        assert all(torch.equal(a, b) for a, b in zip(small(index), whole[index], strict=True))
        assert small._kept == sum(len(classes) for classes, _ in small._images.values())
        assert small._kept <= 4 or len(small._images) == 1
        assert next(reversed(small._images)) == index


def test_unseen_classes_and_ignored_pixels_take_no_part(distil: Distil, scenes: SegDataset) -> None:
    unseen = scenes.vocabulary.names.index(scenes.unseen[0])
    distillation = distil(samples=Edited(scenes, lambda labels: np.where(labels % 2, unseen, 255)))
    assert len(distillation.teacher(0)[0]) == 0
    loss, figures = loss_of(distillation, 0), distillation.figures
    loss.backward()
    assert loss.item() == 0 and figures["regions"] == 0


def test_an_id_that_is_both_a_class_and_ignored_is_ignored(distil: Distil, scenes: SegDataset) -> None:
    before, names = distil().teacher(0)[0].tolist(), distil().data.seen_vocabulary.names
    samples: Any = Edited(scenes, lambda labels: labels)
    samples.ignore_index = scenes.vocabulary.names.index(names[before[0]])
    assert distil(samples=samples).teacher(0)[0].tolist() == before[1:]


def test_each_region_is_compared_with_its_own_picture_and_its_own_name(
    distil: Distil, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Tensor, ...]] = []
    original = module.text_guided_loss
    monkeypatch.setattr(module, "text_guided_loss", lambda *a, **k: calls.append(a[:4]) or original(*a, **k))
    distillation = distil(framework="maskclip")
    loss_of(distillation, 4)
    ((student, teacher, text, image_of),) = calls
    images, label_maps, _, _ = distillation.data.batch(4)
    order = batch_indices(4, count=6, batch_size=3, seed=0)
    embedding = distillation.student.embed(images)
    grid = embedding.shape[2:]
    expected_images, classes = find_regions(label_maps, grid=grid, ignored=IGNORED)
    assert torch.equal(image_of, expected_images) and len(classes.unique()) > 2
    for row, (slot, index) in enumerate(zip(image_of.tolist(), classes.tolist(), strict=True)):
        known, rows = distillation.teacher(int(order[slot]))
        assert torch.equal(teacher[row], rows[known.tolist().index(index)])
        assert torch.equal(text[row], distillation.text[index])
        share = F.adaptive_avg_pool2d((label_maps[slot] == index).float()[None], grid)[0]
        mean = (embedding[slot] * share).sum((1, 2))
        torch.testing.assert_close(student[row], F.normalize(mean, dim=0), atol=1e-5, rtol=1e-5)


@every_framework
def test_student_and_tower_are_the_same_tensors(distil: Distil, tower: Tower, framework: str) -> None:
    distillation = distil(framework=framework)
    of_tower, of_student = tower.visual.state_dict(), distillation.student.backbone.state_dict()
    assert of_student.keys() <= of_tower.keys()
    assert all(tensor.data_ptr() == of_tower[name].data_ptr() for name, tensor in of_student.items())
    before = tower.visual.bn1.running_mean.clone()
    optimise(distillation, tower.visual, range(1))
    assert not torch.equal(tower.visual.bn1.running_mean, before)
    assert all(tensor.data_ptr() == of_tower[name].data_ptr() for name, tensor in tower.visual.state_dict().items())


@every_framework
def test_what_is_learned_is_the_tower_and_the_named_rest(distil: Distil, tower: Tower, framework: str) -> None:
    distillation = distil(framework=framework)
    state = distillation.student.state_dict()
    beyond = {name for name in state if not name.startswith(("backbone.", "classifier."))}
    head = {"regions.projections.0.weight", "regions.projections.0.bias", "regions.scale"}
    assert distillation.learned.state_dict().keys() == beyond | head
    loss_of(distillation, 0).backward()
    for name, parameter in distillation.learned.named_parameters():
        assert parameter.grad is not None, name
    assert tower.visual.layer4[-1].conv3.weight.grad.abs().max() > 0
    assert tower.visual.attnpool.q_proj.weight.grad is None


@every_framework
def test_a_tower_that_was_never_distilled_comes_back_bit_for_bit(distil: Distil, tower: Tower, framework: str) -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    tower.visual.conv1.weight.requires_grad_(False)
    names = {name: parameter.requires_grad for name, parameter in tower.visual.named_parameters()}
    state = copy.deepcopy(tower.visual.state_dict())
    with torch.no_grad():
        before = tower.visual(images.contiguous(memory_format=torch.channels_last))
        back = distil(framework=framework).detach()
        after = back(images.contiguous(memory_format=torch.channels_last))
    assert back is tower.visual and not back.training
    assert list(back.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in back.state_dict().items())
    assert torch.equal(before, after)
    assert {name: parameter.requires_grad for name, parameter in back.named_parameters()} == names


def test_a_distilled_tower_comes_back_whole_with_the_pool_clip_gave_it(distil: Distil, tower: Tower) -> None:
    state = copy.deepcopy(tower.visual.state_dict())
    distillation = distil()
    optimise(distillation, tower.visual, range(2))
    after = distillation.detach().state_dict()
    assert list(after) == list(state)
    assert {name for name in state if torch.equal(state[name], after[name])} == {
        name for name in state if name.startswith("attnpool.")
    }


def test_masks_on_the_tower_hold_for_the_student(distil: Distil, tower: Tower) -> None:
    masks = {layer: torch.rand(mask.shape) > 0.5 for layer, mask in tower.masks.items()}
    distillation = distil()
    hold_masks = hold(tower.visual, masks)
    optimizer = torch.optim.AdamW([*tower.visual.parameters(), *distillation.learned.parameters()], lr=1e-3)
    hold_masks()
    for step in range(3):
        check_support(distillation.student.backbone, masks)
        loss_of(distillation, step).backward()
        optimizer.step()
        hold_masks()
    check_support(distillation.student.backbone, masks)


def test_of_too_many_regions_a_random_part_takes_part(distil: Distil, monkeypatch: pytest.MonkeyPatch) -> None:
    distillation = distil(batch_size=6)
    loss_of(distillation, 0)
    assert distillation.figures["regions"] > 8
    monkeypatch.setattr(module, "MOST_REGIONS", 5)
    all_regions = torch.arange(40) // 8, torch.arange(40) % 8
    chosen = [torch.stack(distillation._at_most(*all_regions, step)) for step in (0, 0, 1)]
    assert torch.equal(chosen[0], chosen[1]) and not torch.equal(chosen[0], chosen[2])
    assert chosen[0].shape == (2, 5)
    places = chosen[0][0] * 8 + chosen[0][1]
    assert (places.diff() > 0).all()  # distinct and in order
    loss_of(distillation, 0)
    assert distillation.figures["regions"] == 5


def test_the_text_is_the_bare_class_name(clip: LoadedClip, distil: Distil) -> None:
    distillation = distil()
    names = distillation.data.seen_vocabulary.names
    assert torch.equal(distillation.text, text_embeddings(clip.model, clip.tokenizer, names, templates=("{}",)))


def test_figures_of_a_step_are_for_the_log(distil: Distil) -> None:
    distillation = distil(mode="vanilla")
    loss, figures = loss_of(distillation, 0), distillation.figures
    assert figures.keys() == {"visual", "affinity", "scale", "regions"}
    assert figures["visual"] == loss.item() and figures["affinity"] == 0 and figures["scale"] == 1


def test_the_fingerprint_is_that_of_the_data(distil: Distil, scenes: SegDataset) -> None:
    prints = [distil().fingerprint, distil(mode="vanilla").fingerprint, distil(crop=32).fingerprint]
    assert prints[0] == prints[1] != prints[2]
    assert prints[0].startswith("sha256:")


def test_images_without_label_maps_are_refused(distil: Distil, scenes: SegDataset) -> None:
    with pytest.raises(DataError, match=r"image has no label map: 'train-000000'; .* use --distill image"):
        distil(samples=Edited(scenes, lambda labels: None))


@pytest.mark.parametrize("framework", OF_MASKS)
def test_frameworks_of_masks_are_refused_by_name(framework: str) -> None:
    with pytest.raises(OptionError, match=f"--framework {framework}; choose deeplabv3 or maskclip"):
        RegionSettings(batch_size=2, seed=0, framework=framework)


def test_settings_that_make_no_sense_are_refused(distil: Distil) -> None:
    with pytest.raises(OptionError, match="unknown distillation loss: 'text'; choose one of text-guided"):
        RegionSettings(batch_size=2, seed=0, mode="text")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="out of range: --crop 16"):
        distil(crop=16)


def test_a_tower_without_feature_maps_is_refused(distil: Distil, tower: Tower) -> None:
    with pytest.raises(SourceError, match="use a ResNet CLIP"):
        distil(tower=replace(tower, built=nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 64))))


def test_a_sharing_copy_can_be_rebuilt_without_the_original(tower: Tower) -> None:
    copied: Any = sharing_copy(tower.visual)
    own = {id(tensor) for tensor in (*tower.visual.parameters(), *tower.visual.buffers())}
    assert {id(tensor) for tensor in (*copied.parameters(), *copied.buffers())} == own
    copied.attnpool = None
    copied.layer4[0].conv2.dilation = (2, 2)
    copied.train()
    assert tower.visual.attnpool is not None
    assert tower.visual.layer4[0].conv2.dilation == (1, 1)
    assert not tower.visual.training
