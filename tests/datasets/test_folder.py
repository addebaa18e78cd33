"""The data set of own images: pairs, and every mismatch told by name."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opentrans_cli.datasets import DATASETS
from opentrans_cli.datasets.base import SegDataset
from opentrans_cli.datasets.folder import FolderDataset, open_folder
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.datasets.scan import spread
from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.errors import DataError, OptionError, PictureError

WORDS = Vocabulary.from_names(["cat,kitten", "dog", "bus"])


def put(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three images of 40x50 with label maps, one in a subfolder; image and label map k are k everywhere."""
    for k, stem in enumerate(("a.v1", "b", "sub/c")):
        put(tmp_path / "images" / f"{stem}.png", np.full((40, 50, 3), k, np.uint8))
        put(tmp_path / "labels" / f"{stem}{'.tif' if k == 1 else '.png'}", np.full((40, 50), k, np.uint8))
    return tmp_path / "images", tmp_path / "labels"


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_files_with_the_same_relative_stem_belong_together(folders: tuple[Path, Path]) -> None:
    dataset: SegDataset = FolderDataset(*folders, WORDS)
    samples = [dataset[i] for i in range(len(dataset))]
    assert [sample.name for sample in samples] == ["a.v1", "b", "sub/c"]
    for k, sample in enumerate(samples):
        assert sample.label_map is not None
        assert sample.label_map.dtype == np.int64
        assert (sample.image == k).all()
        assert (sample.label_map == k).all()
    with pytest.raises(IndexError):
        dataset[3]


def test_a_split_list_chooses_and_orders_with_or_without_suffix(folders: tuple[Path, Path], tmp_path: Path) -> None:
    split = written(tmp_path / "val.txt", "sub/c\n# comment\na.v1.png\n")
    dataset = FolderDataset(*folders, WORDS, split=split)
    assert [dataset[i].name for i in range(len(dataset))] == ["sub/c", "a.v1"]
    assert FolderDataset(*folders, WORDS, split=split, limit=1)[0].name == "sub/c"
    assert len(FolderDataset(*folders, WORDS, split=split, limit=1)) == 1


