"""Pictures and label maps on disk, and their sizes in memory."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from opentrans_cli.datasets.suffixes import OTHER_PICTURES
from opentrans_cli.errors import PictureError

Shape = tuple[int, int]

ORIENTATION = 0x0112  # the tag of EXIF
_QUARTER_TURNS: dict[int, Callable[[NDArray[np.int64]], NDArray[np.int64]]] = {
    5: lambda stored: stored.T,
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].T,
    8: lambda stored: np.rot90(stored),
}

_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"\0\0\0\0IEND\xaeB`\x82"}  # the last bytes of a whole file

_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# Pillow stretches grey pixels of 2 and 4 bits to 0..255, which would turn id 1 into 85 or 17.
_STRETCHED = {"L;2": 85, "L;4": 17}


def read_image(path: Path, *, shrink_to: int | None = None) -> NDArray[np.uint8]:
    """The picture in `path` as uint8 (H, W, 3) RGB, upright as its EXIF orientation says.

    Transparent parts become white, 16-bit grey is reduced to 8 bits. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size,
    which is much faster, as long as both sides stay at least `shrink_to` pixels (None: never). Raises DataError if the
    file is damaged, is not a picture, or is too large.
    """
    return _rgb(path, str(path), shrink_to)


def decode_image(data: bytes, name: str, *, shrink_to: int | None = None) -> NDArray[np.uint8]:
    """Like `read_image`, from a file's content; `name` names it in messages."""
    return _rgb(io.BytesIO(data), name, shrink_to)


def _rgb(source: Path | io.BytesIO, name: str, shrink_to: int | None) -> NDArray[np.uint8]:
    with open_picture(source, name, "image") as opened:
        if shrink_to is not None:
            opened.draft(None, (shrink_to, shrink_to))  # has an effect on JPEG only
        image: Image.Image = ImageOps.exif_transpose(opened)
        if image.mode == "F":
            raise PictureError(f"image has float pixels: {name}; save it with 8 bits a channel")
        if image.mode.startswith("I"):
            deep = np.asarray(image).astype(np.int64)
            if deep.min() < 0 or deep.max() > 65535:
                raise PictureError(f"image has more than 16 bits a pixel: {name}; save it with 8 bits a channel")
            image = Image.fromarray((deep // 257).astype(np.uint8))
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.array(image.convert("RGB"), dtype=np.uint8)


def look_at(path: Path) -> None:
    """Find out in about a millisecond whether a picture is there, is one, and is whole. Raises PictureError.

    A JPEG or PNG without its end mark is decoded, since some programs write something behind it. Damage in the middle
    of a file is seen by `read_image` alone.
    """
    with open_picture(path, str(path), "image") as opened:
        kind = opened.format
    end = _ENDS.get(kind or "")
    if end is not None:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - len(end)))
            whole = file.read() == end
        if not whole:
            read_image(path, shrink_to=1)


def read_label_map(path: Path) -> NDArray[np.int64]:
    """The ids in `path` as int64 (H, W): indices of a palette image, or values of a grey one (1 to 16 bits).

    Raises DataError for colour images, whose ids would have to be guessed, and for damaged files.
    """
    return decode_label_map(path, str(path))


def decode_label_map(source: Path | io.BytesIO, name: str) -> NDArray[np.int64]:
    """Like `read_label_map`, from a file or its content; `name` names it in messages."""
    return stored_ids(source, name, "label map").astype(np.int64)


def stored_ids(source: Path | io.BytesIO, name: str, kind: str) -> NDArray[np.integer]:
    """The ids (H, W) of a "label map" or "prediction" as the file holds them: uint8, uint16 or int32.

    Raises PictureError as `read_label_map` does.
    """
    with open_picture(source, name, kind) as opened:
        if not has_ids(opened):
            raise PictureError(_without_ids(opened, name, kind))
        coding = opened.tile[0][3] if opened.tile else None
        coding = coding[0] if isinstance(coding, tuple) else coding
        ids = np.array(opened)
        ids = ids.astype(np.uint8 if ids.dtype == bool else ids.dtype.newbyteorder("="), copy=False)
        return ids // _STRETCHED[coding] if coding in _STRETCHED else ids


class IdHeader(NamedTuple):
    """What a file of ids says before any pixel is decoded."""

    width: int  # in pixels
    height: int
    bits: Literal[8, 16]  # at most so many for an id


def id_header(source: Path | io.BytesIO, name: str, kind: str) -> IdHeader:
    """The header of a "label map" or "prediction". Raises PictureError for what is no picture or holds no ids."""
    with open_picture(source, name, kind) as opened:
        if not has_ids(opened):
            raise PictureError(_without_ids(opened, name, kind))
        return IdHeader(*opened.size, 16 if opened.mode.startswith("I") else 8)


