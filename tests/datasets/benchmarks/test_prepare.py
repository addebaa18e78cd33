"""Downloads of every benchmark are converted, and what is written is what a literal computation says."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from benchmark_downloads import DOWNLOADS, NONE, Truth, ade20k_847, context
from PIL import Image

from opentrans_cli.datasets import DATASETS
from opentrans_cli.datasets.benchmarks.base import Conversion
from opentrans_cli.datasets.benchmarks.pairs import BenchmarkPairs, BenchmarkSet, class_list_of
from opentrans_cli.datasets.benchmarks.prepare import PreparedSplit, prepare_split
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.errors import DataError, OutputError, PictureError

NEEDS_IT = ("ade20k-847",)
"""Data sets whose download cannot be read as it is."""

every_set = pytest.mark.parametrize("name", DOWNLOADS)
every_conversion = pytest.mark.parametrize(
    ("name", "conversion"),
    [(name, conversion.name) for name in DOWNLOADS for conversion in DATASETS.load(name).conversions],
)


def conversion_of(name: str, layout: str | None = None) -> tuple[BenchmarkSet, Conversion]:
    benchmark = DATASETS.load(name)
    return benchmark, next(each for each in benchmark.conversions if layout in (None, each.name))


def prepared(name: str, root: Path, layout: str | None = None) -> PreparedSplit:
    benchmark, conversion = conversion_of(name, layout)
    return prepare_split(benchmark, conversion, root, "val")


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def assert_is(data: BenchmarkPairs, truth: Truth) -> None:
    assert [data.name(index) for index in range(len(data))] == sorted(truth)
    for index in range(len(data)):
        sample = data[index]
        wanted = np.where(truth[sample.name] == NONE, data.ignore_index, truth[sample.name])
        assert sample.label_map.dtype == np.int64
        assert np.array_equal(sample.label_map, wanted)
        assert sample.image.shape[:2] == wanted.shape


def test_every_benchmark_of_the_table_has_a_download_here() -> None:
    assert [name for name in DATASETS.names() if isinstance(DATASETS.load(name), BenchmarkSet)] == list(DOWNLOADS)


@every_set
def test_a_download_is_read_as_it_is_or_its_preparation_is_asked_for(name: str, tmp_path: Path) -> None:
    truth = DOWNLOADS[name](tmp_path)
    if name == "context-59":  # VOC's list, which has one more picture than PASCAL in Detail
        truth = context(tmp_path, classes=59, detail=False)
    if name == "context-459":
        truth = context(tmp_path, classes=459, detail=False)
    options = DatasetOptions(root=tmp_path, split="val")
    if name in NEEDS_IT:
        with pytest.raises(DataError, match=rf"not prepared: {name} in ") as raised:
            DATASETS.load(name)(options)
        assert f"run `opentrans datasets prepare {name} --root {tmp_path}`" in str(raised.value)
    else:
        assert_is(DATASETS.load(name)(options), truth)


@every_conversion
def test_what_is_written_is_what_a_literal_computation_says(name: str, conversion: str, tmp_path: Path) -> None:
    truth = DOWNLOADS[name](tmp_path)
    before = files(tmp_path)
    result = prepared(name, tmp_path, conversion)
    assert (result.written, result.there, result.bad) == (len(truth), 0, ())
    layout = result.target.layout
    assert_is(BenchmarkPairs(DATASETS.load(name), result.target), truth)

    after = files(tmp_path)
    assert {path: after[path] for path in before} == before
    new = sorted({*after} - {*before})
    labels = result.target.path(layout.labels).relative_to(tmp_path).as_posix()
    assert sum(path.startswith(labels) for path in new) == len(truth)
    depths = {"uint8": 8, "uint16": 16}
    for path in new:
        if path.startswith(labels):
            assert depths[np.asarray(Image.open(tmp_path / path)).dtype.name] == layout.coding.bits

    again = prepared(name, tmp_path, conversion)
    assert (again.written, again.there, again.bad, again.bytes) == (0, len(truth), (), 0)
    assert files(tmp_path) == after


KILLED = """
import os, signal, sys
from pathlib import Path
from opentrans_cli.datasets import DATASETS
from opentrans_cli.datasets.benchmarks.prepare import prepare_split

