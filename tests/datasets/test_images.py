"""Pictures and label maps survive the disk; what cannot be trusted is refused."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from opentrans_cli.datasets.images import (
    decode_image,
    look_at,
    read_image,
    read_label_map,
    resize_image,
    resize_label_map,
    turned_as,
    write_label_map,
)
from opentrans_cli.errors import DataError, PictureError

CORNERS = np.array([[[250, 0, 0], [0, 250, 0]], [[0, 0, 250], [90, 90, 90]], [[9, 9, 9], [200, 0, 200]]], np.uint8)


def grey_png(rows: list[bytes], *, width: int, bits: int) -> bytes:
    """A grey PNG written by hand, since Pillow writes none of 2 or 4 bits."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, len(rows), bits, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_picture_is_read_as_rgb(tmp_path: Path) -> None:
    Image.fromarray(CORNERS).save(tmp_path / "x.png")
    image = read_image(tmp_path / "x.png")
    assert image.dtype == np.uint8
    assert image.flags.writeable
    assert np.array_equal(image, CORNERS)


def test_a_picture_of_any_mode_is_read_as_a_person_sees_it(tmp_path: Path) -> None:
    """Against the colours that were stored; a JPEG may differ by a little."""
    seen = np.repeat(np.repeat(CORNERS, 16, axis=0), 16, axis=1)
    picture = Image.fromarray(seen)
    grey = np.repeat(np.asarray(picture.convert("L"))[..., None], 3, axis=2)
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(picture, to_lab)
    assert lab is not None
    half = np.where(np.arange(48)[:, None] < 24, 255, 0) * np.ones((1, 32), int)
    for name, stored, expected, far in (
        ("cmyk.jpg", picture.convert("CMYK"), seen, 12),  # with Adobe's marker, by which its inks are inverted
        ("cmyk.tif", picture.convert("CMYK"), seen, 0),
        ("ycbcr.jpg", picture, seen, 12),
        ("lab.tif", lab, seen, 30),  # 8 bits a channel hold colours as far from each other as this
        ("palette.png", picture.quantize(16), seen, 0),
        ("palette.bmp", picture.quantize(16), seen, 0),
        ("grey.png", picture.convert("L"), grey, 0),
        ("grey.jpg", picture.convert("L"), grey, 6),
        ("grey-alpha.png", picture.convert("LA"), grey, 0),
        ("deep.png", Image.fromarray(grey[..., 0].astype(np.uint16) * 257), grey, 0),
        ("deep.tif", Image.fromarray(grey[..., 0].astype(np.int32) * 257), grey, 0),
        ("bilevel.png", Image.fromarray(half > 0), np.repeat(half[..., None], 3, axis=2), 0),
    ):
        stored.save(tmp_path / name, **({"quality": 100, "subsampling": 0} if name.endswith(".jpg") else {}))
        image = read_image(tmp_path / name)
        assert image.shape == expected.shape and image.dtype == np.uint8, name
        assert np.abs(image.astype(int) - expected).max() <= far, name
    assert b"Adobe" in (tmp_path / "cmyk.jpg").read_bytes()[:40]


def test_a_photo_taken_sideways_is_turned_upright(tmp_path: Path) -> None:
    for orientation, turns in {1: 0, 6: -1, 3: 2, 8: 1}.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(CORNERS).save(tmp_path / "x.png", exif=exif)
        assert np.array_equal(read_image(tmp_path / "x.png"), np.rot90(CORNERS, turns))


def test_transparent_parts_become_white(tmp_path: Path) -> None:
    alpha = np.array([[255, 0], [255, 255], [0, 255]], np.uint8)
    Image.fromarray(np.dstack([CORNERS, alpha])).save(tmp_path / "x.png")
    assert np.array_equal(read_image(tmp_path / "x.png"), np.where(alpha[..., None] > 0, CORNERS, 255))
    palette = Image.fromarray(np.array([[0, 1]], np.uint8))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "p.png", transparency=b"\x00\xff")
    assert read_image(tmp_path / "p.png").tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_deep_grey_keeps_its_brightness(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16)).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png").tolist() == [[[0] * 3, [100] * 3, [255] * 3]]


