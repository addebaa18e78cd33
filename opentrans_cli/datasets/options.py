"""The options of data sets and of training crops; few imports, so that `--help` is fast."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from opentrans_cli.datasets.suffixes import IMAGE_SUFFIXES
from opentrans_cli.errors import OptionError, flag, unknown
from opentrans_cli.option import Options, option, seed, shown

SMALLEST_SIZE = 32
"""Smallest scene or crop in pixels: the stride of the towers."""

Split = Literal["train", "val"]

ROOT_VARIABLE = "DETECTRON2_DATASETS"
"""The environment variable that names the root folder where no --root is given, as in detectron2."""

_DATA, _TRAINING, _CROPS = "Data", "Training", "Crops"


def root_folder(*, panel: str | None = None) -> Any:
    """The option that says where published data sets lie."""
    return option(
        None,
        help="root folder under which the published data sets lie",
        kind="path",
        unset=f"`${ROOT_VARIABLE}`",
        panel=panel,
    )


@dataclass(frozen=True, kw_only=True)
class DatasetOptions(Options):
    """The options of a data set; a data set refuses options that it cannot use."""

    split: Split = "train"  # which scenes or images; folder: no effect, `split_list` selects
    root: Path | None = root_folder(panel=_DATA)
    images: Path | None = option(None, help="folder of images, or tar shards with label maps", kind="path", panel=_DATA)
    labels: Path | None = option(
        None,
        help="folder of label maps (PNG) with the same names, or a panoptic JSON of COCO's with its PNGs beside it",
        kind="path",
        panel=_DATA,
    )
    image_suffix: str | None = option(
        None,
        help="end of the names of images; what is before it is the name of the pair, as with _leftImg8bit.png",
        unset="any suffix",
        panel=_DATA,
    )
    label_suffix: str | None = option(
        None,
        help="end of the names of label maps in the same way, such as _gtFine_labelIds.png",
        unset="any suffix",
        panel=_DATA,
    )
    classes: Path | None = option(
        None,
        help="class file: a class on each line, its name and then its synonyms, with commas; or id:name, JSON, a table",
        kind="path",
        panel=_DATA,
    )
    ignore: tuple[int, ...] = option(
        (),
        least=0,
        most=65535,
        help="ids of unlabelled pixels, which are not scored, with commas",
        kind="commas",
        unset="those that the class file calls void, else 255",
        panel=_DATA,
    )
    label_ids: str = option(
        "file",
        help="what label maps hold",
        choices={
            "file": "the ids in the class file, if it writes any",
            "order": "0, 1, ... in the order of the classes",
        },
        noun="kind of label ids",
        panel=_DATA,
    )
    split_list: Path | None = option(
        None, help="text file with the images to use, a stem on each line", kind="path", panel=_DATA
    )
    size: int | None = None  # side of the scenes (shapes) or of the training crops (folder), in pixels
    limit: int | None = option(None, least=1, help="number of images to use, the first ones", unset="all", panel=_DATA)
    skip_bad: bool = option(
        False, help="leave out pictures that cannot be read, are too small or do not fit, and name them", panel=_DATA
    )
    hold_out: tuple[str, ...] = option(
        (), help="class names to leave unlabelled in training, with commas", kind="commas", panel=_DATA
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("image_suffix", "label_suffix"):
            end = getattr(self, name)
            if end is not None and not end.lower().endswith((*IMAGE_SUFFIXES,)):
                raise OptionError(f"no end of a picture's name: {flag(name)} {end}; write the suffix too, as _x.png")
        if self.split not in get_args(Split):
            raise OptionError(unknown("split", self.split, get_args(Split)))
        if self.size is not None and self.size < SMALLEST_SIZE:
            raise OptionError(f"too small to see anything: size {self.size}; use {SMALLEST_SIZE} or more")

    def refuse(self, who: str, *names: str) -> None:
        """Raises OptionError if one of the options `names` is given; who: what cannot use them, up to "has"."""
        given = [each.name for each in fields(self) if each.name in names and getattr(self, each.name) != each.default]
        if given:
            raise OptionError(f"{who} no use for: {', '.join(map(flag, given))}; leave it out")


def dataset_name(name: str | None, data: DatasetOptions) -> str:
    """The data set `name`; by default that of the images, if they are given, else the embedded scenes."""
    if name is not None or data.images is None:
        return name or "shapes"
    return "panoptic" if data.labels is not None and data.labels.suffix.lower() == ".json" else "folder"


@dataclass(frozen=True)
class CropOptions(Options):
    """The options that decide which crops a training run sees and how they form batches."""

    steps: int = option(
        400, least=1, most=10**9, help="optimizer steps, those of the warm-up among them", panel=_TRAINING
    )
    batch_size: int = option(
        16, least=1, most=10**9, help="crops in a step, of all processes together", panel=_TRAINING
    )
    accumulate: int = option(
        1,
        least=1,
        most=10**9,
        help="number of equal parts in which a process computes its share of a batch, for less memory",
        panel=_TRAINING,
    )
    crop: int | None = option(
        None,
        least=SMALLEST_SIZE,
        most=1 << 14,
        help="side of training crops in pixels",
        unset="the data set's",
        panel=_CROPS,
    )
    scale: tuple[float, float] = option(
        (0.75, 1.5),
        above=0,
        most=10,
        help="range of the factor by which images are resized first",
        kind="commas",
        panel=_CROPS,
    )
    scale_of: str = option(
        "image",
        help="what the factor multiplies",
        choices={"image": "the size of the image", "crop": "the size that fits into the crop, large-scale jitter"},
        panel=_CROPS,
    )
    flip: bool = option(True, help="mirror half of the crops, drawn at random", panel=_CROPS)
    views: int = option(
        0,
        least=0,
        most=1 << 26,
        help="number of fixed crops of every image; 0 makes new ones in every epoch",
        panel=_CROPS,
    )
    seed: int = seed()

    def __post_init__(self) -> None:
        """Raises OptionError for a value out of range, an invalid range, or a batch without equal parts."""
        super().__post_init__()
        if len(self.scale) != 2 or self.scale[0] > self.scale[1]:
            raise OptionError(f"not a range: --scale {shown(self.scale)}; give two numbers, the smaller first")
        self.check_shares(1)

    def check_shares(self, processes: int) -> None:
        """Raises OptionError unless a batch divides into equal parts for `processes` processes."""
        parts = processes * self.accumulate
        if self.batch_size % parts:
            raise OptionError(
                f"a batch must divide into equal parts: --batch-size {self.batch_size} by {processes} processes x "
                f"--accumulate {self.accumulate}; use a multiple of {parts}"
            )