def replaced(*arguments, real=os.replace, renames=iter(range(1000))):
    if next(renames) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*arguments)

os.replace = replaced
benchmark = DATASETS.load(sys.argv[1])
prepare_split(benchmark, benchmark.conversions[0], Path(sys.argv[2]), "val")
"""


@pytest.mark.parametrize("name", ["ade20k-847", "context-59"])
def test_a_run_that_was_killed_goes_on_to_the_same_tree(name: str, tmp_path: Path) -> None:
    DOWNLOADS[name](tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")  # MATLAB files hold the time at which they were made
    download = files(tmp_path / "killed")
    prepared(name, tmp_path / "whole")
    run = subprocess.run([sys.executable, "-c", KILLED, name, str(tmp_path / "killed")], capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    left = files(tmp_path / "killed").keys() - download.keys()
    assert any(path.endswith(".tmp") for path in left)
    assert any(not path.endswith(".tmp") for path in left)
    if name in NEEDS_IT:
        with pytest.raises(DataError, match=rf"run `opentrans datasets prepare {name}`"):
            DATASETS.load(name)(DatasetOptions(root=tmp_path / "killed", split="val"))
    prepared(name, tmp_path / "killed")
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A root with two photos of ADE20K's full download that are not shrunk."""
    ade20k_847(tmp_path, large=False)
    return tmp_path