def test_a_missing_partner_is_refused_unless_a_split_list_leaves_it_out(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    images, labels = folders
    split = written(tmp_path / "val.txt", "b\n")
    (labels / "a.v1.png").unlink()
    with pytest.raises(DataError, match=r"1 images have no label map: first 'a\.v1'; add it to .*labels"):
        FolderDataset(images, labels, WORDS)
    assert len(FolderDataset(images, labels, WORDS, split=split)) == 1
    (images / "a.v1.png").unlink()
    (images / "sub/c.png").unlink()
    with pytest.raises(DataError, match=r"1 label maps have no image: first 'sub/c'; add it to .*images"):
        FolderDataset(images, labels, WORDS)
    assert len(FolderDataset(images, labels, WORDS, split=split)) == 1


def test_a_faulty_split_list_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (folders[1] / "a.v1.png").unlink()
    for text, message in (
        ("", "split list is empty"),
        ("b\nnone\nsub/none.jpg\n", r"2 entries without an image: .*, first 'none' in line 2; correct the list"),
        ("b\n\nb.png\n", r"'b' occurs twice: .*split\.txt, lines 1 and 3; keep one"),
        ("a.v1\nb\n", r"1 images have no label map: first 'a\.v1'"),
    ):
        with pytest.raises(DataError, match=message):
            FolderDataset(*folders, WORDS, split=written(tmp_path / "split.txt", text))
    put(folders[0] / "b.jpg", np.zeros((40, 50, 3), np.uint8))
    with pytest.raises(DataError, match=r"two images with one stem: .*b\.jpg and .*b\.png; keep one"):
        FolderDataset(*folders, WORDS)


def test_sizes_must_agree(folders: tuple[Path, Path]) -> None:
    put(folders[1] / "b.tif", np.zeros((20, 25), np.uint8))
    dataset = FolderDataset(*folders, WORDS)
    dataset[0]
    with pytest.raises(DataError, match=r"image is 50x40 but its label map 25x20: .*b\.tif; resize the label map"):
        dataset[1]


def test_an_id_without_a_class_is_refused_unless_ignored(folders: tuple[Path, Path]) -> None:
    label_map = np.zeros((40, 50), np.uint8)
    label_map[3, :3] = 1, 2, 3
    put(folders[1] / "b.tif", label_map)
    with pytest.raises(DataError) as caught:
        FolderDataset(*folders, WORDS)[1]
    assert str(caught.value) == (
        f"id 3 has no class (0.05 % of the pixels; classes have ids 0 to 2): {folders[1] / 'b.tif'}; "
        "pass --ignore 3,255 if they are not labelled, or write 1:cat and so on into the class file if they count from "
        "1, or add the class to the class file"
    )
    ignoring = FolderDataset(*folders, WORDS, ignore=(3, 7))
    assert np.array_equal(ignoring[1].label_map, np.where(label_map == 3, ignoring.ignore_index, label_map))


def test_a_list_that_may_lack_names_in_between_is_asked_for_ids_and_nothing_is_offered_to_be_ignored(
    folders: tuple[Path, Path],
) -> None:
    for ids, gaps in (((0, 1, 2, 3), False), ((0, 2, 3), True), ((0, 1, 2, 3, 5), True), ((0, 2, 40), False)):
        put(folders[1] / "b.tif", np.resize(np.array(ids, np.uint8), (40, 50)))
        for other in ("a", "c"):
            put(next(folders[1].glob(f"**/{other}.*")), np.zeros((40, 50), np.uint8))
        dataset = FolderDataset(*folders, WORDS)
        for whole in (False, True):
            with pytest.raises(DataError) as caught:
                dataset.probe(skip_bad=False) if whole else dataset[1]
            _, _, moves = str(caught.value).rpartition("; ")
            assert moves.startswith("write ids into the class file (7:NAME)" if gaps else "pass --ignore ")
            assert ("--ignore" in moves) is not gaps


def test_ids_of_the_class_file_become_class_indices(folders: tuple[Path, Path], tmp_path: Path) -> None:
    cases = {
        "0:cat\n2:dog\n1:bus\n": [0, 1, 2],  # by id, whatever the order of lines
        "2:dog\n1:cat\n": ["id 0 has no class", 0, 1],
        "0: void\n1: cat\n2: dog\n": [255, 0, 1],
        "0:invalid_class_id\n1:cat\n2:dog\n": ["--label-ids order", 0, 1],  # no guess whether 0 is void or a class
        '[{"id": 2, "name": "a"}, {"id": 0, "name": "b"}]': [0, "id 1 has no class .* 0 to 2, 2 of them", 1],
    }
    for text, wanted in cases.items():
        dataset = FolderDataset(*folders, written(tmp_path / "classes.txt", text))
        for index, value in enumerate(wanted):
            if isinstance(value, str):
                with pytest.raises(DataError, match=value):
                    dataset[index]
            else:
                assert (dataset[index].label_map == value).all()
    in_order = DatasetOptions(
        images=folders[0], labels=folders[1], classes=written(tmp_path / "c.txt", "4:a\n5:b\n9:c\n"), label_ids="order"
    )
    assert [int(open_folder(in_order)[index].label_map.max()) for index in range(3)] == [0, 1, 2]  # type: ignore[union-attr]


def test_photos_turned_by_exif_fit_label_maps_of_both_kinds(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.zeros((40, 50), np.uint8)
    stored[:10] = 1
    (tmp_path / "images").mkdir()
    Image.fromarray(np.stack([stored * 200] * 3, -1)).save(tmp_path / "images/a.png", exif=exif)
    for label_map in (stored, np.rot90(stored, -1)):  # as stored, and as a person sees the photo
        put(tmp_path / "labels/a.png", label_map)
        sample = FolderDataset(tmp_path / "images", tmp_path / "labels", WORDS)[0]
        assert np.array_equal(sample.image[..., 0] == 200, sample.label_map == 1)
    put(tmp_path / "labels/a.png", stored[:39])
    with pytest.raises(PictureError, match="image is 40x50 but its label map 50x39"):
        FolderDataset(tmp_path / "images", tmp_path / "labels", WORDS)[0]


def test_the_ends_of_names_may_differ_as_in_cityscapes(tmp_path: Path) -> None:
    put(tmp_path / "left/aachen/a_0_leftImg8bit.png", np.zeros((40, 50, 3), np.uint8))
    for end, value in (("labelIds", 1), ("instanceIds", 9), ("color", 0)):
        put(tmp_path / f"fine/aachen/a_0_gtFine_{end}.png", np.full((40, 50), value, np.uint8))
    ends = {"image_suffix": "_leftImg8bit.png", "label_suffix": "_gtFine_labelIds.png"}
    dataset = FolderDataset(tmp_path / "left", tmp_path / "fine", WORDS, **ends)  # type: ignore[arg-type]
    assert (len(dataset), dataset.name(0)) == (1, "aachen/a_0")
    assert (dataset[0].label_map == 1).all()
    split = written(tmp_path / "val.txt", "aachen/a_0_leftImg8bit.png\n")
    assert FolderDataset(tmp_path / "left", tmp_path / "fine", WORDS, split=split, **ends).name(0) == "aachen/a_0"  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="no end of a picture's name: --label-suffix _labelIds; write the suffix too"):
        DatasetOptions(label_suffix="_labelIds")


def test_label_maps_in_shards_belong_to_the_photos_beside_them(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for k in range(3):
            for name, array in (
                (f"{k}.jpg", np.full((40, 50, 3), 80 * k, np.uint8)),
                (f"{k}.seg.png", np.full((40, 50), k, np.uint8)),
            ):
                data = io.BytesIO()
                Image.fromarray(array).save(data, "JPEG" if name.endswith("jpg") else "PNG")
                member = tarfile.TarInfo(name)
                member.size = data.tell()
                data.seek(0)
                archive.addfile(member, data)
    classes = written(tmp_path / "c.txt", "cat\ndog\nbus\n")
    dataset = open_folder(DatasetOptions(images=tmp_path / "s.tar", classes=classes))
    assert [dataset.name(k) for k in range(3)] == ["0", "1", "2"]
    for k in range(3):
        assert (dataset[k].label_map == k).all()
        assert abs(int(dataset[k].image.mean()) - 80 * k) < 3
    assert dataset.remarks == ("no photos but label maps beside them in the shards: 3 named *.seg.png",)
    assert dataset.fingerprint.startswith("sha256:")
    with pytest.raises(OptionError, match=r"tar shards hold their own label maps: --labels .*; leave it out"):
        open_folder(DatasetOptions(images=tmp_path / "s.tar", labels=tmp_path, classes=classes))
    (tmp_path / "t.tar").write_bytes((tmp_path / "s.tar").read_bytes())
    for where in (tmp_path, tmp_path / "{s,t}.tar"):  # samples of several shards may have the same number
        both = open_folder(DatasetOptions(images=where, classes=classes))
        assert [both.name(k) for k in (0, 5)] == ["s/0", "t/2"]
    (tmp_path / "all" / "part-1").mkdir(parents=True)
    (tmp_path / "s.tar").rename(tmp_path / "all" / "part-1" / "s.tar")
    assert len(open_folder(DatasetOptions(images=tmp_path / "all", classes=classes))) == 3  # shards in a subfolder


def test_no_class_is_dropped_in_silence_because_its_id_is_255(folders: tuple[Path, Path]) -> None:
    many = Vocabulary.from_names([f"thing {number}" for number in range(300)])
    label_map = np.full((40, 50), 255, np.uint16)
    label_map[0] = 65535
    put(folders[1] / "b.tif", label_map)
    dataset = FolderDataset(*folders, many)
    assert np.unique(dataset[1].label_map).tolist() == [255, dataset.ignore_index]  # type: ignore[arg-type]
    assert dataset.remarks == ("id 255 is 'thing 255', so unlabelled pixels have 65535",)
    asked = FolderDataset(*folders, many, ignore=(255, 65535))
    assert (asked[1].label_map == asked.ignore_index).all()
    assert asked.remarks == ("pixels of id 255 are not labelled (--ignore), so none is 'thing 255'",)


def test_held_out_classes_are_spelled_as_in_the_class_list_and_stay_in_the_truth(folders: tuple[Path, Path]) -> None:
    dataset = FolderDataset(*folders, WORDS, unseen=("Bus", "cat"))
    assert dataset.unseen == ("cat", "bus")
    assert (dataset[0].label_map == 0).all()
    with pytest.raises(DataError, match="held-out class is not in the class list: 'Tram'; correct --hold-out"):
        FolderDataset(*folders, WORDS, unseen=("bus", "Tram"))


def test_the_default_crop_fits_the_first_image_unless_given(folders: tuple[Path, Path]) -> None:
    assert FolderDataset(*folders, WORDS).default_crop == 32
    assert FolderDataset(*folders, WORDS, crop=96).default_crop == 96
    put(folders[0] / "a.v1.png", np.zeros((700, 600, 3), np.uint8))
    assert FolderDataset(*folders, WORDS).default_crop == 512


def test_the_fingerprint_follows_the_data(folders: tuple[Path, Path]) -> None:
    def fingerprint(**options: object) -> str:
        return FolderDataset(*folders, WORDS, **options).fingerprint  # type: ignore[arg-type]

    prints = {fingerprint(), fingerprint(limit=2), fingerprint(ignore=(0,)), fingerprint(unseen=("bus",))}
    assert len(prints) == 4
    assert fingerprint() in prints
    with (folders[0] / "b.png").open("ab") as file:
        file.write(b"\0")
    assert fingerprint() not in prints


def test_options_open_a_folder_and_missing_ones_are_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    images, labels = folders
    classes = written(tmp_path / "classes.txt", "cat\ndog\nbus\n")
    options = DatasetOptions(
        images=images, labels=labels, classes=classes, ignore=(9,), size=64, limit=2, hold_out=("dog",)
    )
    dataset = DATASETS.load("folder")(options)
    assert (len(dataset), dataset.ignored, dataset.default_crop) == (2, (9,), 64)
    assert dataset.unseen == ("dog",)
    with pytest.raises(OptionError, match="not fully described: --images and --classes missing; add it"):
        open_folder(DatasetOptions(labels=labels))


@pytest.mark.parametrize("name", ["msrc_v2", "camvid"])
def test_real_data_sets_are_read(shared: Path, name: str) -> None:
    root = shared / "data" / name
    where = {"msrc_v2": ("images", "annotations"), "camvid": ("images/val", "annotations/val")}[name]
    classes, ignore, count, crop = {"msrc_v2": (23, 255, 58, 192), "camvid": (11, 11, 101, 224)}[name]
    dataset = FolderDataset(
        root / where[0], root / where[1], root / "classes.txt", ignore=(ignore,), split=root / "val.txt"
    )
    assert (len(dataset), len(dataset.vocabulary), dataset.default_crop) == (count, classes, crop)
    ids = set()
    for index in range(0, count, 5):
        ids |= set(np.unique(dataset[index].label_map).tolist())
    assert ids <= {*range(classes), dataset.ignore_index}
    assert dataset.ignore_index in ids
    assert len(ids) > classes // 2


def test_a_probe_finds_what_reading_would_without_decoding_photos(folders: tuple[Path, Path]) -> None:
    images, labels = folders
    FolderDataset(*folders, WORDS).probe(skip_bad=False)
    put(labels / "sub" / "c.png", np.full((20, 25), 2, np.uint8))
    put(images / "b.png", np.zeros((40, 31, 3), np.uint8))
    (images / "a.v1.png").write_bytes(b"no picture")
    dataset = FolderDataset(*folders, WORDS)
    with pytest.raises(PictureError, match=r"a\.v1\.png.*--skip-bad \(3 such files; `opentrans check` names all\)"):
        dataset.probe(skip_bad=False)
    dataset.probe(skip_bad=True)
    put(labels / "a.v1.png", np.full((40, 50), 7, np.uint8))
    with pytest.raises(DataError, match=r"id 7 has no class.*a\.v1\.png"):
        dataset.probe(skip_bad=True)


def test_a_probe_finds_label_maps_that_hold_no_ids(folders: tuple[Path, Path]) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    put(folders[1] / "b.tif", colours)
    dataset = FolderDataset(*folders, WORDS)
    with pytest.raises(PictureError, match=r"label map has colours, not ids: .*b\.tif .*--skip-bad$"):
        dataset.probe(skip_bad=False)
    dataset.probe(skip_bad=True)


def test_files_are_probed_at_even_distances_where_there_are_many() -> None:
    assert list(spread(range(10), 20)) == list(range(10))
    assert list(spread(range(1000), 4)) == [0, 250, 500, 750]
