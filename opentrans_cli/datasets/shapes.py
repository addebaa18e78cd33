"""`shapes` as a data set: scenes by index in two disjoint splits; sixteen classes have no labels in training."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache

import numpy as np

from opentrans_cli.datasets.base import Sample
from opentrans_cli.datasets.options import DatasetOptions, Split
from opentrans_cli.datasets.scenes import CLASSES, UNSEEN, Scene, render_scene
from opentrans_cli.datasets.streams import Stream
from opentrans_cli.datasets.vocabulary import Vocabulary

SEEDS: dict[Split, int] = {"train": 0, "val": 10_000_000}
COUNTS: dict[Split, int] = {"train": 4096, "val": 200}

GENERATOR = "shapes/1"
"""Raised whenever a scene of a given seed and index changes."""


class ShapesDataset:
    """`count` scenes of `size` x `size` pixels with `objects[0]` to `objects[1]` objects, rendered when asked for.

    Every pixel is labelled. The same split, size and objects give the same scenes, whatever the count.
    """

    ignore_index = 255
    remarks: tuple[str, ...] = ()

    def __init__(
        self, split: Split, *, size: int = 96, count: int | None = None, objects: tuple[int, int] = (1, 4)
    ) -> None:
        self.vocabulary = Vocabulary.from_names(CLASSES)
        self.unseen: tuple[str, ...] = UNSEEN
        self.default_crop = size
        self._split: Split = split
        self._count = COUNTS[split] if count is None else count
        self._objects = objects

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        scene = self._scene(index)
        return Sample(scene.image.copy(), scene.label_map.astype(np.int64), self.name(index))

    def name(self, index: int) -> str:
        """The name of scene `index`."""
        return f"{self._split}-{index:06d}"

    def captions(self, index: int) -> tuple[str, ...]:
        """The one sentence that names every visible object of scene `index` and its ground."""
        return (self._scene(index).caption,)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over generator version, split, seed, size, count and objects."""
        content = [GENERATOR, self._split, SEEDS[self._split], self.default_crop, self._count, self._objects]
        return f"sha256:{hashlib.sha256(json.dumps(content).encode()).hexdigest()}"

    def _scene(self, index: int) -> Scene:
        if not 0 <= index < self._count:
            raise IndexError(f"scene {index} of {self._count}")
        return _rendered(SEEDS[self._split], index, self.default_crop, self._objects)


@lru_cache(maxsize=1024)
def _rendered(seed: int, index: int, size: int, objects: tuple[int, int]) -> Scene:
    """A scene, whose arrays are copied before they are given away; steps on the same scenes render them once."""
    return render_scene(Stream(seed, index), size=size, objects=objects)


def open_shapes(options: DatasetOptions) -> ShapesDataset:
    """Split `split`, `limit` scenes of `size` pixels; raises OptionError for options it cannot use."""
    options.refuse(
        "data set 'shapes' is built in and has",
        *("root", "images", "labels", "classes", "ignore", "image_suffix", "label_suffix", "skip_bad", "label_ids"),
        *("split_list", "hold_out"),
    )
    return ShapesDataset(options.split, size=options.size or 96, count=options.limit)
