"""Tar shards: every picture is found where it lies, and what is cut short or foreign is refused by name."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from opentrans_cli.datasets.shards import ShardMember, expand_braces, index_shard
from opentrans_cli.errors import DataError

CONTENTS = {"0001.jpg": b"first", "0001.txt": b"a caption", "0001.cls": b"7", "sub/0002.PNG": b"second" * 300}


def write_tar(path: Path, contents: dict[str, bytes], *, form: int = tarfile.PAX_FORMAT, mode: str = "w") -> Path:
    with tarfile.open(path, mode, format=form) as archive:  # type: ignore[call-overload]
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def read(path: Path, members: Sequence[ShardMember]) -> dict[str, bytes]:
    data = path.read_bytes()
    return {member.name: data[member.offset : member.offset + member.size] for member in members}


def test_pictures_are_found_at_their_bytes_in_the_order_of_the_archive(tmp_path: Path) -> None:
    long = "folder/" + "x" * 80 + "/y" * 20 + ".jpeg"
    contents = {"z.webp": b"last in the alphabet", **CONTENTS, long: b"long name"}
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        shard = write_tar(tmp_path / "a.tar", contents, form=form)
        found = index_shard(shard)
        assert [member.name for member in found] == ["z.webp", "0001.jpg", "sub/0002.PNG", long]
        assert read(shard, found) == {member.name: contents[member.name] for member in found}


def test_label_maps_are_no_photos_and_belong_to_the_photo_of_their_sample(tmp_path: Path) -> None:
    ids, colours = io.BytesIO(), io.BytesIO()
    Image.new("L", (4, 4)).save(ids, "PNG")
    Image.new("RGB", (4, 4)).save(colours, "PNG")
    grey, rgb, jpeg = ids.getvalue(), colours.getvalue(), b"any"
    for contents, photos, kinds in (
        ({"1.jpg": jpeg, "1.seg.png": rgb, "1.txt": b""}, {"1.jpg": "1.seg.png"}, {"*.seg.png": 1}),
        ({"a/1.label.tif": grey, "a/1.webp": jpeg}, {"a/1.webp": "a/1.label.tif"}, {"*.label.tif": 1}),
        ({"1.jpg": jpeg, "1.png": grey}, {"1.jpg": "1.png"}, {"*.png": 1}),
        ({"1.jpg": jpeg, "1.png": rgb}, {"1.jpg": None, "1.png": None}, {}),
        ({"x/images/1.png": rgb, "x/labels/1.png": grey}, {"x/images/1.png": "x/labels/1.png"}, {"x/labels/*.png": 1}),
        ({"IMG.2020.1.jpg": jpeg, "IMG.2020.2.jpg": jpeg}, {"IMG.2020.1.jpg": None, "IMG.2020.2.jpg": None}, {}),
        ({"s.day.jpg": jpeg, "s.day.png": grey, "s.night.jpg": jpeg, "s.night.seg.png": rgb},
         {"s.day.jpg": "s.day.png", "s.night.jpg": "s.night.seg.png"}, {"*.day.png": 1, "*.night.seg.png": 1}),
        ({"1.left.jpg": jpeg, "1.right.jpg": jpeg, "1.mask.png": grey}, {"1.left.jpg": None, "1.right.jpg": None},
         {"*.mask.png": 1}),
        ({"1.png": grey, "2.png": grey}, {"1.png": None, "2.png": None}, {}),
    ):  # fmt: skip
        beside: Counter[str] = Counter()
        found = index_shard(write_tar(tmp_path / "a.tar", contents), beside)
        assert {member.name: member.label and member.label.name for member in found} == photos
        assert dict(beside) == kinds
    with pytest.raises(DataError, match=r"no photo in tar shard, only label maps: .*, such as 1\.seg\.png"):
        index_shard(write_tar(tmp_path / "a.tar", {"1.seg.png": grey}))


def test_hidden_members_and_folders_are_no_pictures(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", {"./._1.jpg": b"x", ".cache/2.jpg": b"x", "./3.jpg": b"shown"})
    with tarfile.open(shard, "a") as archive:
        folder = tarfile.TarInfo("folder.jpg")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    assert read(shard, index_shard(shard)) == {"./3.jpg": b"shown"}


def test_a_picture_stored_as_a_link_or_sparse_is_refused(tmp_path: Path) -> None:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            link = tarfile.TarInfo("1.jpg")
            link.type, link.linkname = kind, "2.jpg"
            archive.addfile(link)
        with pytest.raises(DataError, match=r"image in tar shard is a link: .*a\.tar:1\.jpg; pack the files"):
            index_shard(tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        sparse = tarfile.TarInfo("1.jpg")
        sparse.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,4"}
        sparse.pax_headers |= {"GNU.sparse.size": "4096", "GNU.sparse.numblocks": "1"}
        sparse.size = 4
        archive.addfile(sparse, io.BytesIO(b"data"))
    with pytest.raises(DataError, match=r"is no plain file: .*a\.tar:1\.jpg; pack it as one"):
        index_shard(tmp_path / "a.tar")


def test_a_shard_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", CONTENTS, form=tarfile.USTAR_FORMAT)
    data = shard.read_bytes()
    last = index_shard(shard)[-1]
    end = -(-(last.offset + last.size) // 512) * 512
    for length in [*range(0, end + 512, 256), 1, last.offset + 1, end - 1, end + 1]:
        shard.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"tar shard (cannot be read|has no end): .*a\.tar; it is cut short"):
            index_shard(shard)
    shard.write_bytes(data[: end + 512])
    assert index_shard(shard)[-1] == last


def test_damaged_headers_and_appended_archives_do_not_hide_pictures(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", CONTENTS, form=tarfile.USTAR_FORMAT)
    data = shard.read_bytes()
    shard.write_bytes(data[:1024] + b"?" + data[1025:])
    with pytest.raises(DataError, match="tar shard has no end"):
        index_shard(shard)
    shard.write_bytes(data + data)
    with pytest.raises(DataError, match=r"tar shard has something behind its end: .*two archives in one file"):
        index_shard(shard)


def test_compressed_and_foreign_files_are_refused(tmp_path: Path) -> None:
    for name in ("a.tar.gz", "a.TGZ"):
        with pytest.raises(DataError, match=rf"tar shard is compressed: .*{name}; unpack it"):
            index_shard(write_tar(tmp_path / name, CONTENTS, mode="w:gz"))
    with pytest.raises(DataError, match=r"tar shard cannot be read: .*it is cut short, compressed or no tar"):
        index_shard(write_tar(tmp_path / "gzip.tar", CONTENTS, mode="w:gz"))
    (tmp_path / "text.tar").write_text("no archive " * 100)
    with pytest.raises(DataError, match=r"tar shard cannot be read: .*text\.tar"):
        index_shard(tmp_path / "text.tar")
    with pytest.raises(DataError, match=r"tar shard not found: .*none\.tar"):
        index_shard(tmp_path / "none.tar")
    with pytest.raises(DataError, match=r"tar shard cannot be read: .* \(Is a directory\)"):
        index_shard(tmp_path)


def test_a_shard_without_pictures_is_refused(tmp_path: Path) -> None:
    for name, contents in {"texts.tar": {"1.txt": b"x"}, "empty.tar": {}}.items():
        with pytest.raises(DataError, match=rf"no image in tar shard: .*{name}; its members must end in \.jpg"):
            index_shard(write_tar(tmp_path / name, contents))


@given(st.integers(0, 2000), st.integers(0, 30), st.integers(1, 6))
def test_a_span_counts_up_with_as_many_digits_as_its_first_number(first: int, more: int, digits: int) -> None:
    names = expand_braces(f"a-{{{first:0{digits}d}..{first + more}}}.tar")
    assert names == [f"a-{number:0{digits}d}.tar" for number in range(first, first + more + 1)]


def test_several_braces_are_a_product_whose_last_runs_fastest() -> None:
    assert expand_braces("{b,a}/{8..10}.tar") == [f"{folder}/{n}.tar" for folder in "ba" for n in (8, 9, 10)]
    assert expand_braces("a.tar") == ["a.tar"]


def test_a_pattern_that_cannot_be_meant_is_refused() -> None:
    for pattern, message in {
        "{5..3}.tar": "span runs backwards",
        "{0..9": "braces are not in pairs",
        "{a{0..1}}.tar": "braces are not in pairs",
        "{abc}.tar": "no span and no list",
        "{0..9999999999}.tar": "span is too long",
        "{0..9999}{0..9999}.tar": "pattern stands for 100000000 shards",
    }.items():
        with pytest.raises(DataError, match=message):
            expand_braces(pattern)