MADE = "ADE20K_2021_17_01/annotations_detectron2/validation/ADE_val_00000001.tif"
PHOTO = "ADE20K_2021_17_01/images_detectron2/validation/ADE_val_00000001.jpg"
MASK = "ADE20K_2021_17_01/images/ADE/validation/urban/street/ADE_val_00000001_seg.png"


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()  # which may be a link to the download
    path.write_bytes(data[: len(data) // 2])


def rewritten(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(change(np.asarray(Image.open(path)))).save(path)


@pytest.mark.parametrize(
    ("path", "damage"),
    [
        (MADE, cut),
        (MADE, Path.unlink),
        (MADE, rewritten(lambda ids: ids.astype(np.uint8))),
        (MADE, rewritten(lambda ids: ids[:-1])),
        (MADE, rewritten(lambda ids: np.where(ids == 0, 847, ids).astype(np.uint16))),
        (PHOTO, cut),
        (PHOTO, Path.unlink),
    ],
)
def test_what_is_not_whole_or_does_not_fit_is_written_again(
    path: str, damage: Callable[[Path], None], full: Path
) -> None:
    prepared("ade20k-847", full)
    whole = files(full)
    damage(full / path)
    result = prepared("ade20k-847", full)
    assert (result.written, result.there) == (1, 1)
    assert files(full) == whole


def test_label_maps_of_8_bits_are_refused_and_prepared_again(full: Path) -> None:
    prepared("ade20k-847", full)
    rewritten(lambda ids: ids.astype(np.uint8))(full / MADE)
    data = DATASETS.load("ade20k-847")(DatasetOptions(root=full, split="val"))
    with pytest.raises(PictureError, match=r"8 bits, but ids of ade20k-847 need 16: .*00000001\.tif; .*prepare ade20k"):
        data[0]


def test_bad_pictures_are_named_and_the_others_written(full: Path) -> None:
    rewritten(lambda mask: mask[:-1])(full / MASK)
    result = prepared("ade20k-847", full)
    assert (result.written, [bad.name for bad in result.bad]) == (1, ["ADE_val_00000001"])
    assert "image is 64x48 but its label map 64x47" in result.bad[0].problem
    assert MASK in result.bad[0].problem
    cut(full / MASK)
    assert "cannot be read" in prepared("ade20k-847", full).bad[0].problem
    assert not (full / MADE).exists()


def test_a_download_that_is_not_whole_is_refused_before_anything_is_written(full: Path) -> None:
    before = files(full)
    benchmark, conversion = conversion_of("ade20k-847")
    with pytest.raises(DataError, match=r"no pictures of ade20k-847 \(train\) in .*images/ADE; unpack the whole"):
        prepare_split(benchmark, conversion, full, "train")
    (full / MASK).unlink()
    with pytest.raises(DataError, match=r"photo has no mask: .*ADE_val_00000001\.jpg; .*ADE_val_00000001_seg\.png"):
        prepared("ade20k-847", full)
    (full / MASK).write_bytes(before[MASK])
    twin = full / "ADE20K_2021_17_01/images/ADE/validation/ADE_val_00000001.jpg"
    shutil.copy((full / MASK).with_name(twin.name), twin)
    shutil.copy(full / MASK, twin.with_name("ADE_val_00000001_seg.png"))
    with pytest.raises(DataError, match="two photos of one name"):
        prepared("ade20k-847", full)
    twin.unlink()
    description = (full / MASK).with_name("ADE_val_00000001.json")
    description.write_text(description.read_text().replace('"wall"', '"floor"'))
    with pytest.raises(DataError, match="object 2978 is 'floor', not 'wall'"):
        prepared("ade20k-847", full)
    assert not (full / "ADE20K_2021_17_01/annotations_detectron2").exists()


def test_without_a_download_it_says_where_it_would_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data set not found: voc-20"):
        prepared("voc-20", tmp_path)
    DOWNLOADS["voc-20"](tmp_path)
    prepared("voc-20", tmp_path)
    shutil.rmtree(tmp_path / "VOCdevkit")
    with pytest.raises(DataError, match=r"nothing to convert: voc-20 .* it can be read as it is"):
        prepared("voc-20", tmp_path)


@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("coco", "coco"),
        ("coco-stuff", "coco"),
        ("cityscapes", "cityscapes"),
        ("ade20k-150", "ADEChallengeData2016"),
        ("context-59", "VOCdevkit/VOC2010"),
    ],
)
def test_label_maps_are_written_beside_photos_that_stay(name: str, home: str, tmp_path: Path) -> None:
    """Wherever they lie: the root may be the folder of the data set itself."""
    truth = DOWNLOADS[name](tmp_path)
    layout = DATASETS.load(name).conversions[-1]
    result = prepared(name, tmp_path / home, layout.name)
    assert result.target.home == tmp_path / home
    assert_is(BenchmarkPairs(DATASETS.load(name), result.target), truth)


def test_room_is_looked_for_before_anything_is_written(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(full)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 100, 100))
    with pytest.raises(OutputError, match=r"not enough room: .* takes about .* more, 100 B are free"):
        prepared("ade20k-847", full)
    assert files(full) == before
    (full / "ADE20K_2021_17_01/annotations_detectron2").write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot write: .*annotations_detectron2"):
        prepared("ade20k-847", full)


def test_a_photo_is_shrunk_with_its_mask_and_others_stay_as_they_are(tmp_path: Path) -> None:
    DOWNLOADS["ade20k-847"](tmp_path)
    prepared("ade20k-847", tmp_path)
    home = tmp_path / "ADE20K_2021_17_01"
    for number, folder in ((1, "urban/street"), (2, "home_or_hotel/bedroom")):
        source = home / f"images/ADE/validation/{folder}/ADE_val_{number:08d}.jpg"
        assert (home / f"images_detectron2/validation/{source.name}").read_bytes() == source.read_bytes()
    large = np.asarray(Image.open(home / "images/ADE/validation/urban/street/ADE_val_00000003.jpg")).astype(float)
    small = np.asarray(Image.open(home / "images_detectron2/validation/ADE_val_00000003.jpg"))
    mean = large.reshape(512, 2, 516, 2, 3).mean((1, 3))
    assert np.abs(small - mean).mean() < 3  # of 255, by JPEG


