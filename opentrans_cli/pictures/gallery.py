"""A page of labelled pictures: photo, label map, and the classes with their shares."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.pictures.legend import percentage
from opentrans_cli.pictures.overlay import paint
from opentrans_cli.pictures.page import BarCell, ColourCell, Page, PagePicture
from opentrans_cli.pictures.palette import class_colours
from opentrans_cli.pictures.thumbnail import page_picture, small_labels, small_photo
from opentrans_cli.reporter import Advance

MOST_PICTURES = 1000
"""More are not shown, and the page says so: it would no longer open on a phone."""
_SIDES = ((48, 480), (240, 320), (MOST_PICTURES, 192))
"""Up to how many pictures, and the longer side of each in pixels: a page has some 15 MB at most."""
_MOST_CLASSES = 24  # told of each picture

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class GalleryItem:
    """One labelled picture."""

    name: str
    label_map: Path  # one channel of ids
    overlay: Path | None = None  # None: there is none
    photo: Path | None = None  # None: not known
    label_link: str = ""  # address of the whole overlay, or else of the label map
    photo_link: str = ""
    classes: Mapping[str, float] = field(default_factory=dict)  # name -> share of the pixels, in [0, 1]


class GalleryColours:
    """Colours of the classes `names`, by name and by the ids that label maps have.

    The class with the id `background` has none: its pixels stay as they are.
    """

    def __init__(self, names: Sequence[str], ids: Sequence[int], *, background: int | None = None) -> None:
        coloured = [(name, number) for name, number in zip(names, ids, strict=True) if number != background]
        self._rows = class_colours([name for name, _ in coloured])
        self._by_name = {name: row for (name, _), row in zip(coloured, self._rows.tolist(), strict=True)}
        self._index = np.full(max(ids, default=0) + 1, -1)
        self._index[[number for _, number in coloured]] = np.arange(len(coloured))

    def of(self, name: str) -> RGB | None:
        """The colour of a class; None for the background and for a name that is no class."""
        found = self._by_name.get(name)
        return None if found is None else (found[0], found[1], found[2])

    def painted(self, photo: NDArray[np.uint8], ids: NDArray[np.integer], *, alpha: float = 0.55) -> NDArray[np.uint8]:
        """`photo` (H, W, 3) tinted by the class of each pixel, whose `ids` are (H, W)."""
        known = (ids >= 0) & (ids < len(self._index))
        places = np.where(known, self._index[np.where(known, ids, 0)], -1)
        return paint(photo, places, colours=self._rows, alpha=alpha)


def add_gallery(
    page: Page, items: Sequence[GalleryItem], colours: GalleryColours, *, advance: Advance = lambda status: None
) -> tuple[str, ...]:
    """Add `items` to `page`: first all classes with their shares, then a card for each picture, in the order given.

    Every picture leads to its whole file. Returns what could not be shown, one line each.
    """
    _legend(page, items, colours)
    shown = items[:MOST_PICTURES]
    side = side_of(len(shown))
    faults: list[str] = []
    cards = []
    for item in shown:
        pictures: list[PagePicture] = []
        try:
            if (photo := photo_picture(item, side)) is not None:
                pictures.append(photo)
            pictures.append(label_picture(item, colours, side))
        except OSError as error:
            faults.append(f"{item.name}: {error}")
        cards.append((item.name, pictures, _chips(item, colours)))
        advance(item.name)
    page.heading("Pictures")
    if len(shown) < len(items):
        page.note(f"The first {len(shown):,} of {len(items):,} pictures are shown.")
    page.cards(cards)
    return tuple(faults)


def side_of(count: int) -> int:
    """The longer side in pixels of each of `count` pictures on a page."""
    return next((side for most, side in _SIDES if count <= most), _SIDES[-1][1])


def photo_picture(item: GalleryItem, side: int) -> PagePicture | None:
    """The photo; None where it is not known. Raises OSError."""
    if item.photo is None:
        return None
    return page_picture(small_photo(item.photo, side), "photo", alt=f"photo {item.name}", link=item.photo_link)


def label_picture(item: GalleryItem, colours: GalleryColours, side: int, *, caption: str = "labels") -> PagePicture:
    """The photo in the colours of its classes; without the photo the overlay, or else the colours. Raises OSError."""
    shares = ", ".join(f"{name} {percentage(share)}" for name, share in list(item.classes.items())[:_MOST_CLASSES])
    alt = f"{item.name}, labelled: {shares}"
    if item.photo is None and item.overlay is not None:
        # It has a legend beside it, and needs more room.
        return page_picture(small_photo(item.overlay, 2 * side), caption, alt=alt, link=item.label_link)
    if item.photo is None:
        ids = small_labels(item.label_map, side)
        painted = colours.painted(np.full((*ids.shape, 3), 255, np.uint8), ids, alpha=1.0)
    else:
        photo = small_photo(item.photo, side)
        painted = colours.painted(np.asarray(photo), small_labels(item.label_map, photo.size))
    return page_picture(painted, caption, alt=alt, link=item.label_link)


def _legend(page: Page, items: Sequence[GalleryItem], colours: GalleryColours) -> None:
    """The classes that any picture shows, the largest first."""
    shares: defaultdict[str, float] = defaultdict(float)
    holders: defaultdict[str, int] = defaultdict(int)
    for item in items:
        for name, share in item.classes.items():
            shares[name] += share / len(items)
            holders[name] += 1
    page.heading("Classes")
    page.table(
        ["class", "mean share of a picture", "pictures"],
        [
            [ColourCell(name, colours.of(name)), BarCell(percentage(share), share), f"{holders[name]:,}"]
            for name, share in sorted(shares.items(), key=lambda pair: -pair[1])
        ],
    )


def _chips(item: GalleryItem, colours: GalleryColours) -> list[ColourCell]:
    classes = sorted(item.classes.items(), key=lambda pair: -pair[1])
    chips = [ColourCell(f"{name} {percentage(share)}", colours.of(name)) for name, share in classes[:_MOST_CLASSES]]
    if rest := classes[_MOST_CLASSES:]:
        chips.append(ColourCell(f"{len(rest)} more {percentage(sum(share for _, share in rest))}", None))
    return chips
