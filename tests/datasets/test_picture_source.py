"""Pictures from folders, lists and shards: what is on disk decides, and every one reads the same from everywhere."""

from __future__ import annotations

import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opentrans_cli.datasets.picture_source import Picture, list_pictures, read_picture
from opentrans_cli.errors import DataError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six PNG files of random pixels, two of them in a subfolder."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("0", "1", "2", "3", "more/4", "more/5"):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def shards_of(photos: Path, folder: Path, counts: tuple[int, ...] = (4, 2)) -> list[Path]:
    """The photos in tar shards of webdataset's layout: <key>.png beside <key>.txt."""
    folder.mkdir()
    files = iter(sorted(photos.rglob("*.png"), key=Path.as_posix))
    shards = []
    for number, count in enumerate(counts):
        shards.append(folder / f"{number:03d}.tar")
        with tarfile.open(shards[-1], "w") as archive:
            for _ in range(count):
                file = next(files)
                archive.add(file, file.name)
                caption = file.with_suffix(".txt")
                caption.write_text("a caption")
                archive.add(caption, caption.name)
                caption.unlink()
    return shards


def all_pixels(where: object) -> np.ndarray:
    return np.stack([read_picture(picture) for picture in list_pictures(str(where))])


def test_folder_list_shard_folder_and_pattern_give_the_same_pictures(photos: Path, tmp_path: Path) -> None:
    wanted = all_pixels(photos)
    shards_of(photos, tmp_path / "shards")
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    (photos / "list.txt").write_text("# photos\n\n" + "\n".join(names))
    for where in (photos / "list.txt", tmp_path / "shards", f"{tmp_path}/shards/{{000..001}}.tar"):
        assert np.array_equal(all_pixels(where), wanted)
    assert np.array_equal(all_pixels(tmp_path / "shards" / "001.tar"), wanted[4:])


def test_a_picture_names_itself_and_travels_to_other_processes(photos: Path, tmp_path: Path) -> None:
    shard = shards_of(photos, tmp_path / "shards")[0]
    for picture in (*list_pictures(photos), *list_pictures(shard)):
        assert pickle.loads(pickle.dumps(picture)) == picture
    assert [picture.name for picture in list_pictures(shard)] == [f"{shard}:{number}.png" for number in range(4)]
    assert list_pictures(photos)[4].name == str(photos / "more" / "4.png")


def test_a_list_keeps_its_order_and_counts_repeated_lines(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(f"photos/3.png\nphotos/1.png\n{photos}/3.png\n")
    assert [picture.path.name for picture in list_pictures(tmp_path / "list")] == ["3.png", "1.png", "3.png"]


def test_a_list_is_answered_with_the_line_that_is_wrong(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("photos/0.png\n\nphotos/none.png\n")
    with pytest.raises(DataError, match=r"image not found: 'photos/none\.png' in line 3 of .*list\.txt; correct"):
        list_pictures(path)
    shards_of(photos, tmp_path / "shards")
    path.write_text("shards/000.tar\n")
    with pytest.raises(DataError, match=r"a list names images, no tar shards: 'shards/000\.tar' in line 1"):
        list_pictures(path)
    path.write_text("# nothing\n")
    with pytest.raises(DataError, match=r"image list is empty: .*list\.txt"):
        list_pictures(path)


def test_a_place_that_is_not_there_is_told_with_what_could_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"images not found: .*none; give a folder, a list of image files, a \.tar"):
        list_pictures(tmp_path / "none")
    with pytest.raises(DataError, match=r"no image in folder: .*empty"):
        (tmp_path / "empty").mkdir()
        list_pictures(tmp_path / "empty")


def test_a_pattern_is_answered_with_the_shard_that_is_missing(photos: Path, tmp_path: Path) -> None:
    shards_of(photos, tmp_path / "shards")
    with pytest.raises(DataError, match=r"tar shard not found: .*002\.tar; check the path and the numbers"):
        list_pictures(f"{tmp_path}/shards/{{000..002}}.tar")
    with pytest.raises(DataError, match=r"shard is no \.tar: .*[01]\.png; give plain tar files"):
        list_pictures(f"{photos}/{{0,1}}.png")


def test_a_name_with_braces_that_is_there_is_no_pattern(photos: Path, tmp_path: Path) -> None:
    folder = photos.rename(tmp_path / "{000..003}")
    assert len(list_pictures(folder)) == 6


def test_a_folder_of_both_kinds_and_a_compressed_shard_are_refused(photos: Path, tmp_path: Path) -> None:
    shards = shards_of(photos, tmp_path / "shards")
    (tmp_path / "shards" / "002.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"tar shard is compressed: .*002\.tar\.gz"):
        list_pictures(tmp_path / "shards")
    shards[0].rename(photos / "000.tar")
    with pytest.raises(DataError, match=r"folder holds both images and tar shards: .*photos, such as 000\.tar"):
        list_pictures(photos)


def test_a_shard_that_shrank_or_went_away_after_it_was_listed_is_told(photos: Path, tmp_path: Path) -> None:
    shard = shards_of(photos, tmp_path / "shards")[0]
    last = list_pictures(shard)[-1]
    shard.write_bytes(shard.read_bytes()[: last.offset + 10])
    with pytest.raises(DataError, match=r"image cannot be read: .*000\.tar:3\.png; the shard was cut short after"):
        read_picture(last)
    shard.unlink()
    with pytest.raises(DataError, match=r"image cannot be read: .*000\.tar:3\.png \(No such file"):
        read_picture(last)


def test_a_damaged_member_is_named_with_its_shard(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"image cannot be read: .*a\.tar:x\.jpg; it is damaged or no picture"):
        read_picture(Picture(tmp_path / "a.tar", "x.jpg", 3, 7))
