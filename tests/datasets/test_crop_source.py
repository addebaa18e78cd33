"""Crops by sample and number: samples are read once while there is room for them, and never change a crop."""

from __future__ import annotations

from typing import Any

import numpy as np

from opentrans_cli.datasets.base import Sample
from opentrans_cli.datasets.crop_source import CropMaker, CropSource, CropTask, serve


class Counted:
    """Four samples of 32 x 32 pixels; `reads` lists which were read."""

    ignore_index = 3

    def __init__(self) -> None:
        self.reads: list[int] = []

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        self.reads.append(index)
        label_map = np.arange(32 * 32).reshape(32, 32) % 4
        return Sample(np.full((32, 32, 3), index, np.uint8), label_map.astype(np.int64), str(index))


def source(samples: Any) -> CropSource:
    ids = np.array([0, -1, 1, -1], np.int8)
    return CropSource(samples, ids, -1, 48, 0, scale=(1.0, 1.0), scale_of="image", flip=False)


def test_samples_are_kept_while_there_is_room() -> None:
    one = 32 * 32 * 4  # bytes of a sample: three of colour and one of ids
    for limit, wanted in ((0, [0, 1, 2, 3] * 2), (2 * one, [0, 1, 2, 3, 2, 3]), (4 * one, [0, 1, 2, 3])):
        samples = Counted()
        maker = CropMaker(source(samples), limit=limit)
        crops = [maker.make(row, number=7) for row in (0, 1, 2, 3, 0, 1, 2, 3)]
        assert samples.reads == wanted
        assert all(np.array_equal(crops[i].image, crops[i + 4].image) for i in range(4))


def test_ids_are_mapped_and_padding_is_ignored() -> None:
    crop = CropMaker(source(Counted())).make(2, number=0)
    inside = (crop.image == 2).all(-1)
    assert inside.sum() == 32 * 32 and crop.label_map.dtype == np.int8
    assert (crop.label_map[~inside] == -1).all()
    assert crop.label_map[inside].reshape(32, 32)[0, :4].tolist() == [0, -1, 1, -1]


def test_a_task_gives_what_the_process_serves() -> None:
    serve(source(Counted()), 0)
    crop, direct = CropTask(row=3, number=5).run(), CropMaker(source(Counted())).make(3, number=5)
    assert np.array_equal(crop.image, direct.image) and np.array_equal(crop.label_map, direct.label_map)
