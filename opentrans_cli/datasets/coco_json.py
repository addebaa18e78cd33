"""The JSON documents of COCO: which images and categories they list, checked where they are read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from opentrans_cli.datasets.textfile import read_text
from opentrans_cli.errors import DataError

ImageId = int | str
"""A number in COCO, a text in what is converted from Cityscapes."""

T = TypeVar("T")


class Category(NamedTuple):
    """A class as a document of COCO names it."""

    id: int
    name: str
    thing: bool  # whether it consists of objects that are told apart


class ListedImage(NamedTuple):
    """An image as a document of COCO names it."""

    id: ImageId
    file_name: str
    size: tuple[int, int] | None  # height and width in pixels, where both are given


def read_coco(path: Path) -> Any:
    """The document in a JSON file. Raises DataError."""
    text = read_text(path, "COCO file")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"COCO file is no JSON: {path} ({str(error).splitlines()[0]}); write it again") from None


def entries_of(document: Any, name: str, path: Path) -> list[Mapping[str, Any]]:
    """The objects in the list `name` of a document. Raises DataError."""
    found = document.get(name) if isinstance(document, Mapping) else None
    if not isinstance(found, list) or not all(isinstance(entry, Mapping) for entry in found):
        raise DataError(f"COCO file has no list of '{name}': {path}; give one in COCO's format")
    return found


def value(entry: Mapping[str, Any], name: str, kind: type[T], where: str) -> T:
    """The value `name` of an object of the document. Raises DataError if it is missing or of another kind."""
    found = entry.get(name)
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        what = "has no" if found is None else "has a wrong"
        raise DataError(f"COCO file {what} '{name}': {where}; give one in COCO's format")
    return found


def image_id(entry: Mapping[str, Any], name: str, where: str) -> ImageId:
    """The id of an image."""
    return value(entry, name, str, where) if isinstance(entry.get(name), str) else value(entry, name, int, where)


def categories_of(document: Any, path: Path) -> tuple[Category, ...]:
    """The categories in the order of their ids, as class files are read. Raises DataError."""
    found: dict[int, Category] = {}
    for number, entry in enumerate(entries_of(document, "categories", path)):
        where = f"{path}, categories[{number}]"
        category = Category(
            value(entry, "id", int, where), value(entry, "name", str, where), bool(entry.get("isthing", 1))
        )
        if found.setdefault(category.id, category) is not category:
            raise DataError(f"two categories with the id {category.id}: {path}; keep one")
    if not found:
        raise DataError(f"COCO file lists no categories: {path}; add them")
    return tuple(found[number] for number in sorted(found))


def images_of(document: Any, path: Path) -> dict[ImageId, ListedImage]:
    """The images by id. Raises DataError."""
    found: dict[ImageId, ListedImage] = {}
    for number, entry in enumerate(entries_of(document, "images", path)):
        where = f"{path}, images[{number}]"
        height, width = entry.get("height"), entry.get("width")
        size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
        image = ListedImage(image_id(entry, "id", where), value(entry, "file_name", str, where), size)
        if found.setdefault(image.id, image) is not image:
            raise DataError(f"two images with the id {image.id}: {path}; keep one")
    return found


def annotations_of(document: Any, path: Path) -> Iterator[tuple[str, ImageId, Mapping[str, Any]]]:
    """Each annotation with its place in the document, for messages, and the id of its image. Raises DataError."""
    for number, entry in enumerate(entries_of(document, "annotations", path)):
        where = f"{path}, annotations[{number}]"
        yield where, image_id(entry, "image_id", where), entry
