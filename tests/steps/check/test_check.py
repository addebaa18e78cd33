"""check: every planted fault is told by name, sound data pass, and shares are those of a slow count."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import opentrans_cli as ot
from opentrans_cli.bundle.schema import check_document
from opentrans_cli.errors import DataError, OptionError, OutputError

Data = Any  # the class of the fixture `labelled_folder`


def run(data: Data, **options: Any) -> Any:
    result = ot.check(data.images, data.labels, data.classes, **options)
    check_document(json.loads(json.dumps(result.to_json())), "check_report")
    return result


def told(result: Any) -> dict[str, set[str]]:
    """Names by "level kind" of the findings."""
    found: dict[str, set[str]] = {}
    for each in result.findings:
        found.setdefault(f"{each.level} {each.kind}", set()).update(each.names)
    return found


def ids(data: Data, name: str) -> np.ndarray:
    with Image.open(data.labels / name) as image:
        return np.array(image)


def save(data: Data, name: str, label_map: np.ndarray) -> None:
    Image.fromarray(label_map).save(data.labels / name)


def turn(photo: Path, orientation: int) -> None:
    """Mark a photo as stored on its side, in place."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(photo) as image:
        image.load()
        image.save(photo, exif=exif)


def test_sound_data_pass_and_shares_are_those_of_a_slow_count(labelled_folder: Data) -> None:
    result = run(labelled_folder)
    assert (result.ok, result.findings, result.suggested_ignore, result.pairs) == (True, (), None, 6)
    assert result.sizes == {"64x64": 6} and result.path is None and result.samples == ()
    every = np.stack([ids(labelled_folder, f"{number}.png") for number in range(6)])
    for row in result.ids:
        assert row.share == pytest.approx((every == row.id).mean(), abs=1e-6)
        assert row.label_maps == (every == row.id).any(axis=(1, 2)).sum()
    assert [(row.id, row.name, row.void) for row in result.ids] == [
        (0, "grass", False),
        (1, "red square", False),
        (2, "blue square", False),
        (255, None, True),
    ]


def slip(data: Data) -> None:
    label_map = ids(data, "3.png")
    label_map[0, 0] = 7
    save(data, "3.png", label_map)


def half_size(data: Data) -> None:
    save(data, "1.png", ids(data, "1.png")[::2, ::2])


def on_its_side(data: Data) -> None:
    for path in (data.images / "2.png", data.labels / "2.png"):
        with Image.open(path) as image:
            image.crop((0, 0, 64, 48)).save(path)
    turn(data.images / "2.png", 6)


def turned_with_its_label_map(data: Data) -> None:
    on_its_side(data)
    save(data, "2.png", np.ascontiguousarray(np.rot90(ids(data, "2.png"), -1)))


def small(data: Data) -> None:
    for path in (data.images / "1.png", data.labels / "1.png"):
        with Image.open(path) as image:
            image.crop((0, 0, 30, 64)).save(path)


def other_kinds(data: Data) -> None:
    (data.images / "6.heic").touch()
    (data.labels / "6.jpg").touch()


def turned_square(data: Data) -> None:
    turn(data.images / "0.png", 3)


def no_label_map(data: Data) -> None:
    (data.labels / "0.png").unlink()


def no_photo(data: Data) -> None:
    (data.images / "5.png").unlink()


def two_of_a_name(data: Data) -> None:
    with Image.open(data.images / "4.png") as image:
        image.save(data.images / "4.jpg")


def cut(data: Data) -> None:
    for path in (data.images / "1.png", data.labels / "4.png"):
        path.write_bytes(path.read_bytes()[:-60])


def no_picture(data: Data) -> None:
    (data.labels / "2.png").write_text("<html>")
    (data.images / "3.png").write_bytes(b"")


def colours(data: Data) -> None:
    save(data, "0.png", np.stack([ids(data, "0.png") * 9] * 3, axis=-1))


def wrong_order(data: Data) -> None:
    data.images.rename(data.images.with_name("x"))
    data.labels.rename(data.images)
    data.images.with_name("x").rename(data.labels)


def blurred(data: Data) -> None:
    buffer = io.BytesIO()
    Image.fromarray(ids(data, "5.png") * 60).save(buffer, "JPEG", quality=50)
    with Image.open(buffer) as image:
        image.save(data.labels / "5.png")


def void_alone(data: Data) -> None:
    save(data, "5.png", np.full((64, 64), 255, np.uint8))


def class_lost(data: Data) -> None:
    for number in range(6):
        label_map = ids(data, f"{number}.png")
        save(data, f"{number}.png", np.where(label_map == 2, 255, label_map).astype(np.uint8))


def from_one(data: Data) -> None:
    for number in range(6):
        label_map = ids(data, f"{number}.png")
        save(data, f"{number}.png", np.where(label_map == 255, 255, label_map + 1).astype(np.uint8))


def masks_of_255(data: Data) -> None:
    data.classes.write_text("grass\nsquare\n")
    for number in range(6):
        save(data, f"{number}.png", np.where(ids(data, f"{number}.png") % 255, 255, 0).astype(np.uint8))


