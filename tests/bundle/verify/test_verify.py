"""Verification: a sound bundle passes every check, each kind of damage fails the check that is about it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opentrans_cli.bundle.store import Bundle, write_bundle
from opentrans_cli.bundle.verify.verify import verify_bundle
from opentrans_cli.errors import BundleError
from opentrans_cli.files.tensorfile import read_tensors, write_tensors

NAMES = ["manifest", "files", "hashes", "headers", "padding", "mask counts", "value counts", "finite values"]
NAMES += ["rounds", "schema", "steps", "parents"]


def failed(bundle: Bundle) -> set[str]:
    checks = verify_bundle(bundle.path)
    assert all(check.detail and "\n" not in check.detail for check in checks)
    return {check.name for check in checks if not check.ok}


def test_a_sound_bundle_passes_every_check_with_a_count(bundle: Bundle) -> None:
    checks = verify_bundle(bundle.path)
    assert [check.name for check in checks] == NAMES and all(check.ok for check in checks)
    details = {check.name: check.detail for check in checks}
    assert details["mask counts"] == f"{bundle.manifest.kept} of 21 weights kept"
    assert details["value counts"] == f"{bundle.manifest.kept} values, one for every kept weight"
    assert details["steps"] == "1 steps: prune"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_and_mask_only_bundles_pass(tmp_path: Path, contents: Callable[..., Any], dtype: str) -> None:
    half = write_bundle(tmp_path / "half", contents(dtype=dtype))
    bare = write_bundle(tmp_path / "bare", contents(tower={}, rounds=None, head=None, alpha=None))
    assert failed(half) == failed(bare) == set()
    assert "value counts" not in {check.name for check in verify_bundle(bare.path)}


def forge(bundle: Bundle, name: str, change: Callable[[dict[str, np.ndarray]], object], *, hashed: bool = True) -> None:
    """Changes a tensor file; with `hashed` the manifest vouches for the result."""
    tensors = read_tensors(bundle.path / name)
    change(tensors)
    write_tensors(bundle.path / name, tensors)
    data = (bundle.path / name).read_bytes()
    document = json.loads((bundle.path / "manifest.json").read_text())
    for entry in document["files"] if hashed else ():
        if entry["name"] == name:
            entry.update(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    (bundle.path / "manifest.json").write_text(json.dumps(document))


def _xor(layer: str, bits: list[int]) -> Callable[[dict[str, np.ndarray]], object]:
    return lambda tensors: tensors.update({layer: tensors[layer] ^ np.uint8(bits)})


FORGED: dict[str, tuple[str, Callable[[dict[str, np.ndarray]], object], set[str]]] = {
    "mask bit": ("mask.safetensors", _xor("conv2", [1, 0]), {"mask counts", "rounds"}),
    "two mask bits": ("mask.safetensors", lambda t: t.update(conv2=_swap(t["conv2"])), {"rounds"}),
    "padding": ("mask.safetensors", _xor("conv2", [0, 2]), {"padding"}),
    "no value": (
        "weights.safetensors",
        lambda t: t.update({"conv2.weight": t["conv2.weight"][1:]}),
        {"headers", "value counts", "finite values"},
    ),
    "NaN": ("weights.safetensors", lambda t: t.update(extra=np.float64([np.nan])), {"finite values"}),
    "infinite head": ("segmentor.safetensors", lambda t: t.update(x=np.float16([np.inf])), {"finite values"}),
    "round": ("rounds.safetensors", lambda t: t.update(conv2=np.zeros((3, 3), np.uint8)), {"rounds"}),
    "another layer": ("rounds.safetensors", lambda t: t.update(conv9=t["conv2"]), {"headers", "rounds"}),
}


def _swap(bits: np.ndarray) -> np.ndarray:
    """Another mask with as many kept weights: all nine bits moved on by one."""
    return np.packbits(np.roll(np.unpackbits(bits, bitorder="little")[:9], 1), bitorder="little")


@pytest.mark.parametrize("name", FORGED)
def test_what_a_good_hash_hides_is_found_by_the_law_it_breaks(bundle: Bundle, name: str) -> None:
    file, change, expected = FORGED[name]
    forge(bundle, file, change)
    assert failed(bundle) == expected


def test_a_flipped_value_bit_fails_the_hashes_alone(bundle: Bundle) -> None:
    forge(bundle, "weights.safetensors", lambda t: t["bn1.running_var"].__imul__(2), hashed=False)
    assert failed(bundle) == {"hashes"}


def test_a_missing_or_cut_off_file_fails_without_an_exception(bundle: Bundle) -> None:
    path = bundle.path / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert failed(bundle) == {"files", "hashes", "headers", "value counts", "finite values"}
    path.unlink()
    assert failed(bundle) == {"files", "hashes", "headers", "value counts", "finite values"}


def test_a_damaged_manifest_is_one_failed_check(bundle: Bundle) -> None:
    for text in ("", "{}", '{"format": "opentrans-bundle", "version": 9}', "[" * 9999, "null"):
        (bundle.path / "manifest.json").write_text(text)
        checks = verify_bundle(bundle.path)
        assert [(check.name, check.ok) for check in checks] == [("manifest", False)]
        assert "\n" not in checks[0].detail


def test_a_path_that_is_no_bundle_raises(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(BundleError):
            verify_bundle(path)