def test_files_that_are_no_whole_picture_are_refused_by_name(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for suffix in ("jpg", "png", "webp", "tif", "bmp"):
        path = tmp_path / f"x.{suffix}"
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(DataError, match=rf"image cannot be read: .*x\.{suffix}; it is damaged"):
            read_image(path)
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(DataError, match=r"text\.png; it is damaged or no picture, replace it"):
        read_image(tmp_path / "text.png")
    with pytest.raises(DataError, match=r"image not found: .*gone\.png"):
        read_image(tmp_path / "gone.png")


def test_pictures_that_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    for width in (10_000, 60_000):  # Pillow warns about the first and refuses the second
        path = tmp_path / f"{width}.png"
        path.write_bytes(grey_png([], width=width, bits=8)[:16] + struct.pack(">II", width, 10_000) + b"\x08\0\0\0\0")
        data = path.read_bytes()
        path.write_bytes(data + struct.pack(">I", zlib.crc32(data[12:])) + grey_png([], width=1, bits=8)[33:])
        with pytest.raises(DataError, match=r"image has more than \d+ pixels: .*; make it smaller first"):
            read_image(path)


def test_float_pictures_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match="image has float pixels"):
        read_image(tmp_path / "x.tif")
    with pytest.raises(DataError, match=r"label map has float pixels: .*; save the ids as grey PNG"):
        read_label_map(tmp_path / "x.tif")


def test_colours_for_ids_are_refused_and_equal_channels_told_apart(tmp_path: Path) -> None:
    ids = np.array([[0, 1], [2, 3]], np.uint8)
    for channels, told in (([ids, ids, ids], "equal channels, not one"), ([ids, ids, 9 * ids], "colours, not ids")):
        Image.fromarray(np.stack(channels, axis=-1)).save(tmp_path / "x.png")
        with pytest.raises(DataError, match=f"label map has {told}: .*RGB"):
            read_label_map(tmp_path / "x.png")


