"""Training batches: a function of the step, with ids of seen classes alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from opentrans_cli.clip.preprocess import Preprocess
from opentrans_cli.datasets import DATASETS
from opentrans_cli.datasets.base import SegDataset
from opentrans_cli.datasets.crops import training_crop
from opentrans_cli.datasets.options import CropOptions, DatasetOptions
from opentrans_cli.datasets.sampling import batch_indices
from opentrans_cli.errors import DataError, OptionError
from opentrans_cli.steps.training_data import IGNORED, TrainingBatch, TrainingData
from opentrans_cli.training.processes.distributed import World

PREPROCESS = Preprocess(size=64)


def loader(samples: SegDataset, *, world: World | None = None, workers: int = 0, **changes: Any) -> TrainingData:
    options = CropOptions(**{"batch_size": 3, "crop": 64, **changes})
    return TrainingData(samples, options, preprocess=PREPROCESS, world=world, workers=workers)


def process(rank: int, size: int) -> World:
    world = World(torch.device("cpu"))
    world.rank, world.size = rank, size
    return world


def same(one: TrainingBatch, other: TrainingBatch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture
def scenes() -> SegDataset:
    samples: SegDataset = DATASETS.load("shapes")(DatasetOptions(limit=6))
    return samples


def folder(where: Any, **changes: Any) -> SegDataset:
    given = {"images": where.images, "labels": where.labels, "classes": where.classes}
    samples: SegDataset = DATASETS.load("folder")(DatasetOptions(**{**given, **changes}))
    return samples


def test_a_batch_is_a_function_of_the_step(scenes: SegDataset) -> None:
    data = loader(scenes)
    images, label_maps, numbers, rows = data.batch(5)
    assert images.shape == (3, 3, 64, 64) and images.dtype == torch.float32
    assert label_maps.shape == (3, 64, 64) and label_maps.dtype == torch.int64
    assert (
        numbers.tolist() == [15, 16, 17] and rows.tolist() == batch_indices(5, count=6, batch_size=3, seed=0).tolist()
    )
    assert same((images, label_maps, numbers, rows), loader(scenes).batch(5))
    assert not torch.equal(images, data.batch(6)[0])
    assert not torch.equal(images, loader(scenes, seed=1).batch(5)[0])


def test_ids_are_those_of_the_seen_vocabulary(scenes: SegDataset) -> None:
    data = loader(scenes)
    seen = [name for name in scenes.vocabulary.names if name not in scenes.unseen]
    assert data.seen_vocabulary.names == tuple(seen)
    for step in range(4):
        assert set(data.batch(step)[1].unique().tolist()) <= {IGNORED, *range(len(seen))}


def test_pixels_of_unseen_classes_and_unlabelled_ones_are_ignored(labelled_folder: Any) -> None:
    everything, some = loader(folder(labelled_folder)), loader(folder(labelled_folder, hold_out=("red square",)))
    assert some.seen_vocabulary.names == ("grass", "blue square")
    renamed = torch.tensor([0, IGNORED, 1, IGNORED])  # grass, red, blue, ignored (index -1)
    for step in range(4):
        full, seen = everything.batch(step)[1], some.batch(step)[1]
        assert (full == 1).any() or (full == 2).any()
        assert torch.equal(seen, renamed[full])


@pytest.mark.parametrize("changes", [{}, {"scale": (0.1, 2.0), "scale_of": "crop", "flip": False}])
def test_a_batch_is_made_of_the_crops_of_its_draws(scenes: SegDataset, changes: dict[str, Any]) -> None:
    data = loader(scenes, seed=2, **changes)
    images, label_maps, numbers, rows = data.batch(4)
    seen = {scenes.vocabulary.names.index(name): place for place, name in enumerate(data.seen_vocabulary.names)}
    for image, label_map, number, row in zip(images, label_maps, numbers.tolist(), rows.tolist(), strict=True):
        pixels, ids = training_crop(scenes[row], size=64, seed=2, number=number, ignore_index=255, **changes)
        assert torch.equal(image, PREPROCESS.normalise(torch.from_numpy(pixels)[None])[0])
        assert label_map.tolist() == np.vectorize(lambda i, seen=seen: seen.get(i, IGNORED))(ids).tolist()


@pytest.mark.parametrize("views", [0, 2])
def test_every_number_of_processes_sees_the_same_batches(scenes: SegDataset, views: int) -> None:
    whole = loader(scenes, batch_size=4, views=views)
    for size in (1, 2, 4):
        parts = [loader(scenes, batch_size=4, views=views, world=process(rank, size)) for rank in range(size)]
        assert {part.fingerprint for part in parts} == {whole.fingerprint}
        for step in (0, 5):
            joined = [torch.cat(tensors) for tensors in zip(*(part.batch(step) for part in parts), strict=True)]
            assert same(tuple(joined), whole.batch(step))  # type: ignore[arg-type]


def test_workers_give_the_same_bits_in_order_after_jumps_and_past_the_last_step(labelled_folder: Any) -> None:
    samples = folder(labelled_folder)
    alone, helped = loader(samples, steps=6), loader(samples, steps=6, workers=2)
    try:
        for step in (0, 1, 2, 5, 9, 3, 4, 4):
            assert same(alone.batch(step), helped.batch(step)), step
        helped.close()
        assert same(alone.batch(1), helped.batch(1))
    finally:
        helped.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_photo_is_told_when_its_turn_comes_and_the_others_can_be_had(
    labelled_folder: Any, workers: int
) -> None:
    samples = folder(labelled_folder)
    order = batch_indices(0, count=len(samples), batch_size=len(samples), seed=0).tolist()
    name = samples[order[1]].name
    (path,) = labelled_folder.images.rglob(f"{name}.*")
    path.write_bytes(path.read_bytes()[:60])
    data = loader(samples, batch_size=1, workers=workers)
    try:
        data.batch(0)
        with pytest.raises(DataError, match=f"image cannot be read: .*{path.name}"):
            data.batch(1)
        assert same(data.batch(0), loader(samples, batch_size=1).batch(0))
    finally:
        data.close()


def test_an_image_without_a_label_map_is_told(scenes: SegDataset) -> None:
    class Bare:
        def __getattr__(self, name: str) -> Any:
            return getattr(scenes, name)

        def __len__(self) -> int:
            return len(scenes)

        def __getitem__(self, index: int) -> Any:
            return replace(scenes[index], label_map=None)

    with pytest.raises(DataError, match="image has no label map: 'train-00000"):
        loader(Bare()).batch(0)


def test_fixed_views_come_once_an_epoch_and_again_in_the_next(scenes: SegDataset) -> None:
    data = loader(scenes, views=2, batch_size=4)
    assert data.view_count == 12 and loader(scenes).view_count == 0
    epochs = [[data.batch(step) for step in range(3 * epoch, 3 * epoch + 3)] for epoch in range(2)]
    by_number = []
    for epoch in epochs:
        images, _, numbers, rows = (torch.cat(tensors) for tensors in zip(*epoch, strict=True))
        assert sorted(numbers.tolist()) == list(range(12)) and torch.equal(rows, numbers // 2)
        by_number.append(images[numbers.argsort()])
    assert torch.equal(*by_number)
    assert len({image.numpy().tobytes() for image in by_number[0]}) == 12


def test_large_scale_jitter_fits_images_of_any_size_into_the_crop(labelled_folder: Any) -> None:
    samples = folder(labelled_folder)
    covered = []
    for step in range(100):
        label_maps = loader(samples, batch_size=1, crop=96, scale=(0.5, 0.5), scale_of="crop").batch(step)[1]
        rows, columns = (label_maps[0] != IGNORED).nonzero().T
        covered.append(max(int(rows.max() - rows.min()), int(columns.max() - columns.min())) + 1)
    assert max(covered) == 48


def test_the_fingerprint_tells_all_apart_that_decides_the_batches(labelled_folder: Any, scenes: SegDataset) -> None:
    changes: list[dict[str, Any]] = [
        *({}, {"crop": 32}, {"batch_size": 2}, {"seed": 1}, {"scale": (0.5, 1.5)}, {"flip": False}, {"views": 1}),
        {"scale_of": "crop"},
    ]
    prints = {
        *(loader(scenes, **change).fingerprint for change in changes),
        loader(folder(labelled_folder)).fingerprint,
        loader(folder(labelled_folder, hold_out=("grass",))).fingerprint,
    }
    assert len(prints) == len(changes) + 2
    assert loader(scenes, accumulate=3, steps=7, workers=1).fingerprint == loader(scenes).fingerprint
    assert loader(scenes, seed=1).content_fingerprint == loader(scenes).content_fingerprint
    assert loader(scenes, crop=32).content_fingerprint != loader(scenes).content_fingerprint


def test_nothing_to_train_on_is_told(labelled_folder: Any) -> None:
    with pytest.raises(OptionError, match="nothing to train on"):
        loader(folder(labelled_folder, hold_out=("grass", "red square", "blue square")))


def test_more_fixed_views_than_can_be_ordered_are_refused(scenes: SegDataset) -> None:
    with pytest.raises(OptionError, match="too many fixed crops: --views 20000000 of 6 images; use at most 11184810"):
        loader(scenes, views=20_000_000)


def test_a_batch_that_does_not_divide_is_refused_before_anything_is_read() -> None:
    with pytest.raises(OptionError, match="--batch-size 6 by 1 processes x --accumulate 4; use a multiple of 4"):
        CropOptions(batch_size=6, accumulate=4)
    with pytest.raises(OptionError, match="--batch-size 6 by 4 processes x --accumulate 1; use a multiple of 4"):
        CropOptions(batch_size=6).check_shares(4)
