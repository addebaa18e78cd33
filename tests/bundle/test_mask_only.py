"""A bundle without values: small, whole, and tied to the one it was made from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opentrans_cli.bundle.contents import BundleContents
from opentrans_cli.bundle.mask_only import is_mask_only, write_mask_only
from opentrans_cli.bundle.store import Bundle, open_bundle, write_bundle
from opentrans_cli.bundle.verify.verify import verify_bundle
from opentrans_cli.errors import BundleError

PICTURE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def rich(tmp_path: Path, contents: Callable[..., BundleContents]) -> Bundle:
    """A bundle with everything that a bundle can have."""
    columns: dict[str, Any] = {"alpha": np.array([2.0]), "eigenvalues.conv2": np.array([0.5, 1.5])}
    reports = {
        "reports/eval.json": b"{}\n",
        "reports/prune.json": b"{}\n",
        "reports/a.png": PICTURE,
        "README.md": b"#\n",
    }
    return write_bundle(
        tmp_path / "rich", contents(alpha=(columns, {"layers": ["conv2"], "frozen": []}), reports=reports)
    )


def made(source: Bundle, folder: Path) -> Bundle:
    folder.mkdir()
    return write_mask_only(source, folder)


def test_masks_exponents_and_figures_stay_and_no_values(rich: Bundle, tmp_path: Path) -> None:
    bare = made(rich, tmp_path / "bare")
    names = {path.relative_to(bare.path).as_posix() for path in bare.path.rglob("*") if path.is_file()}
    assert names == {"manifest.json", "mask.safetensors", "alpha.safetensors", "reports/eval.json"}
    for layer, mask in rich.masks().items():
        assert np.array_equal(bare.masks()[layer], mask)
    alpha = bare.alpha()
    assert alpha is not None and list(alpha[0]) == ["alpha"] and alpha[1] == {"layers": ["conv2"], "frozen": []}
    assert bare.manifest.segmentor is None and bare.manifest.layers == rich.manifest.layers


def test_its_history_ends_in_its_parent(rich: Bundle, tmp_path: Path) -> None:
    bare = made(rich, tmp_path / "bare")
    *before, last = bare.manifest.steps
    assert tuple(before) == rich.manifest.steps
    assert (last.verb, last.options, last.parent) == ("push", {"mask_only": True}, rich.digest)
    assert bare.digest != rich.digest


def test_it_is_the_same_every_time_and_nothing_is_left_to_take_away(rich: Bundle, tmp_path: Path) -> None:
    bare, again = made(rich, tmp_path / "a"), made(rich, tmp_path / "b")
    for entry in bare.manifest.files:
        assert (bare.path / entry.name).read_bytes() == (again.path / entry.name).read_bytes()
    assert (bare.path / "manifest.json").read_bytes() == (again.path / "manifest.json").read_bytes()
    assert is_mask_only(bare) and not is_mask_only(rich)


@pytest.mark.parametrize("kind", ["tiny", "segmentor", "trained", "bare"])
def test_it_verifies(
    kind: str, tmp_path: Path, tiny_bundle: Path, tiny_segmentor: Path, nested_bundle: Callable[[str], Path]
) -> None:
    source = {"tiny": tiny_bundle, "segmentor": tiny_segmentor}.get(kind) or nested_bundle(kind)
    bare = made(open_bundle(source), tmp_path / "bare")
    assert [check for check in verify_bundle(bare.path) if not check.ok] == []


def test_a_damaged_bundle_gives_none(rich: Bundle, tmp_path: Path) -> None:
    path = Path(shutil.copytree(rich.path, tmp_path / "damaged"))
    data = bytearray((path / "mask.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "mask.safetensors").write_bytes(data)
    with pytest.raises(BundleError, match="does not match its hash"):
        made(open_bundle(path), tmp_path / "bare")


def test_that_of_rn50_has_at_most_three_megabytes(tmp_path: Path, contents: Callable[..., BundleContents]) -> None:
    """As many layers and prunable weights as RN50 has, and spectra of its size."""
    masks = {f"layer{number}": np.arange(442_560).reshape(-1, 64) % 3 == 0 for number in range(53)}
    columns = {name: np.ones(len(masks)) for name in ("alpha", "xmin", "ks_distance", "standard_error", "log_norm")}
    spectra = {f"eigenvalues.{layer}": np.arange(500.0) for layer in masks}
    without: dict[str, Any] = {"tower": {}, "rounds": None, "head": None, "segmentor": None}
    alpha = ({**columns, **spectra}, {"layers": list(masks)})
    whole = write_bundle(tmp_path / "rn50", contents(masks=masks, alpha=alpha, **without))
    bare = made(whole, tmp_path / "bare")
    assert bare.manifest.total > 23_000_000 and bare.size_bytes <= 3_000_000