def test_a_written_label_map_is_read_back_and_each_id_has_its_colour_or_black(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for count in (3, 256, 300):
        ids = rng.integers(0, count, (31, 17))
        ids[0, 0] = 255 if count <= 256 else 65535
        write_label_map(tmp_path / "x.png", ids, rng.integers(0, 256, (count, 3), dtype=np.uint8))
        read = read_label_map(tmp_path / "x.png")
        assert read.dtype == np.int64 and np.array_equal(read, ids)
    write_label_map(tmp_path / "x.png", np.array([[0, 1, 255]]), np.array([[1, 2, 3], [4, 5, 6]], np.uint8))
    assert np.asarray(Image.open(tmp_path / "x.png").convert("RGB")).tolist() == [[[1, 2, 3], [4, 5, 6], [0, 0, 0]]]


def test_ids_that_do_not_fit_are_a_mistake_of_the_program(tmp_path: Path) -> None:
    for ids in (np.array([[-1]]), np.array([[256]]), np.array([1])):
        with pytest.raises(ValueError, match="does not fit"):
            write_label_map(tmp_path / "x.png", ids, np.zeros((3, 3), np.uint8))


def test_grey_and_bilevel_files_hold_ids_as_they_are(tmp_path: Path) -> None:
    ids = np.array([[0, 7, 255]])
    Image.fromarray(ids.astype(np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(ids.astype(np.uint16) * 200).save(tmp_path / "deep.tif")
    Image.fromarray(ids > 0).save(tmp_path / "one.png")
    assert np.array_equal(read_label_map(tmp_path / "grey.png"), ids)
    assert np.array_equal(read_label_map(tmp_path / "deep.tif"), ids * 200)
    assert np.array_equal(read_label_map(tmp_path / "one.png"), [[0, 1, 1]])


def test_grey_files_of_few_bits_are_not_stretched_and_colours_are_refused(tmp_path: Path) -> None:
    for bits, row, ids in ((2, b"\x1b", [0, 1, 2, 3]), (4, b"\x01\x9f", [0, 1, 9, 15])):
        (tmp_path / "x.png").write_bytes(grey_png([row], width=4, bits=bits))
        assert read_label_map(tmp_path / "x.png").tolist() == [ids]
    Image.fromarray(CORNERS).save(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"has colours, not ids: .*x\.png \(RGB\); save a palette or grey PNG") as told:
        read_label_map(tmp_path / "x.png")
    known = {"np": np, "rgb": CORNERS, "COLOURS": CORNERS.reshape(-1, 3)[:2].tolist()}
    ids = eval(str(told.value).rpartition(", of ")[2], known)  # the line that it gives
    Image.fromarray(ids).save(tmp_path / "x.png")
    assert read_label_map(tmp_path / "x.png").ravel()[:2].tolist() == [0, 1] and ids.max() == 255
    Image.fromarray(CORNERS).save(tmp_path / "x-panoptic.png")
    with pytest.raises(DataError, match=r"panoptic PNG, of segment ids r \+ 256 g \+ 65536 b: .*; save a grey PNG"):
        read_label_map(tmp_path / "x-panoptic.png")
    Image.merge("RGB", [Image.new("L", (3, 2), 7)] * 3).save(tmp_path / "grey.png")
    with pytest.raises(DataError, match="equal channels") as told:
        read_label_map(tmp_path / "grey.png")
    exec(str(told.value).rpartition(", as ")[2], {"Image": Image, "f": tmp_path / "grey.png"})
    assert (read_label_map(tmp_path / "grey.png") == 7).all()


def test_resized_label_maps_hold_no_new_ids_and_agree_with_pillow() -> None:
    ids = np.random.default_rng(0).integers(0, 300, (13, 29))
    for shape in ((26, 58), (13, 29), (5, 7), (40, 11)):
        resized = resize_label_map(ids, shape)
        wanted = Image.fromarray(ids.astype(np.int32)).resize(shape[::-1], Image.Resampling.NEAREST)
        assert resized.shape == shape
        assert np.array_equal(resized, np.asarray(wanted))


def test_a_resized_image_has_the_wanted_height_and_width() -> None:
    image = np.full((10, 20, 3), 77, np.uint8)
    for method in ("bicubic", "bilinear"):
        resized = resize_image(image, (5, 40), method=method)  # type: ignore[arg-type]
        assert resized.shape == (5, 40, 3)
        assert (resized == 77).all()


def test_a_jpeg_shrinks_by_halves_while_both_sides_stay_large_enough(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(96), np.arange(160)).astype(np.uint8)
    for suffix in ("jpg", "png"):
        Image.fromarray(np.dstack([smooth] * 3)).save(tmp_path / f"x.{suffix}")
    for shrink_to, shape in {None: (96, 160), 49: (96, 160), 48: (48, 80), 24: (24, 40), 1: (12, 20)}.items():
        small = read_image(tmp_path / "x.jpg", shrink_to=shrink_to)
        assert small.shape[:2] == shape
        resized = resize_image(read_image(tmp_path / "x.jpg"), shape)
        assert np.abs(small.astype(int) - resized).max() <= 6
        assert read_image(tmp_path / "x.png", shrink_to=shrink_to).shape[:2] == (96, 160)


def test_a_look_at_a_file_finds_what_is_cut_short_and_no_harm_in_what_is_behind_its_end(tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    for suffix in (".jpg", ".png", ".bmp", ".webp"):
        path = tmp_path / f"a{suffix}"
        picture.save(path)
        data = path.read_bytes()
        look_at(path)
        path.write_bytes(data + b"more")
        look_at(path)
        for length in range(0, len(data), 97) if suffix in (".jpg", ".png") else ():
            path.write_bytes(data[:length])
            try:
                read_image(path)
            except PictureError as error:
                with pytest.raises(PictureError, match=re.escape(str(error))):
                    look_at(path)
            else:
                look_at(path)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(PictureError, match=r"image is of a kind that is not read: .*a\.heic; save it as JPEG or PNG"):
        look_at(tmp_path / "a.heic")


def test_the_content_of_a_file_reads_like_the_file_and_errors_have_the_given_name(tmp_path: Path) -> None:
    Image.fromarray(CORNERS).save(tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    assert np.array_equal(decode_image(data, "any"), CORNERS)
    with pytest.raises(DataError, match=r"image cannot be read: a\.tar:1\.png; it is damaged"):
        decode_image(data[:-30], "a.tar:1.png")


def test_a_label_map_drawn_on_the_stored_photo_is_turned_as_the_photo_is(tmp_path: Path) -> None:
    stored = np.arange(48, dtype=np.uint8).reshape(6, 8)
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        Image.fromarray(stored).save(tmp_path / "x.png", exif=exif)
        turned = turned_as(tmp_path / "x.png", "x", stored.astype(np.int64))
        upright = read_image(tmp_path / "x.png")[..., 0]
        if turn < 5:  # sizes cannot say whether the label map is turned as well
            assert turned is None
        else:
            assert turned is not None
            assert np.array_equal(turned, upright)
        assert turned_as(tmp_path / "x.png", "x", np.zeros((5, 8), np.int64)) is None
