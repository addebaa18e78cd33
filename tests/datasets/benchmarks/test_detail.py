"""PASCAL in Detail: regions drawn one over the other, and damaged files named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from opentrans_cli.datasets.benchmarks.detail import read_detail
from opentrans_cli.errors import DataError, PictureError


def region(image: int, category: int, drawn: np.ndarray) -> dict[str, Any]:
    lengths = coco.encode(np.asfortranarray(drawn.astype(np.uint8)))
    lengths["counts"] = lengths["counts"].decode()
    return {"image_id": image, "category_id": category, "segmentation": lengths, "iscrowd": 0}


def picture(image: int, phase: str, shape: tuple[int, int]) -> dict[str, Any]:
    return {
        "image_id": image,
        "file_name": f"{image}.jpg",
        "phase": phase,
        "height": shape[0],
        "width": shape[1],
    }


def written(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


def test_the_last_region_over_a_pixel_counts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    drawn = [(int(category), rng.random((20, 30)) < 0.3) for category in rng.integers(1, 460, 6)]
    document = {
        "images": [picture(7, "val", (20, 30)), picture(3, "train", (4, 5)), picture(9, "test", (4, 5))],
        "annos_segmentation": [region(7, *each) for each in drawn] + [region(3, 2, np.ones((4, 5), bool))],
    }
    first, second = read_detail(written(tmp_path / "a.json", document))
    assert [(first.file, first.split), (second.file, second.split)] == [("3.jpg", "train"), ("7.jpg", "val")]
    assert (first.category_ids() == 2).all()
    ids = second.category_ids()
    for row in range(20):
        for column in range(30):
            over = [category for category, inside in drawn if inside[row, column]]
            assert ids[row, column] == (over[-1] if over else 0)


def test_run_lengths_of_another_size_are_named(tmp_path: Path) -> None:
    document = {"images": [picture(7, "val", (20, 30))], "annos_segmentation": [region(7, 2, np.ones((30, 20), bool))]}
    (found,) = read_detail(written(tmp_path / "a.json", document))
    with pytest.raises(PictureError, match=r"a region cannot be read: 7\.jpg, category 2 .*\(30, 20\), not \(20, 30\)"):
        found.category_ids()
    document["annos_segmentation"][0]["segmentation"]["counts"] = "0"
    (found,) = read_detail(written(tmp_path / "a.json", document))
    with pytest.raises(PictureError, match="do not sum up to 30 x 20"):
        found.category_ids()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"images": [], "annos_segmentation": [1]}', '{"images": [{}]}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"PASCAL in Detail file .*a\.json"):
        read_detail(tmp_path / "a.json")
    with pytest.raises(DataError, match=r"cannot be read: .*b\.json"):
        read_detail(tmp_path / "b.json")
