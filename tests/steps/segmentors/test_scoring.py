"""Scoring counts what a plain loop counts, names what is wrong in order, and holds few pictures."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from opentrans_cli.datasets.base import Sample, SegDataset
from opentrans_cli.datasets.folder import FolderDataset
from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.datasets.workers import AHEAD_OF_THREADS
from opentrans_cli.errors import DataError, PictureError
from opentrans_cli.steps.flow import Flow
from opentrans_cli.steps.segmentors.opened import open_source
from opentrans_cli.steps.segmentors.picture_size import Sides
from opentrans_cli.steps.segmentors.predictor import Predictor
from opentrans_cli.steps.segmentors.scoring import PIXELS, Scoring
from opentrans_cli.steps.segmentors.tally import Tally
from opentrans_cli.steps.segmentors.words import Words

CPU = torch.device("cpu")


def predictor_for(samples: SegDataset, **more: Any) -> Predictor:
    opened = open_source("tiny")
    return Predictor(opened.built, opened.embedded(Words(samples.vocabulary)), device=CPU, **more)


def tallied(predictor: Predictor, samples: SegDataset, *, workers: int, **more: Any) -> Tally:
    with Flow[Any](workers) as flow:
        scoring = Scoring(predictor, samples, flow, **more)
        rows = range(len(samples))
        assert list(scoring.over(rows)) == list(rows)
        return scoring.tally()


@pytest.fixture
def samples(labelled_folder: Any) -> FolderDataset:
    return FolderDataset(labelled_folder.images, labelled_folder.labels, labelled_folder.classes)


def test_counts_are_those_of_a_plain_loop_with_any_number_of_workers(samples: FolderDataset) -> None:
    predictor = predictor_for(samples, sides=Sides(48, 80))
    expected = np.zeros((4, 4), np.int64)
    for row in range(len(samples)):
        sample = samples[row]
        predicted = predictor.scores(sample.image).argmax(0).numpy()
        for truth, found in zip(sample.label_map.ravel(), predicted.ravel(), strict=True):
            expected[min(truth, 3), found] += 1
    for workers in (0, 1, 3):
        tally = tallied(predictor, samples, workers=workers, counted=True)
        assert np.array_equal(tally.counts[PIXELS], expected)
        assert tally.rows == set(range(6)) and min(tally.seconds.values()) > 0
        assert tally.first is not None and tally.first[:2] == (0, (48, 48)) and sum(tally.first.macs.values()) > 0


def test_bad_pictures_are_named_in_order_or_left_out(samples: FolderDataset, labelled_folder: Any) -> None:
    (labelled_folder.images / "4.png").write_bytes(b"no picture")
    Image.new("RGB", (40, 24)).save(labelled_folder.images / "2.png")
    Image.new("L", (40, 24)).save(labelled_folder.labels / "2.png")
    predictor = predictor_for(samples)
    for workers in (0, 3):
        with pytest.raises(PictureError, match=rf"{Path('photos', '2.png')}"):
            tallied(predictor, samples, workers=workers)
        tally = tallied(predictor, samples, workers=workers, skip_bad=True)
        assert sorted(tally.skipped) == [2, 4] and sorted(tally.seconds) == [0, 1, 3, 5]
        assert "2.png" in tally.skipped[2] and "4.png" in tally.skipped[4]


class Drawn:
    """A data set of `count` pictures, which knows how many of them are in memory."""

    vocabulary = Vocabulary.from_names(["grass", "sky"])
    ignore_index = 255
    unseen: tuple[str, ...] = ()

    def __init__(self, count: int, *, unlabelled: int | None = None) -> None:
        self.count, self.unlabelled, self.most = count, unlabelled, 0
        self.alive = weakref.WeakSet[Any]()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Sample:
        label_map = None if row == self.unlabelled else np.zeros((32, 32), np.int64).view(Array)
        if label_map is not None:
            self.alive.add(label_map)
            self.most = max(self.most, len(self.alive))
        return Sample(np.full((32, 32, 3), row % 256, np.uint8), label_map, f"picture-{row}")


class Array(np.ndarray[Any, Any]):
    """An array to which there may be weak references, and whose narrow copies are counted with it."""

    def astype(self, *arguments: Any, **more: Any) -> Any:
        copied = np.asarray(self).astype(*arguments, **more).view(Array)
        copied.origin = self
        return copied

    __hash__ = object.__hash__


def test_memory_does_not_grow_with_the_number_of_pictures() -> None:
    samples: Any = Drawn(40)
    gc.collect()
    tallied(predictor_for(samples), samples, workers=2)
    assert samples.most <= AHEAD_OF_THREADS * 2 + 3


def test_a_picture_without_truth_is_named() -> None:
    samples: Any = Drawn(3, unlabelled=1)
    with pytest.raises(DataError, match="no label map to score against: 'picture-1'"):
        tallied(predictor_for(samples), samples, workers=2)
