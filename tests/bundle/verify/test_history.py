"""History: parents that agree, frozen tensors that did not move, and forgeries of either that are found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opentrans_cli.bundle.layout import stored_hashes
from opentrans_cli.bundle.manifest import Step
from opentrans_cli.bundle.store import Bundle, BundleContents, add_file, write_bundle
from opentrans_cli.bundle.verify.history import FROZEN_TENSORS
from opentrans_cli.bundle.verify.verify import verify_bundle
from opentrans_cli.files.records import json_bytes

Make = Callable[..., BundleContents]
RECEIPT = {
    "unit": "MACs",
    "forward": 1,
    "input_gradient": 1,
    "weight_gradient": 1,
    "total": 3,
    "dense_total": 3,
    "frozen_layers": ["conv2"],
    "images": 1,
    "resolution": [32, 32],
}


def failed(path: Path, *parents: Path) -> dict[str, str]:
    return {check.name: check.detail for check in verify_bundle(path, parents=parents) if not check.ok}


def tuned(parent: Bundle, path: Path, step: Callable[..., Step], make: Make, **changes: Any) -> Bundle:
    """What fine-tuning `parent` with conv2 frozen leaves: the other tensors moved, its hash in the receipt."""
    given = make(**changes)
    tower = {name: array * 2 if name == "layer1.0.conv1.weight" else array for name, array in given.tower.items()}
    hashes = stored_hashes({"conv2.weight": tower["conv2.weight"]}, {"conv2": given.masks["conv2"]}, given.dtype)
    steps = (*parent.manifest.steps, step("finetune", parent.digest))
    report = {"reports/finetune.json": json_bytes({**RECEIPT, FROZEN_TENSORS: hashes})}
    return write_bundle(path, replace(given, tower=tower, steps=steps, reports=report))


@pytest.fixture
def child(tmp_path: Path, bundle: Bundle, step: Callable[..., Step], contents: Make) -> Bundle:
    return tuned(bundle, tmp_path / "child", step, contents)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_parent_proves_its_digest_and_that_frozen_tensors_are_bit_identical(
    tmp_path: Path, step: Callable[..., Step], contents: Make, dtype: str
) -> None:
    parent = write_bundle(tmp_path / "parent", contents(dtype=dtype))
    child = tuned(parent, tmp_path / "child", step, contents, dtype=dtype)
    checks = verify_bundle(child.path, parents=[parent.path])
    assert all(check.ok for check in checks)
    details = {check.name: check.detail for check in checks}
    assert details["frozen layers"] == "1 frozen tensors as the receipt says"
    assert details["parent"] == (
        f"{parent.digest}, from which step 2 (finetune) started; 1 frozen tensors are bit-identical"
    )


def test_hashes_of_stored_tensors_are_those_of_their_bytes_in_the_file(tmp_path: Path, contents: Make) -> None:
    given = contents(dtype="bfloat16")
    bundle = write_bundle(tmp_path / "b", given)
    data = bundle.read("weights.safetensors")
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    raw = {name: data[8 + length :][slice(*entry["data_offsets"])] for name, entry in header.items()}
    hashes = stored_hashes(given.tower, given.masks, "bfloat16")
    assert hashes == {name: hashlib.sha256(value).hexdigest() for name, value in sorted(raw.items())}


def test_a_frozen_tensor_that_moved_is_found_with_and_without_the_parent(
    tmp_path: Path, bundle: Bundle, step: Callable[..., Step], contents: Make
) -> None:
    moved = {name: array * 2 for name, array in contents().tower.items()}
    child = tuned(bundle, tmp_path / "child", step, contents, tower=moved)
    assert failed(child.path) == {}
    assert "frozen tensor changed since its parent: 'conv2.weight'" in failed(child.path, bundle.path)["parent"]
    path = child.path / "reports" / "finetune.json"
    receipt = json.loads(path.read_text())
    receipt[FROZEN_TENSORS]["conv2.weight"] = "0" * 64
    declare(child, "reports/finetune.json", json_bytes(receipt))
    assert list(failed(child.path)) == ["frozen layers"]


def declare(bundle: Bundle, name: str, data: bytes) -> None:
    """Replace a file, and let the manifest vouch for it."""
    (bundle.path / name).write_bytes(data)
    document = json.loads((bundle.path / "manifest.json").read_text())
    entry = next(entry for entry in document["files"] if entry["name"] == name)
    entry.update(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    (bundle.path / "manifest.json").write_text(json.dumps(document))


def test_a_stranger_a_damaged_parent_and_another_history_are_no_parents(
    tmp_path: Path, bundle: Bundle, child: Bundle, step: Callable[..., Step], contents: Make
) -> None:
    stranger = write_bundle(tmp_path / "stranger", contents(seed=1))
    assert "not a parent of this bundle" in failed(child.path, stranger.path)["parent"]
    assert bundle.digest in failed(child.path, stranger.path)["parent"]
    twin = write_bundle(tmp_path / "twin", contents(steps=(replace(step(), seed=8),)))
    assert twin.digest == bundle.digest
    assert "another history" in failed(child.path, twin.path)["parent"]
    path = bundle.path / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert "parent is not valid" in failed(child.path, bundle.path)["parent"]


def test_several_parents_are_each_judged(
    tmp_path: Path, bundle: Bundle, child: Bundle, step: Callable[..., Step], contents: Make
) -> None:
    steps = (*child.manifest.steps, step("prune", child.digest))
    grandchild = write_bundle(tmp_path / "grandchild", contents(seed=2, base=child.manifest.base, steps=steps))
    checks = [c for c in verify_bundle(grandchild.path, parents=[bundle.path, child.path]) if c.name == "parent"]
    assert [check.ok for check in checks] == [True, True]
    assert [check.detail.partition(", ")[2] for check in checks] == [
        "from which step 2 (finetune) started",
        "from which step 3 (prune) started",
    ]


def test_measurements_name_the_bundle_itself_and_what_follows_names_the_same(
    bundle: Bundle, step: Callable[..., Step], contents: Make, tmp_path: Path
) -> None:
    measured = add_file(bundle, "reports/notes.json", b"{}", step=step("eval"))
    assert failed(measured.path) == {}
    later = contents(seed=0, steps=(*measured.manifest.steps, step("transfer", measured.digest)))
    assert failed(write_bundle(tmp_path / "later", later).path) == {}
    broken = contents(steps=(*measured.manifest.steps, step("transfer", "sha256:" + "1" * 64)))
    detail = failed(write_bundle(tmp_path / "broken", broken).path)["parents"]
    assert detail.startswith("history is broken: step 2 (eval) measured")
    swapped = contents(seed=3, steps=measured.manifest.steps)
    assert list(failed(write_bundle(tmp_path / "swapped", swapped).path)) == ["parents"]


def test_a_parent_of_masks_alone_proves_its_digest_only(
    tmp_path: Path, step: Callable[..., Step], contents: Make
) -> None:
    bare = write_bundle(tmp_path / "bare", contents(tower={}, head=None, segmentor=None))
    child = tuned(bare, tmp_path / "child", step, contents)
    checks = {check.name: check for check in verify_bundle(child.path, parents=[bare.path])}
    assert checks["parent"].ok and "masks alone" in checks["parent"].detail


def test_reports_are_judged_by_their_names(bundle: Bundle, step: Callable[..., Step]) -> None:
    own = add_file(bundle, "reports/notes.json", b'{"miou": 2}', step=step("eval"))
    assert failed(own.path) == {}
    measured = add_file(own, "reports/eval-shapes.json", b'{"miou": 2}', step=step("eval"))
    assert "reports/eval-shapes.json is not a valid eval report" in failed(measured.path)["schema"]
