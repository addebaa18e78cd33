"""The annotations of PASCAL in Detail: one JSON file with run lengths of every class in every picture of VOC 2010.

`trainval_merged.json` is how the field gets the 59 classes of PASCAL Context, and the split of its pictures.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.images import Shape
from opentrans_cli.datasets.options import Split
from opentrans_cli.datasets.run_lengths import decode_run_lengths
from opentrans_cli.errors import DataError, PictureError

_KIND = "PASCAL in Detail file"


@dataclass(frozen=True)
class DetailPicture:
    """What the file says of one picture."""

    file: str  # the photo, in the folder of the photos
    split: Split
    shape: Shape
    regions: tuple[tuple[int, dict[str, Any]], ...]  # category id and COCO's run lengths, in the order of drawing

    def category_ids(self) -> NDArray[np.int64]:
        """The category of each pixel, int64 (H, W), 0 = none; of regions that overlap, the last one counts.

        Raises PictureError for run lengths that do not fit the picture.
        """
        drawn = np.zeros(self.shape, np.int64)
        for category, lengths in self.regions:
            try:
                region = decode_run_lengths(lengths)
                if region.shape != self.shape:
                    raise ValueError(f"size {region.shape}, not {self.shape}")
            except ValueError as error:
                what = f"{self.file}, category {category} in the {_KIND}"
                raise PictureError(f"a region cannot be read: {what} ({error}); download the file again") from error
            drawn[region] = category
        return drawn


def read_detail(path: Path) -> tuple[DetailPicture, ...]:
    """The pictures of the file by name; it takes several times its size in memory. Raises DataError."""
    try:
        document = json.loads(path.read_bytes())
        regions: defaultdict[int, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
        for each in document["annos_segmentation"]:
            regions[each["image_id"]].append((int(each["category_id"]), each["segmentation"]))
        pictures = [
            DetailPicture(
                str(each["file_name"]),
                each["phase"],
                (int(each["height"]), int(each["width"])),
                tuple(regions[each["image_id"]]),
            )
            for each in document["images"]
            if each["phase"] in ("train", "val")
        ]
    except OSError as error:
        raise DataError(f"{_KIND} cannot be read: {path}, {error.strerror}; check the path") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{_KIND} is damaged: {path} ({error}); download it again") from error
    except (KeyError, TypeError) as error:
        what = "'images' with phases and 'annos_segmentation'"
        raise DataError(f"{_KIND} lacks {what}: {path}; give trainval_merged.json") from error
    return tuple(sorted(pictures, key=lambda picture: picture.file))