def deep(data: Data) -> None:
    for number in range(6):
        label_map = ids(data, f"{number}.png").astype(np.uint16)
        label_map[label_map == 255] = 40000
        save(data, f"{number}.png", label_map)


def other_numbers(data: Data) -> None:
    """Grey values as for a look with one's eyes."""
    for number in range(6):
        label_map = ids(data, f"{number}.png")
        save(data, f"{number}.png", np.where(label_map == 255, 255, label_map * 100).astype(np.uint8))


def below_zero(data: Data) -> None:
    label_map = ids(data, "4.png").astype(np.int32)
    (data.labels / "4.png").unlink()
    save(data, "4.tif", np.where(label_map == 255, -1, label_map))


ALL = {f"{number}.png" for number in range(6)}
PLANTED: dict[Callable[[Data], None], dict[str, set[str]]] = {
    slip: {"fault id-without-class": {"3.png"}},
    half_size: {"fault size": {"1.png"}},
    on_its_side: {"note turned": {"2.png"}},
    small: {"fault small": {"1.png"}},
    other_kinds: {"note left-out": set()},
    turned_with_its_label_map: {"note turned": {"2.png"}},
    turned_square: {"warning turned": {"0.png"}},
    no_label_map: {"fault photo-alone": {"0.png"}},
    no_photo: {"fault label-map-alone": {"5.png"}},
    cut: {"fault unreadable": {"1.png", "4.png"}},
    no_picture: {"fault unreadable": {"2.png", "3.png"}},
    colours: {"fault unreadable": {"0.png"}},
    wrong_order: {"fault swapped": ALL},
    blurred: {"fault many-ids": {"5.png"}},
    void_alone: {"warning unlabelled": {"5.png"}},
    class_lost: {"warning class-without-pixels": {"blue square"}},
    from_one: {"fault ids-from-1": {"1.png", "3.png", "5.png"}},
    masks_of_255: {"fault ignored-class": {"square"}},
    deep: {"fault id-without-class": ALL},
    other_numbers: {"fault other-ids": ALL},
    below_zero: {"fault id-without-class": {"4.tif"}},
}


def test_every_planted_fault_is_told_by_name_and_nothing_else(labelled_folder: Data, tmp_path: Path) -> None:
    for plant, expected in PLANTED.items():
        folder = tmp_path / "copy"
        copy = type(labelled_folder)(folder / "photos", folder / "maps", folder / "classes.txt")
        shutil.copytree(labelled_folder.images, copy.images)
        shutil.copytree(labelled_folder.labels, copy.labels)
        shutil.copy(labelled_folder.classes, copy.classes)
        plant(copy)
        result = run(copy)
        assert told(result) == expected, plant.__name__
        assert result.ok == (not any(kind.startswith("fault") for kind in expected)), plant.__name__
        assert all(each.move or each.level == "note" for each in result.findings)
        shutil.rmtree(folder)


def test_samples_are_drawn_and_only_a_folder_of_samples_is_replaced(labelled_folder: Data, tmp_path: Path) -> None:
    out = tmp_path / "samples"
    slip(labelled_folder)
    result = run(labelled_folder, out=out)
    assert len(result.samples) == 5 and {path.name for path in out.iterdir()} == {*result.samples, "check.json"}
    assert json.loads((out / "check.json").read_text()) == json.loads(json.dumps(result.to_json()))
    for name in result.samples:
        with Image.open(out / name) as image:
            assert image.width > image.height >= 480
    with pytest.raises(OutputError, match="already exists"):
        run(labelled_folder, out=out)
    assert run(labelled_folder, out=out, force=True).samples == result.samples
    (out / "mine.txt").touch()
    with pytest.raises(OutputError, match="did not write"):
        run(labelled_folder, out=out, force=True)


def test_what_skip_bad_leaves_out_is_no_fault(labelled_folder: Data) -> None:
    for plant in (small, half_size, cut):
        plant(labelled_folder)
    assert not run(labelled_folder).ok
    result = run(labelled_folder, skip_bad=True)
    assert result.ok and {each.level for each in result.findings} == {"warning"}


def test_a_split_list_chooses_the_photos_that_count(labelled_folder: Data, tmp_path: Path) -> None:
    slip(labelled_folder)
    no_label_map(labelled_folder)
    (tmp_path / "split.txt").write_text("1\n2\n")
    result = run(labelled_folder, split_list=tmp_path / "split.txt")
    assert (result.ok, result.pairs) == (True, 2)
    (tmp_path / "split.txt").write_text("1\n2\n0\n")
    assert told(run(labelled_folder, split_list=tmp_path / "split.txt")) == {"fault photo-alone": {"0.png"}}


def test_nothing_to_look_at_is_an_error_and_nothing_is_written(labelled_folder: Data, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for change, error in (
        ({"images": tmp_path / "empty"}, "no image in folder"),
        ({"labels": tmp_path / "none"}, "label map folder not found"),
        ({"classes": tmp_path / "none"}, "class file not found"),
    ):
        given = {**vars(labelled_folder), **change}
        with pytest.raises(DataError, match=error):
            ot.check(given["images"], given["labels"], given["classes"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(OptionError, match="computes on the processor"):
        run(labelled_folder, device="cuda")
