"""Bundles that must be refused: damaged folders at opening, damaged and forged tensors at reading."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from opentrans_cli.bundle.manifest import FileEntry
from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.errors import BundleError
from opentrans_cli.files.tensorfile import read_tensors, write_tensors


def edit_manifest(bundle: Bundle, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle.path / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


# --- opening


def _lfs(bundle: Bundle) -> None:
    (bundle.path / "weights.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")


def _link_out(name: str) -> Callable[[Bundle], None]:
    def change(bundle: Bundle) -> None:
        outside = bundle.path.parent / "outside"
        shutil.move(bundle.path / name, outside)
        (bundle.path / name).symlink_to(outside)

    return change


def _extra(name: str) -> Callable[[Bundle], object]:
    return lambda bundle: (bundle.path / name).write_bytes(b"x")


UNOPENABLE: dict[str, tuple[Callable[[Bundle], object], str]] = {
    "no folder": (lambda b: shutil.rmtree(b.path), "no such bundle"),
    "no manifest": (lambda b: (b.path / "manifest.json").unlink(), "not a bundle: .*opentrans prune"),
    "manifest cut off": (
        lambda b: (b.path / "manifest.json").write_bytes((b.path / "manifest.json").read_bytes()[:100]),
        "not readable as JSON",
    ),
    "manifest of another tool": (lambda b: (b.path / "manifest.json").write_text("{}"), "not the manifest"),
    "newer version": (lambda b: edit_manifest(b, lambda d: d.update(version=2)), "upgrade opentrans"),
    "weights missing": (
        lambda b: (b.path / "weights.safetensors").unlink(),
        "is missing: .*weights.safetensors",
    ),
    "weights cut off": (
        lambda b: (b.path / "weights.safetensors").write_bytes(b"123"),
        "wrong size: .*weights.safetensors",
    ),
    "git lfs pointer": (_lfs, "git lfs pull"),
    "undeclared tensors": (_extra("model.safetensors"), "undeclared file"),
    "undeclared pickle": (_extra("reports/model.PT"), "undeclared file"),
    "link out": (_link_out("mask.safetensors"), "link leaves the bundle"),
    "manifest linked out": (_link_out("manifest.json"), "link leaves the bundle"),
    "reports linked out": (_link_out("reports"), "link leaves the bundle"),
    "a folder in place of a file": (
        lambda b: ((b.path / "README.md").unlink(), (b.path / "README.md").mkdir()),
        "is missing: .*README.md",
    ),
}


@pytest.mark.parametrize("name", UNOPENABLE)
def test_a_damaged_folder_is_refused_at_opening_in_one_line(bundle: Bundle, name: str) -> None:
    change, message = UNOPENABLE[name]
    change(bundle)
    with pytest.raises(BundleError, match=message) as caught:
        open_bundle(bundle.path)
    assert "\n" not in str(caught.value)


def test_a_huge_manifest_is_refused_unread(bundle: Bundle) -> None:
    with (bundle.path / "manifest.json").open("r+b") as file:
        file.truncate(33 << 20)
    with pytest.raises(BundleError, match="too large"):
        open_bundle(bundle.path)


def test_harmless_extra_files_and_links_inside_are_allowed(bundle: Bundle) -> None:
    (bundle.path / "notes.txt").write_text("hello")
    (bundle.path / "again.txt").symlink_to("notes.txt")
    assert open_bundle(bundle.path).digest == bundle.digest


# --- reading


READERS: dict[str, Callable[[Bundle], object]] = {
    "mask.safetensors": Bundle.masks,
    "weights.safetensors": Bundle.tower,
    "rounds.safetensors": Bundle.rounds,
    "segmentor.safetensors": Bundle.head,
    "alpha.safetensors": Bundle.alpha,
    "reports/eval.json": lambda bundle: bundle.read("reports/eval.json"),
}


@pytest.mark.parametrize("name", READERS)
def test_a_flipped_bit_anywhere_in_a_file_is_an_error(bundle: Bundle, name: str) -> None:
    path = bundle.path / name
    data = path.read_bytes()
    for place in sorted({0, 3, 8, 20, len(data) // 2, len(data) - 2, len(data) - 1}):
        if place >= len(data):
            continue
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(BundleError) as caught:
            READERS[name](open_bundle(bundle.path))
        assert "\n" not in str(caught.value)
    path.write_bytes(data)
    READERS[name](open_bundle(bundle.path))


def test_a_flipped_data_bit_names_file_and_hash(bundle: Bundle) -> None:
    path = bundle.path / "mask.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"mask.safetensors does not match its hash: .*write or download"):
        open_bundle(bundle.path).masks()


def forge(bundle: Bundle, name: str, tensors: dict[str, np.ndarray]) -> Bundle:
    """Replaces a tensor file and makes the manifest vouch for it, as a forger would."""
    entry = FileEntry(name, *write_tensors(bundle.path / name, tensors))

    def change(document: dict[str, Any]) -> None:
        document["files"] = [entry.to_json() if f["name"] == name else f for f in document["files"]]

    edit_manifest(bundle, change)
    return open_bundle(bundle.path)


FORGED: dict[str, tuple[str, Callable[[dict[str, np.ndarray]], object], str]] = {
    "mask of fewer bits": ("mask.safetensors", lambda t: t.update({"conv2": t["conv2"][:1]}), "disagrees"),
    "mask of another type": (
        "mask.safetensors",
        lambda t: t.update({"conv2": t["conv2"].view(np.int8)}),
        "disagrees",
    ),
    "mask of another layer": ("mask.safetensors", lambda t: t.update({"conv3": t["conv2"]}), "'conv3'"),
    "mask lacks a layer": ("mask.safetensors", lambda t: t.pop("conv2"), "is missing: 'conv2'"),
    "mask bit moved": (
        "mask.safetensors",
        lambda t: t.update({"conv2": t["conv2"] ^ np.uint8([1, 0])}),
        "mask keeps",
    ),
    "padding bit": (
        "mask.safetensors",
        lambda t: t.update({"conv2": t["conv2"] | np.uint8([0, 128])}),
        "padding",
    ),
    "one value less": (
        "weights.safetensors",
        lambda t: t.update({"conv2.weight": t["conv2.weight"][1:]}),
        "disagrees",
    ),
    "NaN": ("weights.safetensors", lambda t: t.update({"bn1.running_var": np.float32([np.nan])}), "NaN"),
    "rounds of another shape": (
        "rounds.safetensors",
        lambda t: t.update({"conv2": t["conv2"][:2]}),
        "disagrees",
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_tensors_that_disagree_with_the_manifest_are_refused_even_with_a_good_hash(bundle: Bundle, name: str) -> None:
    file, change, message = FORGED[name]
    tensors = dict(read_tensors(bundle.path / file))
    change(tensors)
    forged = forge(bundle, file, tensors)
    with pytest.raises(BundleError, match=message) as caught:
        READERS[file](forged)
    assert "\n" not in str(caught.value)


def test_a_declared_giant_layer_reserves_no_memory(bundle: Bundle) -> None:
    def change(document: dict[str, Any]) -> None:
        document["layers"][0].update(shape=[2**16, 2**16], total=2**32, kept=2**32)
        total = sum(layer["total"] for layer in document["layers"])
        document["achieved_sparsity"] = 1 - sum(layer["kept"] for layer in document["layers"]) / total

    edit_manifest(bundle, change)
    tracemalloc.start()
    try:
        for read in (Bundle.masks, Bundle.tower, Bundle.rounds):
            with pytest.raises(BundleError, match="disagrees with the manifest"):
                read(open_bundle(bundle.path))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
