"""What the names, sizes and turns of photos and label maps say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from opentrans_cli.datasets.images import has_ids, open_picture
from opentrans_cli.datasets.options import SMALLEST_SIZE
from opentrans_cli.datasets.pairs import Pairing
from opentrans_cli.datasets.picture_source import Picture
from opentrans_cli.datasets.scan import Facts
from opentrans_cli.errors import DataError, PictureError
from opentrans_cli.steps.check.findings import Finding, Level, counted

Named = Sequence[tuple[str, Facts]]
"""Facts of pairs by the name of one of the two files."""


def short_name(picture: Picture, folder: Path | None) -> str:
    """A picture's path in its folder; in full for one in a tar shard."""
    if folder is None or picture.member is not None:
        return picture.name
    return picture.path.relative_to(folder).as_posix()


def about_files(pairing: Pairing, facts: Sequence[Facts], images: Path, labels: Path | None) -> list[Finding]:
    """Findings about files, which are named relative to the folders `images` and `labels`."""
    photos = [(short_name(each.pair.photo, images), each) for each in facts]
    maps = [(short_name(each.pair.label_map, labels), each) for each in facts]
    return [
        *_alone(pairing, images, labels),
        *_unreadable((name, each.photo_error) for name, each in photos),
        *(_swapped(maps) or _unreadable((name, each.label_map_error) for name, each in maps)),
        *_misfits([(photo, label_map, each) for (photo, each), (label_map, _) in zip(photos, maps, strict=True)]),
        *_turns(photos),
        *(Finding("left-out", "note", remark, "") for remark in pairing.remarks),
    ]


def _alone(pairing: Pairing, images: Path, labels: Path | None) -> list[Finding]:
    found = []
    if pairing.photos_alone:
        names = tuple(short_name(photo, images) for photo in pairing.photos_alone.values())
        what = counted(len(names), "photo has no label map", "photos have no label map")
        move = f"add label maps to {labels or images}, or choose photos with --split-list"
        found.append(Finding("photo-alone", "fault", what, move, names))
    if pairing.label_maps_alone:
        names = tuple(short_name(label_map, labels) for label_map in pairing.label_maps_alone.values())
        what = counted(len(names), "label map has no photo", "label maps have no photo")
        move = f"add photos to {images}, or choose photos with --split-list"
        found.append(Finding("label-map-alone", "fault", what, move, names))
    if pairing.same_names:
        names = tuple(second.name for _, _, second in pairing.same_names)
        what = counted(len(names), "file has the name of another", "files have the names of others")
        move = "keep one of a name, or choose a kind with --image-suffix and --label-suffix"
        found.append(Finding("same-name", "fault", what, move, names))
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


def _swapped(maps: Named) -> list[Finding]:
    """The finding that folders are in the wrong order: no label map has ids, and the first photo has."""
    if not maps or any(each.pixels for _, each in maps):
        return []
    pair = maps[0][1].pair
    try:
        with (
            open_picture(pair.photo.content(), pair.photo.name, "image") as photo,
            open_picture(pair.label_map.content(), pair.label_map.name, "label map") as label_map,
        ):
            if not has_ids(photo) or has_ids(label_map):
                return []
    except PictureError:
        return []
    move = "give the folder of photos first, that of label maps second"
    return [Finding("swapped", "fault", "label maps have colours, and photos have ids", move, tuple(dict(maps)))]


def _misfits(pairs: Sequence[tuple[str, str, Facts]]) -> list[Finding]:
    """Photos that are too small, and label maps of another size than their photos."""
    small = tuple(photo for photo, _, each in pairs if each.photo and min(each.photo.stored) < SMALLEST_SIZE)
    others = [(label_map, each) for photo, label_map, each in pairs if each.error and photo not in small]
    sizes = [(name, each.photo, each.label_map) for name, each in others if each.photo and each.label_map]
    found = []
    if small:
        what = f"{counted(len(small), 'photo is', 'photos are')} smaller than {SMALLEST_SIZE} pixels"
        found.append(Finding("small", "fault", what, "enlarge them, or leave them out", small))
    for _, photo, label_map in sizes[:1]:
        what = counted(len(sizes), "label map differs", "label maps differ")
        what += f" in size from the photo, such as {_size(label_map.stored)} for {_size(photo.upright)}"
        move = "resize the label maps without smoothing (nearest neighbour), or the photos"
        found.append(Finding("size", "fault", what, move, tuple(name for name, _, _ in sizes)))
    return found


def _turns(photos: Named) -> list[Finding]:
    """Photos that EXIF turns, by what sizes say of their label maps."""
    kinds: dict[str, list[str]] = {"clear": [], "stored": [], "unclear": []}
    for name, each in photos:
        if each.photo is None or each.label_map is None or each.photo.orientation == 1 or each.error:
            continue
        if each.turn_unclear:
            kinds["unclear"].append(name)
        else:
            kinds["clear" if each.label_map.stored == each.photo.upright else "stored"].append(name)
    found = []
    texts: tuple[tuple[str, Level, str, str], ...] = (
        ("unclear", "warning", "; sizes do not say if label maps are", "look at samples: --out DIR"),
        ("stored", "note", ", and so will be the label maps, which fit the stored photos", ""),
        ("clear", "note", ", and the label maps fit", ""),
    )
    for kind, level, text, move in texts:
        if names := kinds[kind]:
            what = f"{counted(len(names), 'photo is', 'photos are')} turned by EXIF{text}"
            found.append(Finding("turned", level, what, move, tuple(names)))
    return found


def _size(size: tuple[int, int]) -> str:
    return "x".join(map(str, size))
