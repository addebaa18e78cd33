"""Two subnets side by side: counts are those of the masks, chance is that of random masks, values those stored."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opentrans_cli.bundle.compare import Overlap, compare_subnets
from opentrans_cli.bundle.store import Bundle, BundleContents, open_bundle, write_bundle
from opentrans_cli.errors import BundleError
from opentrans_cli.files.tensorfile import to_bfloat16_bits

Write = Callable[..., Bundle]


@pytest.fixture
def write(tmp_path: Path, contents: Callable[..., BundleContents]) -> Write:
    """A bundle with these masks (and values) on a base of 1, 2, 3, ...; without weights if `values` is False."""
    numbers = itertools.count()

    def make(masks: dict[str, np.ndarray], *, dtype: str = "float32", values: Any = True) -> Bundle:
        tower = {
            f"{layer}.weight": np.where(mask, np.float32(values) * np.arange(1, mask.size + 1).reshape(mask.shape), 0)
            for layer, mask in masks.items()
        }
        tower = {name: array.astype(np.float32) for name, array in tower.items()} if values is not False else {}
        bare = contents(masks=masks, tower=tower, dtype=dtype, rounds=None, head=None, segmentor=None, alpha=None)
        return write_bundle(tmp_path / str(next(numbers)), bare)

    return make


def masks(seed: int, share: float = 0.5, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {layer: rng.random(shape) < share for layer, shape in (shapes or {"a": (5, 7), "b": (4, 3, 3, 3)}).items()}


def test_counts_are_those_of_the_masks_layer_by_layer_and_together(write: Write) -> None:
    one, two = masks(0), masks(1, 0.8)
    found = compare_subnets(write(one), write(two))
    assert list(found.layers) == ["a", "b"] and found.nested is None
    for name, layer in found.layers.items():
        both, either = (one[name] & two[name]).sum(), (one[name] | two[name]).sum()
        assert (layer.kept_a, layer.kept_b) == (one[name].sum(), two[name].sum())
        assert (layer.both, layer.total) == (both, one[name].size) and layer.jaccard == both / either
    whole = found.all_layers
    for count in ("total", "kept_a", "kept_b", "both", "both_by_chance"):
        assert getattr(whole, count) == sum(getattr(layer, count) for layer in found.layers.values())


def test_random_masks_have_the_overlap_of_chance(write: Write) -> None:
    shape = (100, 200)
    layer = compare_subnets(write(masks(0, 0.3, a=shape)), write(masks(1, 0.6, a=shape))).layers["a"]
    assert layer.jaccard == pytest.approx(layer.jaccard_by_chance, abs=0.01)
    assert layer.both_by_chance == pytest.approx(0.3 * 0.6 * 20_000, rel=0.03)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 50), st.data())
def test_indices_lie_in_zero_to_one_and_equal_masks_have_one(total: int, data: Any) -> None:
    kept_a, kept_b = data.draw(st.integers(0, total)), data.draw(st.integers(0, total))
    both = data.draw(st.integers(max(0, kept_a + kept_b - total), min(kept_a, kept_b)))
    layer = Overlap(total, kept_a, kept_b, both, kept_a * kept_b / total)
    assert 0 <= layer.jaccard <= 1 and 0 <= layer.jaccard_by_chance <= 1
    assert (layer.jaccard == 1) == (kept_a == kept_b == both)


def test_a_mask_inside_another_is_told(write: Write) -> None:
    for first, second, nested in ((0.5, 0.5, "equal"), (0.2, 0.5, "a_in_b"), (0.5, 0.2, "b_in_a")):
        assert compare_subnets(write(masks(0, first)), write(masks(0, second))).nested == nested


def test_values_are_compared_where_both_keep_the_weight(write: Write) -> None:
    one, two = masks(0), masks(1, 0.8)
    found = compare_subnets(write(one), write(two, values=1.5))
    for name, layer in found.layers.items():
        places = np.flatnonzero(one[name] & two[name]) + 1
        assert layer.max_difference == pytest.approx(0.5 * places.max())
        assert layer.differing == layer.both > 0 and layer.share_differing == 1
    assert found.all_layers.max_difference == max(layer.max_difference or 0 for layer in found.layers.values())
    same = compare_subnets(write(one), write(two)).all_layers
    assert (same.max_difference, same.differing, same.share_differing) == (0.0, 0, 0.0)


def test_values_of_other_dtypes_are_compared_as_numbers(write: Write) -> None:
    mask = {"a": np.ones((30, 20), bool)}
    found = compare_subnets(write(mask), write(mask, dtype="bfloat16")).layers["a"]
    dense = np.arange(1, 601, dtype=np.float32)
    rounded = (to_bfloat16_bits(dense).astype(np.uint32) << 16).view(np.float32)
    assert found.max_difference == np.abs(dense - rounded).max() > 0
    assert found.differing == (dense != rounded).sum()


def test_without_weights_on_one_side_masks_alone_are_compared(write: Write) -> None:
    found = compare_subnets(write(masks(0)), write(masks(1), values=False))
    assert found.all_layers.max_difference is None and found.all_layers.share_differing is None
    assert found.all_layers.both > 0


def test_layers_of_one_side_and_of_other_shapes_are_listed(write: Write) -> None:
    one = masks(0, a=(5, 7), b=(3, 3), c=(2, 2))
    two = masks(0, c=(2, 2), d=(3, 3), b=(3, 4))
    found = compare_subnets(write(one), write(two))
    assert (list(found.layers), found.only_a, found.only_b, found.other_shape) == (["c"], ("a",), ("d",), ("b",))


def test_nothing_kept_on_either_side_is_the_same_mask(write: Write) -> None:
    nothing = {"a": np.zeros((4, 4), bool)}
    found = compare_subnets(write(nothing), write(nothing))
    layer = found.layers["a"]
    assert (found.nested, layer.jaccard, layer.jaccard_by_chance, layer.max_difference) == ("equal", 1, 1, 0.0)


@pytest.mark.parametrize("file", ["mask.safetensors", "weights.safetensors"])
def test_a_damaged_file_is_refused(write: Write, file: str) -> None:
    sound, damaged = write(masks(0)), write(masks(1))
    path = damaged.path / file
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for pair in ((sound, damaged), (damaged, sound)):
        with pytest.raises(BundleError, match=rf"{file} does not match its hash.*{damaged.path.name}"):
            compare_subnets(*pair)


def test_a_value_that_is_no_number_is_refused_by_name(write: Write) -> None:
    sound, broken = write(masks(0)), write(masks(0))
    path = broken.path / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-4:] = np.float32("nan").tobytes()
    path.write_bytes(data)
    entry = broken.manifest.file("weights.safetensors")
    assert entry is not None
    files = [file for file in broken.manifest.files if file != entry]
    changed = replace(entry, sha256=hashlib.sha256(data).hexdigest())
    forged = Bundle(broken.path, replace(broken.manifest, files=(*files, changed)))
    with pytest.raises(BundleError, match=rf"NaN or infinite values: 'b.weight' in .*{broken.path.name}'"):
        compare_subnets(sound, forged)


def test_the_golden_bundle_equals_itself() -> None:
    bundle = open_bundle(Path(__file__).parents[1] / "golden" / "bundle-v1")
    found = compare_subnets(bundle, bundle)
    assert found.nested == "equal" and found.all_layers.jaccard == 1
    assert (found.all_layers.both, found.all_layers.max_difference) == (11, 0.0)
