"""What the names, sizes and turns of photos and label maps say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from opentrans_cli.datasets.pairs import Pairing
from opentrans_cli.datasets.scan import Facts
from opentrans_cli.errors import DataError
from opentrans_cli.steps.check.findings import Finding, counted

Named = Sequence[tuple[str, Facts]]
"""Facts of pairs by the name of one of the two files."""


def about_files(pairing: Pairing, facts: Sequence[Facts], images: Path, labels: Path) -> list[Finding]:
    """Findings about files, which are named relative to the folders `images` and `labels`."""
    photos = [(each.pair.photo.relative_to(images).as_posix(), each) for each in facts]
    maps = [(each.pair.label_map.relative_to(labels).as_posix(), each) for each in facts]
    return [
        *_alone(pairing, images, labels),
        *_unreadable((name, each.photo_error) for name, each in photos),
        *_unreadable((name, each.label_map_error) for name, each in maps),
        *_sizes(maps),
        *_turns(photos),
    ]


def _alone(pairing: Pairing, images: Path, labels: Path) -> list[Finding]:
    found = []
    if pairing.photos_alone:
        names = tuple(path.relative_to(images).as_posix() for path in pairing.photos_alone)
        what = counted(len(names), "photo has no label map", "photos have no label map")
        move = f"add label maps to {labels}, or choose photos with --split-list"
        found.append(Finding("photo-alone", "fault", what, move, names))
    if pairing.label_maps_alone:
        names = tuple(path.relative_to(labels).as_posix() for path in pairing.label_maps_alone)
        what = counted(len(names), "label map has no photo", "label maps have no photo")
        move = f"add photos to {images}, or choose photos with --split-list"
        found.append(Finding("label-map-alone", "fault", what, move, names))
    if pairing.same_names:
        names = tuple(map(str, pairing.same_names))
        what = counted(len(names), "file has the name of another", "files have the names of others")
        found.append(
            Finding(
                "same-name",
                "fault",
                what,
                "keep one of a name, or choose a kind with --image-suffix and --label-suffix",
                names,
            )
        )
    return found


def _unreadable(read: Iterable[tuple[str, DataError | None]]) -> list[Finding]:
    """What the loaders say of single files, each reason once."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, error in read:
        if error is not None:
            what, move = str(error).partition(": ")[0], str(error).rpartition("; ")[2]
            reasons.setdefault((what, move), []).append(name)
    return [
        Finding("unreadable", "fault", f"{what}: {counted(len(names), 'file')}", move, tuple(names))
        for (what, move), names in reasons.items()
    ]


def _sizes(maps: Named) -> list[Finding]:
    """Label maps of another size than their upright photos, those apart that have the size of the stored photo."""
    turned, others = [], []
    example = ""
    for name, each in maps:
        if each.photo is None or each.label_map is None or each.fits:
            continue
        if each.label_map.stored == each.photo.stored:
            turned.append(name)
        else:
            others.append(name)
            example = example or f"{_size(each.label_map.stored)} for {_size(each.photo.upright)}"
    found = []
    if turned:
        what = f"EXIF turns the photo and not the label map: {counted(len(turned), 'label map')}"
        move = "turn the label maps like their photos, or take the orientation out of the photos' EXIF"
        found.append(Finding("turned", "fault", what, move, tuple(turned)))
    if others:
        what = counted(len(others), "label map differs", "label maps differ")
        move = "resize the label maps without smoothing (nearest neighbour), or the photos"
        found.append(Finding("size", "fault", f"{what} in size from the photo, such as {example}", move, tuple(others)))
    return found


def _turns(photos: Named) -> list[Finding]:
    """Photos that EXIF turns and whose label maps have the right size."""
    clear: list[str] = []
    unclear: list[str] = []
    for name, each in photos:
        if each.photo is not None and each.fits and each.photo.orientation != 1:
            (unclear if each.photo.upright == each.photo.stored else clear).append(name)
    found = []
    if unclear:
        what = f"{counted(len(unclear), 'photo is', 'photos are')} turned by EXIF; sizes do not say if label maps are"
        found.append(Finding("turned", "warning", what, "look at samples: --out DIR", tuple(unclear)))
    if clear:
        what = f"{counted(len(clear), 'photo is', 'photos are')} turned by EXIF, and the label maps fit"
        found.append(Finding("turned", "note", what, "", tuple(clear)))
    return found


def _size(size: tuple[int, int]) -> str:
    return "x".join(map(str, size))
