"""Labelled images for training: what is left out and what is missing is said before long work begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.errors import DataError, PictureError
from opentrans_cli.reporter import Silent
from opentrans_cli.steps.samples import open_samples


class Heard(Silent):
    """A reporter that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def test_bad_pairs_are_left_out_of_training_and_classes_without_pixels_are_said(
    labelled_folder: Any, tmp_path: Path
) -> None:
    first, second, third, *others = sorted(path.name for path in labelled_folder.images.iterdir())
    photo = labelled_folder.images / first
    photo.write_bytes(photo.read_bytes()[:-40])
    Image.new("L", (64, 63)).save(labelled_folder.labels / second)
    Image.new("RGB", (64, 31)).save(labelled_folder.images / third)
    Image.new("L", (64, 31)).save(labelled_folder.labels / third)
    for name in (first, *others):
        Image.fromarray(np.repeat([[0, 255]], 2048, 0).reshape(64, 64).astype(np.uint8)).save(
            labelled_folder.labels / name
        )
    data = DatasetOptions(images=labelled_folder.images, labels=labelled_folder.labels, classes=labelled_folder.classes)
    with pytest.raises(PictureError, match=rf"image cannot be read: .*{first}; .*, or skip it and others"):
        open_samples("folder", data, sound=True)
    skipping = DatasetOptions(**{**vars(data), "skip_bad": True})
    heard = Heard()
    samples: Any = open_samples("folder", skipping, heard, sound=True)
    assert [samples.name(index) for index in range(len(samples))] == [Path(name).stem for name in others]
    assert len(samples.left_out) == 3 and "skipped 3 of 6 pictures" in heard.said
    (line,) = [
        text for text in heard.said if text.startswith("no pixel of the label maps is: red square, blue square; ")
    ]
    assert "masks of 0 and 255 need the ids in the class file: 0:NAME, 255:NAME" in line
    (tmp_path / "void.txt").write_text("void\n" + labelled_folder.classes.read_text())
    other = Heard()
    void_first = DatasetOptions(**{**vars(skipping), "classes": tmp_path / "void.txt", "ignore": (0, 255)})
    open_samples("folder", void_first, other, sound=True)
    assert any(text.startswith("no pixel of") for text in other.said) and "masks of" not in " ".join(other.said)
    for name in others:
        (labelled_folder.images / name).write_bytes(b"")
    with pytest.raises(DataError, match="no image is left: 6 are bad, first: "):
        open_samples("folder", skipping, sound=True)


def test_turns_that_no_size_shows_and_ids_that_may_count_from_one_are_said(labelled_folder: Any) -> None:
    photos = sorted(labelled_folder.images.iterdir())
    mark = Image.Exif()
    for photo, turn in zip(photos, (3, 6, 1), strict=False):
        mark[0x0112] = turn
        Image.new("RGB", (64, 48)).save(photo, exif=mark)
        Image.new("L", (64, 48), 1).save((labelled_folder.labels / photo.name).with_suffix(".png"))
    data = DatasetOptions(
        images=labelled_folder.images, labels=labelled_folder.labels, classes=labelled_folder.classes, limit=3
    )
    heard = Heard()
    open_samples("folder", data, heard)
    turned, counted = heard.said
    assert turned.startswith("1 photo is turned by EXIF, and sizes do not say") and f"first: {photos[0]};" in turned
    assert counted.startswith("id 0 is not in the label maps: if ids count from 1, write 1:")
    Image.new("L", (64, 48), 0).save((labelled_folder.labels / photos[1].name).with_suffix(".png"))
    open_samples("folder", data, heard)
    assert heard.said[2:] == [turned]
