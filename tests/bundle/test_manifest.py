"""The manifest: every law of the format, broken one at a time, in code and in documents."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from opentrans_cli.bundle.manifest import FileEntry, LayerEntry, Manifest
from opentrans_cli.bundle.store import Bundle
from opentrans_cli.errors import BundleError

Document = dict[str, Any]


@pytest.fixture
def document(bundle: Bundle) -> Document:
    return bundle.manifest.to_json()


def test_a_manifest_equals_the_one_read_from_its_document(bundle: Bundle, document: Document) -> None:
    assert Manifest.from_json(document) == bundle.manifest
    assert document["format"] == "opentrans-bundle" and document["version"] == 1


def test_kept_and_total_are_the_sums_over_layers(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert manifest.total == 21
    assert manifest.kept == sum(int(mask.sum()) for mask in bundle.masks().values())
    assert manifest.achieved_sparsity == pytest.approx(1 - manifest.kept / 21)


def test_a_newer_version_asks_for_an_upgrade_before_anything_else_is_read(document: Document) -> None:
    with pytest.raises(BundleError, match=r"bundle of version 2.*upgrade opentrans"):
        Manifest.from_json({"format": "opentrans-bundle", "version": 2, "unheard": "of"})


def test_other_versions_and_foreign_documents_are_refused_and_told_apart(document: Document) -> None:
    for version in (0, -1, True, "1", 1.0, None):
        with pytest.raises(BundleError, match="manifest is not valid: version"):
            Manifest.from_json({**document, "version": version}, "version of")
    for other in (None, [], "x", {}, {"format": "other"}, {"manifest_version": 3}):
        with pytest.raises(BundleError, match="not the manifest of a bundle"):
            Manifest.from_json(other)


def _set(path: str, value: object) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        *parents, last = (int(part) if part.isdigit() else part for part in path.split("/"))
        place: Any = document
        for part in parents:
            place = place[part]
        place[last] = value

    return change


def _second_step_without_parent(document: Document) -> None:
    document["steps"].append({**document["steps"][0], "parent": None})


BROKEN: dict[str, Callable[[Document], None]] = {
    "target above one": _set("target_sparsity", 1.5),
    "target not finite": _set("target_sparsity", float("nan")),
    "achieved inconsistent": _set("achieved_sparsity", 0.123),
    "no layers": _set("layers", []),
    "shape empty": _set("layers/0/shape", []),
    "shape zero": _set("layers/0/shape", [0, 9]),
    "shape negative": _set("layers/0/shape", [-3, -3]),
    "shape fraction": _set("layers/0/shape", [4.5, 2]),
    "shape huge": _set("layers/0/shape", [2**40]),
    "shape product huge": _set("layers/0/shape", [2**20, 2**20]),
    "shape of nine dimensions": _set("layers/0/shape", [1] * 8 + [9]),
    "total not the product": _set("layers/0/total", 8),
    "kept above total": _set("layers/0/kept", 10),
    "kept negative": _set("layers/0/kept", -1),
    "dtype unknown": _set("layers/0/dtype", "int8"),
    "hash upper case": _set("files/0/sha256", "A" * 64),
    "hash short": _set("files/0/sha256", "0" * 63),
    "size negative": _set("files/0/bytes", -1),
    "size huge": _set("files/0/bytes", 2**41),
    "no mask": lambda document: document.update(
        files=[file for file in document["files"] if file["name"] != "mask.safetensors"]
    ),
    "seed negative": _set("steps/0/seed", -1),
    "parent no digest": _set("steps/0/parent", "abc"),
    "second step without parent": _second_step_without_parent,
    "base digest": _set("base/digest", "md5:00"),
    "preprocess unknown key": _set("base/preprocess/crop", 1),
    "preprocess size": _set("base/preprocess/size", 0),
    "preprocess size of three": _set("base/preprocess/size", [1, 2, 3]),
    "preprocess mean of two": _set("base/preprocess/mean", [0.1, 0.2]),
    "preprocess std zero": _set("base/preprocess/std", [0.1, 0.2, 0]),
    "preprocess mode": _set("base/preprocess/resize_mode", 3),
    "head without segmentor": _set("segmentor", None),
    "no classes": _set("segmentor/classes", []),
    "class without a name": _set("segmentor/classes/0", []),
    "seen not a class": _set("segmentor/seen", ["sea"]),
    "template without place": _set("segmentor/templates", ["a photo"]),
    "template reaching into objects": _set("segmentor/templates", ["{0.__class__} {}"]),
}


def test_a_broken_law_is_one_line_of_error(document: Document) -> None:
    """Fields that are missing, unknown or of another type: `test_schema.py`; names: `tests/hostile`."""
    for name, change in BROKEN.items():
        broken = copy.deepcopy(document)
        change(broken)
        try:
            Manifest.from_json(broken)
        except BundleError as error:
            assert "\n" not in str(error) and "; " in str(error), name
        else:
            pytest.fail(f"{name} is accepted")


def test_bounds_themselves_are_allowed() -> None:
    assert LayerEntry(name="a", shape=(2**33,), dtype="float32", kept=0, total=2**33).total == 2**33
    assert LayerEntry(name="a", shape=(1,), dtype="bfloat16", kept=1, total=1).kept == 1
    assert FileEntry(name="README.md", sha256="0" * 64, bytes=0).bytes == 0
