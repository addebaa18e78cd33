"""Copies of a file differ from it in the patched bytes alone."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from opentrans_cli.errors import BundleError
from opentrans_cli.files.slots import (
    Patch,
    Slot,
    c_order,
    checksum,
    decoded,
    edit_slot,
    encoded,
    first_difference,
    patched,
    read_slot,
    safetensors_slots,
)


def copy(data: bytes, patches: list[Patch]) -> bytes:
    return b"".join(patched(io.BytesIO(data), patches, 0, len(data)))


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=6))
def test_what_is_not_patched_stays_and_what_is_patched_is_found(data: bytes, cuts: list[int]) -> None:
    cuts = sorted({min(cut, len(data)) for cut in cuts})
    spans = list(zip(cuts[::2], cuts[1::2], strict=False))
    patches = [Patch(start, end, lambda old: bytes(value ^ 255 for value in old)) for start, end in spans]
    expected = bytearray(data)
    for start, end in spans:
        expected[start:end] = bytes(value ^ 255 for value in data[start:end])
    made = copy(data, patches[::-1])
    assert made == expected
    assert checksum(io.BytesIO(data), patches, 0, len(data)) == zlib.crc32(made)
    assert first_difference(io.BytesIO(data), io.BytesIO(made), patches, len(data)) is None
    changed = first_difference(io.BytesIO(data), io.BytesIO(made), [], len(data))
    assert (changed is None) == (made == data)


def test_patches_that_overlap_or_change_the_length_are_refused() -> None:
    same = Patch(2, 5, bytes)
    for patches in ([same, Patch(4, 6, bytes)], [Patch(0, 9, bytes)], [Patch(1, 2, lambda old: b"xx")]):
        with pytest.raises(ValueError, match="patch"):
            copy(b"12345678", patches)


def test_slots_of_a_safetensors_file_are_its_tensors(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "a": rng.standard_normal((2, 3, 4)).astype(np.float32),
        "half": rng.standard_normal(5).astype(np.float16),
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.float32),
    }
    path = tmp_path / "m.safetensors"
    save_file(tensors, path, {"format": "pt"})
    with path.open("rb") as file:
        slots = safetensors_slots(file, str(path))
        assert slots.keys() == tensors.keys()
        for name, slot in slots.items():
            assert (slot.dtype, slot.shape) == (tensors[name].dtype.name, tensors[name].shape)
            np.testing.assert_array_equal(read_slot(file, slot), tensors[name])
        patch = edit_slot(slots["a"], lambda old: np.where(old > 0, old, np.float32(0)))
        changed = b"".join(patched(file, [patch], 0, path.stat().st_size))
    path.write_bytes(changed)
    after = load_file(path)
    np.testing.assert_array_equal(after.pop("a"), np.maximum(tensors.pop("a"), 0))
    assert all(np.array_equal(after[name], value) for name, value in tensors.items())
    path.write_bytes(changed[:-1])
    with path.open("rb") as file, pytest.raises(BundleError, match="damaged safetensors file"):
        safetensors_slots(file, str(path))


def test_bytes_between_strided_values_stay() -> None:
    data = np.arange(24, dtype=np.float32)
    slot = Slot("float32", (2, 3), 4, (1, 4))  # column by column, in every fourth place
    assert slot.end == 4 + 4 * 10
    made = np.frombuffer(copy(data.tobytes(), [edit_slot(slot, lambda old: -old)]), np.float32)
    expected = data.copy()
    for row in range(2):
        for column in range(3):
            expected[1 + row + 4 * column] *= -1
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_numbers_come_back_from_every_floating_type(dtype: str) -> None:
    values = np.array([[0.0, -1.5, 3.25]], np.float32)
    assert np.array_equal(decoded(encoded(values, dtype), dtype), values)


def test_a_number_too_large_for_the_type_is_refused_and_infinity_is_not() -> None:
    with pytest.raises(OverflowError):
        encoded(np.array([1e6], np.float32), "float16")
    assert np.isinf(encoded(np.array([np.inf], np.float32), "float16")[0])
    assert c_order((2, 3, 4)) == (12, 4, 1) and c_order(()) == ()
