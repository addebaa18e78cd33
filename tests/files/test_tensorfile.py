"""Tensor files: the library's own bytes, every dtype, bfloat16 by definition, one-line errors for damage."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from opentrans_cli.errors import BundleError
from opentrans_cli.files.tensorfile import (
    from_bfloat16_bits,
    read_metadata,
    read_tensors,
    tensor_headers,
    to_bfloat16_bits,
    write_tensors,
)

DTYPES = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"]
DTYPES += ["bool"]


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    mixed = {f"x.{name}": rng.integers(0, 2, (2, 3)).astype(name) for name in DTYPES}
    return {
        **mixed,
        "é.zero-d": np.array(2.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "minus": np.float32([-0.0]),
    }


def test_bytes_equal_those_of_the_library(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    for metadata in (None, {"b": 1, "a": ["é\n", None, 0.5]}):
        write_tensors(tmp_path / "x.safetensors", tensors, metadata)
        text = json.dumps(metadata, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        reference = safetensors.numpy.save(tensors, None if metadata is None else {"opentrans": text})
        assert (tmp_path / "x.safetensors").read_bytes() == reference


def test_every_dtype_and_shape_comes_back_bit_for_bit(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    write_tensors(tmp_path / "x.safetensors", tensors)
    back = read_tensors(tmp_path / "x.safetensors")
    assert list(back) == sorted(tensors)
    for name, array in tensors.items():
        assert back[name].dtype == array.dtype and back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()
        back[name][...] = 0  # writable
    headers = tensor_headers(tmp_path / "x.safetensors")
    assert headers == {name: (array.dtype.name, array.shape) for name, array in tensors.items()}
    assert read_metadata(tmp_path / "x.safetensors") == {}


def test_order_layout_and_byte_order_of_the_arrays_do_not_change_the_file(tmp_path: Path) -> None:
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(4, dtype=np.float32)
    write_tensors(tmp_path / "one", {"a": a, "b": b}, {"y": 1, "x": 2})
    write_tensors(tmp_path / "two", {"b": b.astype(">f4"), "a": np.asfortranarray(a)}, {"x": 2, "y": 1})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert read_metadata(tmp_path / "two") == {"x": 2, "y": 1}


def test_files_have_the_mode_the_umask_allows(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_tensors(tmp_path / "x", {"a": np.zeros(1)})
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_bfloat16_rounds_to_nearest_and_ties_to_even() -> None:
    # 1 + k/256 lies halfway between two bfloat16 neighbours (spacing 1/128) for odd k.
    values = np.float32([1 + 1 / 256, 1 + 3 / 256, 1 + 1 / 256 + 2**-20, -1 - 1 / 256, 0.0, -0.0, 1e-40])
    expected = np.float32([1, 1 + 1 / 64, 1 + 1 / 128, -1, 0.0, -0.0])
    back = from_bfloat16_bits(to_bfloat16_bits(values))
    assert back[:6].tobytes() == expected.tobytes()
    assert back[6] == pytest.approx(1e-40, rel=0.01)


def test_bfloat16_keeps_infinities_overflows_to_them_and_keeps_nan_nan() -> None:
    largest = np.finfo(np.float32).max
    nans = np.array([0x7F800001, 0xFFFFFFFF, 0x7FFFFFFF], np.uint32).view(np.float32)
    assert from_bfloat16_bits(to_bfloat16_bits(np.float32([np.inf, -np.inf, largest]))).tolist() == [
        np.inf,
        -np.inf,
        np.inf,
    ]
    assert np.isnan(from_bfloat16_bits(to_bfloat16_bits(nans))).all()


def test_bfloat16_error_is_at_most_half_a_unit_in_the_last_place() -> None:
    values = np.random.default_rng(3).standard_normal(5000).astype(np.float32)
    back = from_bfloat16_bits(to_bfloat16_bits(values))
    assert (np.abs(back - values) <= np.abs(values) * 2.0**-8).all()
    assert np.array_equal(to_bfloat16_bits(back), to_bfloat16_bits(values))  # rounding twice changes nothing


def test_bfloat16_tensors_are_stored_as_bf16_and_read_as_float32(tmp_path: Path) -> None:
    values = np.float32([[1.5, -0.0], [3.140625, 2**100]])
    write_tensors(tmp_path / "x", {"a": values, "b": values}, dtypes={"a": "bfloat16"})
    assert tensor_headers(tmp_path / "x") == {"a": ("bfloat16", (2, 2)), "b": ("float32", (2, 2))}
    back = read_tensors(tmp_path / "x")["a"]
    assert back.dtype == np.float32 and back.tobytes() == values.tobytes()


def test_arrays_of_other_types_and_metadata_that_is_not_plain_json_are_refused(tmp_path: Path) -> None:
    for array in (np.zeros(2, np.complex64), np.array(["a"])):
        with pytest.raises(ValueError, match="do not hold"):
            write_tensors(tmp_path / "x", {"a": array})
    for metadata in ({"a": float("nan")}, {"a": np.float32(1)}, {"a": {1, 2}}):
        with pytest.raises(BundleError, match="not plain JSON"):
            write_tensors(tmp_path / "x", {"a": np.zeros(1)}, metadata)
    assert not list(tmp_path.iterdir())


READERS: list[Callable[[Path], object]] = [read_tensors, read_metadata, tensor_headers]
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "a few bytes": lambda data: data[:5],
    "header cut": lambda data: data[:20],
    "data cut": lambda data: data[:-1],
    "trailing byte": lambda data: data + b"\0",
    "header length too large": lambda data: (1 << 60).to_bytes(8, "little") + data[8:],
    "no JSON": lambda data: (14).to_bytes(8, "little") + b"\n\nhello\nworld\n",
    "zip": lambda data: b"PK\x03\x04" + bytes(100),
}


def test_damage_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    """Headers that lie are in tests/hostile."""
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": np.arange(3.0), "b": np.ones(2, bool)})
    sound = path.read_bytes()
    for name, damage in DAMAGE.items():
        path.write_bytes(damage(sound))
        for read in READERS:
            with pytest.raises(BundleError, match=r"damaged .*x.safetensors.*write or download it again") as caught:
                read(path)
            assert "\n" not in str(caught.value), name
    text = b'{"__metadata__":{"opentrans":"[]"}}'
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(BundleError, match="metadata is not a JSON object"):
        read_metadata(path)


def test_what_cannot_be_read_or_written_is_told_in_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        for read in READERS:
            with pytest.raises(BundleError, match="cannot read") as caught:
                read(path)
            assert "\n" not in str(caught.value)
    with pytest.raises(BundleError, match="cannot write"):
        write_tensors(tmp_path / "no" / "x", {"a": np.zeros(1)})
