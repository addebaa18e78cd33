"""Files in a folder: those that are asked for, and what a user should know of those that are left out."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from opentrans_cli.datasets.label_names import label_maps_among
from opentrans_cli.datasets.suffixes import IMAGE_SUFFIXES, LABEL_SUFFIXES, OTHER_PICTURES
from opentrans_cli.errors import DataError

OUR_RESULTS = {
    "segment.json": {"images", "vocabulary"},
    "manifest.json": {"format", "version", "layers"},
    "check.json": {"findings", "samples"},
}
"""File that marks a folder of our own results -> names that this JSON document has."""

Say = Callable[[str], None]
"""Takes one line that a user should read."""


def unsaid(text: str) -> None:
    """Says nothing."""


def list_images(folder: Path, *, suffix: str | None = None, say: Say = unsaid) -> list[Path]:
    """All images in `folder` and its subfolders, sorted by relative path; hidden files are left out.

    suffix: only those whose names end so ("_leftImg8bit.png"). Label maps beside photos, our own results in subfolders,
    and files that look like pictures and are not read, are left out and said. Raises DataError if the folder is missing
    or holds no image.
    """
    if suffix is not None:
        return _listed(folder, (suffix.lower(),), "image", say)
    return without_label_maps(folder, _listed(folder, IMAGE_SUFFIXES, "image", say), say)


def without_label_maps(folder: Path, images: list[Path], say: Say = unsaid) -> list[Path]:
    """`images` without those that are label maps of others (see `label_maps_among`), which are said."""
    if not any(path.suffix.lower() in LABEL_SUFFIXES for path in images):
        return images
    from opentrans_cli.datasets.images import holds_ids  # Pillow is not light

    names = {path.relative_to(folder).as_posix(): path for path in images}
    found = label_maps_among(list(names), lambda name: holds_ids(names[name]), alone=False)
    for kind, count in sorted(found.kinds.items()):
        say(f"left out, label maps beside the photos: {count} named {kind} in {folder}")
    return [path for name, path in names.items() if name not in found.label_maps]


def list_label_maps(
    folder: Path, *, suffix: str | None = None, kind: str = "label map", say: Say = unsaid
) -> list[Path]:
    """All PNG and TIFF files in `folder` and its subfolders, in the manner of `list_images`; kind: what they are."""
    return _listed(folder, LABEL_SUFFIXES if suffix is None else (suffix.lower(),), kind, say)


def _listed(folder: Path, suffixes: tuple[str, ...], kind: str, say: Say) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{kind} folder not found: {folder}; check the path")
    told: list[str] = []
    found = files_under(folder, suffixes, say=told.append)
    if not found:
        there = f" ({told[0].partition(': ')[2]})" if told else ""
        raise DataError(f"no {kind} in folder: {folder}{there}; it needs files that end in {', '.join(suffixes)}")
    for line in told:
        say(line)
    return found


def files_under(folder: Path, suffixes: tuple[str, ...], *, say: Say = unsaid) -> list[Path]:
    """Files in `folder` and its subfolders whose names end in one of `suffixes`, sorted by relative path; may be empty.

    Hidden files and folders are left out, links to folders are not followed. Subfolders with our own results, and files
    that look like pictures and have another suffix, are left out and said. Raises DataError for a folder that cannot be
    read.
    """
    names: list[str] = []
    results: list[str] = []
    others: Counter[str] = Counter()
    waiting, meant = [""], others_of(suffixes)
    while waiting:
        inside = waiting.pop()
        found, folders, ours = _entries(folder, inside)
        if ours and inside:
            results.append(inside.rstrip("/"))
            continue
        waiting += folders
        for name in found:
            if name.lower().endswith(suffixes):
                names.append(name)
            elif (suffix := os.path.splitext(name)[1].lower()) in meant:
                others[suffix] += 1
    if results:
        more = f" and {len(results) - 3} more" if len(results) > 3 else ""
        say(f"left out, results of an earlier run: {', '.join(sorted(results)[:3])}{more} in {folder}")
    if others:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items(), key=lambda x: (-x[1], x[0])))
        say(f"left out, not of a kind that is read: {counts} in {folder}")
    return [folder / name for name in sorted(names)]


def others_of(suffixes: tuple[str, ...]) -> frozenset[str]:
    """Suffixes that a person may have meant as well; none beyond those that are never read, if one end was named."""
    chosen = not {*suffixes} & {*IMAGE_SUFFIXES} or len(suffixes) == 1
    return OTHER_PICTURES if chosen else OTHER_PICTURES | {*IMAGE_SUFFIXES}


def _entries(folder: Path, inside: str) -> tuple[list[str], list[str], bool]:
    """The files and the folders in a subfolder, by their paths in `folder`, and whether they are results of ours."""
    names: list[str] = []
    folders: list[str] = []
    ours = False
    try:
        # scandir tells files from folders without another disk access, which saves time with a million images.
        with os.scandir(folder / inside) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{inside}{entry.name}/")
                elif entry.is_file():
                    names.append(inside + entry.name)
                    ours = ours or (entry.name in OUR_RESULTS and is_result(Path(entry.path)))
    except OSError as error:
        raise DataError(
            f"folder cannot be read: {folder / inside} ({error.strerror}); check its permissions"
        ) from error
    return names, folders, ours


def is_result(path: Path) -> bool:
    """Whether a JSON file is a report or manifest of this program."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.keys() >= OUR_RESULTS[path.name]