def test_pascal_in_detail_and_matlab_files_give_the_same_59_classes(tmp_path: Path) -> None:
    truth = DOWNLOADS["context-59"](tmp_path)
    prepared("context-59", tmp_path)
    made = files(tmp_path / "pascal_ctx_d2")
    shutil.rmtree(tmp_path / "pascal_ctx_d2")
    home = tmp_path / "VOCdevkit/VOC2010"
    (home / "trainval_merged.json").unlink()
    (home / "ImageSets/Main/val.txt").write_text("".join(f"{name}\n" for name in truth))
    prepared("context-59", tmp_path)
    assert files(tmp_path / "pascal_ctx_d2") == made


def test_label_maps_of_mmsegmentation_are_told_from_those_of_opentrans(tmp_path: Path) -> None:
    """Both lie in the same folder; one counts the 59 classes from 1, with 0 for the rest, the other from 0."""
    truth = DOWNLOADS["context-59"](tmp_path)
    benchmark = DATASETS.load("context-59")
    labels = tmp_path / "VOCdevkit/VOC2010/SegmentationClassContext"
    prepared("context-59", tmp_path, "opentrans")
    options = DatasetOptions(root=tmp_path, split="val")
    assert_is(benchmark(options), truth)
    for name, indices in truth.items():
        ids = np.where(indices == NONE, 0, indices + 1).astype(np.uint8)
        Image.fromarray(ids).save(labels / f"{name}.png")
    assert "mmsegmentation" in benchmark(options).remarks[0]
    assert_is(benchmark(options), truth)
    with pytest.raises(OutputError, match=r"holds label maps of another kind: .*of mmsegmentation\); move them first"):
        prepared("context-59", tmp_path, "opentrans")


def test_real_masks_of_ade20k_are_prepared(shared: Path, tmp_path: Path) -> None:
    inside = "ADE20K_2021_17_01/images/ADE/training/urban/street"
    (tmp_path / inside).mkdir(parents=True)
    for path in (shared / "data/ade20k_full_sample" / inside).glob("*16964*"):
        shutil.copyfile(path, tmp_path / inside / path.name)
    benchmark, conversion = conversion_of("ade20k-847")
    assert prepare_split(benchmark, conversion, tmp_path, "train").written == 1
    data = benchmark(DatasetOptions(root=tmp_path, split="train"))
    sample = data[0]
    assert sample.image.shape == (512, 768, 3)
    assert sample.label_map.shape == (512, 768)
    names = {data.vocabulary.names[index] for index in {*np.unique(sample.label_map).tolist()} - {65535}}
    assert {"building", "car", "road", "sidewalk", "tree", "van"} <= names
    assert (sample.label_map < 847).mean() > 0.85


def test_real_label_maps_of_pascal_context_are_read(shared: Path, tmp_path: Path) -> None:
    """The sample counts its classes in another order, from 1; written as the field's converters do, it is read."""
    home = shared / "data/voc_sample/VOC2010"
    order = (shared / "data/voc_sample/context59_classes.txt").read_text().split("\n")
    benchmark = DATASETS.load("context-59")
    made = tmp_path / "VOC2010"
    shutil.copytree(home / "JPEGImages", made / "JPEGImages")
    (made / "ImageSets/SegmentationContext").mkdir(parents=True)
    shutil.copyfile(home / "ImageSets/SegmentationContext/sample.txt", made / "ImageSets/SegmentationContext/val.txt")
    (made / "SegmentationClassContext").mkdir()
    names = [words[0] for words in class_list_of(benchmark).vocabulary.classes]
    for path in sorted((home / "SegmentationClassContext").glob("*.png")):
        ids = np.asarray(Image.open(path))
        ours = np.array([255, *(names.index(name) for name in order[1:60])], np.uint8)
        Image.fromarray(ours[ids]).save(made / "SegmentationClassContext" / path.name)
    data = benchmark(DatasetOptions(root=tmp_path, split="val"))
    assert len(data) == 4
    for index in range(4):
        sample = data[index]
        ids = np.asarray(Image.open(home / "SegmentationClassContext" / f"{sample.name}.png"))
        for number in {*np.unique(ids).tolist()} - {0}:
            (found,) = {*sample.label_map[ids == number].tolist()}
            assert data.vocabulary.names[found] == order[number]