def _without_ids(opened: Image.Image, name: str, kind: str) -> str:
    """Why a picture is no label map, and what to do."""
    if opened.mode == "F":
        return f"{kind} has float pixels: {name}; save the ids as grey PNG"
    red, green, blue = (np.asarray(channel) for channel in opened.convert("RGB").split())
    if (red == green).all() and (green == blue).all():
        move = "save one of them as grey PNG, as Image.open(f).convert('RGB').getchannel(0).save(f)"
        return f"{kind} has equal channels, not one: {name} ({opened.mode}); {move}"
    if any("panoptic" in part.casefold() for part in Path(name).parts[-2:]):
        what = f"{kind} is a panoptic PNG, of segment ids r + 256 g + 65536 b: {name}"
        return f"{what}; save a grey PNG with the category_id of each segment, which the JSON file beside it tells"
    move = "np.select([(rgb == c).all(-1) for c in COLOURS], range(len(COLOURS)), 255).astype('uint8')"
    return f"{kind} has colours, not ids: {name} ({opened.mode}); save a palette or grey PNG, of {move}"


def has_ids(picture: Image.Image) -> bool:
    """Whether the pixels of a picture are single numbers, and so may be ids."""
    return picture.mode in ("1", "L", "P") or picture.mode.startswith("I")


def holds_ids(source: Path | io.BytesIO) -> bool:
    """Whether a picture can be opened and `has_ids`; what is wrong with another is said when it is read."""
    try:
        with Image.open(source) as opened:
            return has_ids(opened)
    except (*_DAMAGED, Image.DecompressionBombError):
        return False


def turned_as(source: Path | io.BytesIO, name: str, label_map: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """`label_map` (H, W) turned by the EXIF orientation of a photo, if it has the size of the photo's stored pixels.

    None if it has another size, or if the photo is not turned by a quarter: then sizes say nothing about a turn.
    """
    with open_picture(source, name, "image") as opened:
        turn = _QUARTER_TURNS.get(opened.getexif().get(ORIENTATION, 1))
        if turn is None or opened.size != label_map.shape[::-1]:
            return None
        return np.ascontiguousarray(turn(label_map))


@contextmanager
def picture_warnings() -> Iterator[None]:
    """Inside, a picture that is too large is an error, and what Pillow remarks on damaged ones is not printed: it is
    said when their pixels are read. Threads share such filters, so hold this as long as several of them read.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@contextmanager
def open_picture(source: Path | io.BytesIO, name: str, kind: str) -> Iterator[ImageFile.ImageFile]:
    """A picture whose pixels are not decoded yet. What Pillow says against it becomes a PictureError."""
    try:
        with picture_warnings(), Image.open(source) as opened:
            yield opened
    except FileNotFoundError:
        raise PictureError(f"{kind} not found: {name}; check the path") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = Image.MAX_IMAGE_PIXELS
        raise PictureError(f"{kind} has more than {limit} pixels: {name}; make it smaller first") from error
    except _DAMAGED as error:
        suffix = os.path.splitext(name)[1].lower()
        if suffix in OTHER_PICTURES:
            raise PictureError(f"{kind} is of a kind that is not read: {name}; save it as JPEG or PNG") from error
        raise PictureError(f"{kind} cannot be read: {name}; it is damaged or no picture, replace it") from error


def write_label_map(path: Path, label_map: NDArray[np.integer], palette: NDArray[np.uint8]) -> None:
    """Write ids (H, W) as a PNG that `read_label_map` reads back.

    Up to 256 colours in `palette` (N, 3): a palette PNG in which id i has colour i and further ids are black.
    More: a 16-bit grey PNG without colours. ValueError if an id does not fit.
    """
    indexed = len(palette) <= 256
    if label_map.ndim != 2 or label_map.min() < 0 or label_map.max() > (255 if indexed else 65535):
        raise ValueError(f"a label map of shape {label_map.shape} and these ids does not fit into the file")
    if indexed:
        image = Image.fromarray(label_map.astype(np.uint8))
        image.putpalette(palette.astype(np.uint8).tobytes() + bytes(3 * (256 - len(palette))))
    else:
        image = Image.fromarray(label_map.astype(np.uint16))
    save_png(path, image)


def save_png(path: Path | IO[bytes], image: Image.Image) -> None:
    """Write a PNG in a third of Pillow's usual time, and one of areas of one colour in a tenth of it; the files are of
    nearly the same size.
    """
    image.save(path, format="PNG", compress_type=zlib.Z_RLE)


def resize_image(
    image: NDArray[np.uint8], shape: Shape, *, method: Literal["bicubic", "bilinear"] = "bicubic"
) -> NDArray[np.uint8]:
    """`image` (H, W, 3) resized to `shape` (height, width), antialiased when it shrinks."""
    height, width = shape
    return np.array(Image.fromarray(image).resize((width, height), _RESAMPLING[method]))


def resize_label_map(label_map: NDArray[np.int64], shape: Shape) -> NDArray[np.int64]:
    """`label_map` (H, W) resized to `shape` (height, width); each pixel takes the id at its centre."""
    height, width = shape
    image = Image.fromarray(label_map.astype(np.int32))
    return np.asarray(image.resize((width, height), Image.Resampling.NEAREST), dtype=np.int64)
