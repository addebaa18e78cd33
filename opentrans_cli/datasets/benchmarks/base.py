"""What a benchmark is: classes with ids, layouts of its files, and what its label maps hold. A description, no code:

    CITYSCAPES = BenchmarkSet(
        "cityscapes",
        title="Cityscapes, fine annotations",
        download="https://www.cityscapes-dataset.com/downloads/",
        layouts=(
            DiskLayout(
                "labelIds, as downloaded",
                downloaded=True,
                homes=("cityscapes", ""),                      # folders under the root, of which the first is taken
                images="leftImg8bit/{split}",                  # {split} is what `splits` says, here "train" or "val"
                labels="gtFine/{split}",
                image_suffix="_leftImg8bit.png",
                label_suffix="_gtFine_labelIds.png",
                coding=IdCoding(ignored=(0, 1, 2, 3, 255)),    # ids are those of the class list, these are unlabelled
            ),
            ...                                                # other layouts; the first that is whole is read
        ),
    )

The class list is `assets/class_lists/NAME.txt`, `id:name` on each line with the ids of the data set's own files.
`raw` names what of the official download cannot be read as it is, and has to be converted by `datasets prepare`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from opentrans_cli.datasets.benchmarks.raw import RawDownload
from opentrans_cli.datasets.options import Split


@dataclass(frozen=True)
class IdCoding:
    """What the pixels of label maps hold.

    ids "listed": class with id i of the class list is i + `shift`; "counted": classes are 0, 1, ... in their order, and
    so they are read from COCO's panoptic PNGs; or the id of each class. ignored: ids of unlabelled pixels. bits: 16
    where 8 do not hold all ids; files of 8 bits are then refused, since ids were lost in them.
    """

    ids: Literal["listed", "counted"] | tuple[int, ...] = "listed"
    shift: int = 0
    ignored: tuple[int, ...] = (255,)
    bits: Literal[8, 16] = 8


COUNTED = IdCoding("counted")
"""0, 1, ... in the order of the classes, 255 = unlabelled: what detectron2's and mmsegmentation's converters write."""

COUNTED_16 = IdCoding("counted", ignored=(65535,), bits=16)
"""The same with 16 bits, for more than 255 classes."""


@dataclass(frozen=True, kw_only=True)
class DiskLayout:
    """One way in which the files of a benchmark lie under the root. Paths are in one of `homes`, with "/" between.

    images, labels, listed, panoptic: folders and files, in which {split} stands for the word of `splits`.
    """

    name: str = field(kw_only=False)
    homes: tuple[str, ...]  # folders under the root, "" = the root itself
    images: str  # folder of photos
    labels: str  # folder of label maps, or with `panoptic` of PNGs of segment ids
    coding: IdCoding = IdCoding()
    image_suffix: str | None = None  # the ends of names, what is before them is the name of the pair; None: any suffix
    label_suffix: str | None = None
    listed: str | None = None  # text file with the names of the split's images; None: all in the folder
    twin: DiskLayout | None = None  # what another program writes under the same names: its label maps tell it apart
    panoptic: str | None = None  # COCO's JSON file about the PNGs, whose category ids are those of the class list
    downloaded: bool = False  # it is what the owners give away, unpacked; others were made of that
    splits: Mapping[Split, str] = field(default_factory=lambda: {"train": "train", "val": "val"})

    def at(self, path: str, split: Split) -> str:
        """One of the paths above, for a split."""
        return path.format(split=self.splits[split])

    def parts(self, split: Split) -> tuple[str, ...]:
        """The folders and files of a split, relative to the home."""
        named = (self.images, self.labels, self.listed, self.panoptic)
        return tuple(self.at(path, split) for path in named if path is not None)


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """How `datasets prepare` writes a benchmark in another layout.

    name: what --layout calls it. target: one of the layouts. photos: they are written too, as links where nothing
    changes, and all goes into the first home of the layout; else label maps are written beside the photos. shorter: the
    side in pixels to which larger pictures are shrunk. raw: lists the pictures of a download that no layout describes;
    it takes the root and the split, and returns None if the download is not there. Without it, and where it is not
    there, another layout is read.
    """

    name: str = field(kw_only=False)
    target: DiskLayout = field(kw_only=False)
    label_suffix: str = ".png"
    photos: bool = False
    shorter: int | None = None
    raw: Callable[[Path, Split], RawDownload | None] | None = None


@dataclass(frozen=True, kw_only=True)
class BenchmarkFacts:
    """What is known of a published data set."""

    name: str = field(kw_only=False)  # in the table `DATASETS`
    title: str  # what it is, for people
    download: str  # address of the page where its owners give it away
    layouts: tuple[DiskLayout, ...]  # in the order in which they are looked for
    class_list: str | None = None  # name of the class list; None: that of the data set
    without: tuple[str, ...] = ()  # classes of the list whose pixels are unlabelled here
    things: frozenset[int] | None = None  # ids, in the class list, of classes of objects; None: not told apart
    conversions: tuple[Conversion, ...] = ()  # what `datasets prepare` writes; the first unless told otherwise
    raw: tuple[str, ...] = ()  # what lies under the root after the official download and has to be converted
