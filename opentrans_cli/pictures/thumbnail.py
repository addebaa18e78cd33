"""Small copies of pictures for a page."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from opentrans_cli.pictures.page import PagePicture

Size = tuple[int, int]


def small_photo(path: Path, side: int) -> Image.Image:
    """The picture in a file, upright, in RGB, reduced until its longer side has at most `side` pixels.

    A JPEG is decoded at a fraction of its size where that will do. Raises OSError for what is no picture.
    """
    try:
        with Image.open(path) as picture:
            picture.draft("RGB", (2 * side, 2 * side))
            upright = ImageOps.exif_transpose(picture)
            reduced = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's other words for a damaged file
        raise OSError(str(error)) from error
    reduced.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2)
    if reduced.mode == "RGBA":
        white = Image.new("RGBA", reduced.size, "white")
        reduced = Image.alpha_composite(white, reduced).convert("RGB")
    return reduced


def small_labels(path: Path, size: Size | int) -> NDArray[np.integer]:
    """The ids in a label map of one channel, (H, W), at the `size` (width, height), or reduced until its longer side
    has at most `size` pixels. Raises OSError.
    """
    try:
        with Image.open(path) as picture:
            if isinstance(size, int):
                scale = min(1.0, size / max(picture.size))
                size = max(1, round(scale * picture.width)), max(1, round(scale * picture.height))
            return np.asarray(picture.resize(size, Image.Resampling.NEAREST))
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise OSError(str(error)) from error


def page_picture(
    picture: Image.Image | NDArray[np.uint8], caption: str, *, alt: str = "", link: str = ""
) -> PagePicture:
    """`picture`, PIL or uint8 (H, W, 3), for a page, as WebP: a third smaller than JPEG, and read by every browser."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    content = io.BytesIO()
    image.save(content, "WEBP", quality=78, method=2)
    return PagePicture(content.getvalue(), caption, alt, image.size, link)
