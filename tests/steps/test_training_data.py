"""Training batches: a function of the step, with ids of seen classes alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from opentrans_cli.clip.preprocess import Preprocess
from opentrans_cli.datasets import DATASETS
from opentrans_cli.datasets.base import DatasetOptions, SegDataset
from opentrans_cli.errors import OptionError
from opentrans_cli.steps.options import FinetuneOptions
from opentrans_cli.steps.training_data import IGNORED, TrainingData

PREPROCESS = Preprocess(size=64)


def feed(samples: SegDataset, **changes: Any) -> TrainingData:
    return TrainingData(samples, FinetuneOptions(**{"batch_size": 3, "crop": 64, **changes}), preprocess=PREPROCESS)


@pytest.fixture
def scenes() -> SegDataset:
    samples: SegDataset = DATASETS.load("shapes")(DatasetOptions(limit=6))
    return samples


def folder(where: Any, **changes: Any) -> SegDataset:
    given = {"images": where.images, "labels": where.labels, "classes": where.classes}
    samples: SegDataset = DATASETS.load("folder")(DatasetOptions(**{**given, **changes}))
    return samples


def test_a_batch_is_a_function_of_the_step(scenes: SegDataset) -> None:
    data = feed(scenes)
    images, label_maps, draws, rows = data.batch(5)
    assert images.shape == (3, 3, 64, 64) and images.dtype == torch.float32
    assert label_maps.shape == (3, 64, 64) and label_maps.dtype == torch.int64
    again = feed(scenes).batch(5)
    assert torch.equal(images, again[0]) and torch.equal(label_maps, again[1])
    assert not torch.equal(images, data.batch(6)[0])
    assert not torch.equal(images, feed(scenes, seed=1).batch(5)[0])


def test_ids_are_those_of_the_seen_vocabulary(scenes: SegDataset) -> None:
    data = feed(scenes)
    seen = [name for name in scenes.vocabulary.names if name not in scenes.unseen]
    assert data.seen_vocabulary.names == tuple(seen)
    for step in range(4):
        assert set(data.batch(step)[1].unique().tolist()) <= {IGNORED, *range(len(seen))}


def test_pixels_of_unseen_classes_and_unlabelled_ones_are_ignored(labelled_folder: Any) -> None:
    everything, some = feed(folder(labelled_folder)), feed(folder(labelled_folder, hold_out=("red square",)))
    assert some.seen_vocabulary.names == ("grass", "blue square")
    renamed = torch.tensor([0, IGNORED, 1, IGNORED])  # grass, red, blue, ignored (index -1)
    for step in range(4):
        full, seen = everything.batch(step)[1], some.batch(step)[1]
        assert (full == 1).any() or (full == 2).any()
        assert torch.equal(seen, renamed[full])


def test_the_fingerprint_tells_data_crop_and_seen_classes_apart(labelled_folder: Any, scenes: SegDataset) -> None:
    prints = {
        feed(scenes).fingerprint,
        feed(scenes, crop=32).fingerprint,
        feed(folder(labelled_folder)).fingerprint,
        feed(folder(labelled_folder, hold_out=("grass",))).fingerprint,
    }
    assert len(prints) == 4 and feed(scenes).fingerprint in prints


def test_nothing_to_train_on_is_told(labelled_folder: Any, scenes: SegDataset) -> None:
    with pytest.raises(OptionError, match="nothing to train on"):
        feed(folder(labelled_folder, hold_out=("grass", "red square", "blue square")))
    with pytest.raises(OptionError, match="too small to see anything: --crop 16"):
        feed(scenes, crop=16)
