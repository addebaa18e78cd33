"""Pickles of arrays give their tensors, and pickles of anything else end in one line without having run."""

from __future__ import annotations

import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from opentrans_cli.checkpoints.numpy_pickle import read_numpy_pickle
from opentrans_cli.errors import SourceError

ARRAYS = {
    "stem.conv1.weight": np.arange(24, dtype="float32").reshape(2, 3, 4),
    "half": np.linspace(0, 1, 5).astype("float16"),
    "counts": np.array([1, 2], dtype="int64"),
    "flags": np.array([True, False]),
    "big endian": np.arange(3, dtype=">f4"),
    "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "scalar": np.array(2.5, dtype="float64"),
    "empty": np.zeros((0, 3), dtype="float32"),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("wrapped", [True, False])
def test_arrays_of_every_protocol_are_read(tmp_path: Path, protocol: int, wrapped: bool):
    content = {"model": OrderedDict(ARRAYS), "__author__": "a", "matching_heuristics": True} if wrapped else ARRAYS
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    tensors = read_numpy_pickle(tmp_path / "zoo.pkl")
    assert tensors.keys() == ARRAYS.keys()
    for key, array in ARRAYS.items():
        expected = torch.from_numpy(np.array(array.astype(array.dtype.newbyteorder("=")), order="C"))
        assert torch.equal(tensors[key], expected) and tensors[key].dtype == expected.dtype, key


def test_values_beside_the_arrays_are_passed_over_and_dicts_joined(tmp_path: Path):
    content = {"model": {"a": {"b": ARRAYS["half"]}, "lr": 0.1, "names": ["x"]}}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps(content))
    assert list(read_numpy_pickle(tmp_path / "zoo.pkl")) == ["a.b"]


class Runs:
    """Unpickled the usual way, it calls `function`."""

    def __init__(self, function, *args) -> None:
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "function", [os.system, eval, exec, np.load, np.frombuffer, np.ndarray, getattr, torch.Size, bytearray]
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_a_pickle_names_is_called(tmp_path: Path, function, protocol: int):
    trace = tmp_path / "trace"
    argument = f"touch {trace}" if function is os.system else f"open({str(trace)!r}, 'w')"
    content = pickle.dumps({"model": {**ARRAYS, "x": Runs(function, argument)}}, protocol=protocol)
    (tmp_path / "zoo.pkl").write_bytes(content)
    with pytest.raises(SourceError, match="refused, the pickle holds more than arrays") as error:
        read_numpy_pickle(tmp_path / "zoo.pkl")
    assert not trace.exists() and "\n" not in str(error.value)


HOSTILE = {
    "array of objects": pickle.dumps({"x": np.array([{}], dtype=object)}),
    "text array": pickle.dumps({"x": np.array(["a"])}),
    "persistent id": b"Pabc\n.",
    "extension code": b"\x82\x01.",
    "instance": b"(i__main__\nRuns\n.",
    "new object": b"\x80\x02cnumpy\ndtype\n)\x81.",
    "state of a dict": b"}}b.",
    "other encoding": b"c_codecs\nencode\n(Vabc\nVbz2\ntR.",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_what_no_weights_need_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "zoo.pkl").write_bytes(content)
    with pytest.raises(SourceError, match="refused"):
        read_numpy_pickle(tmp_path / "zoo.pkl")


def test_a_memo_of_any_size_takes_no_memory(tmp_path: Path):
    body = b"\x80\x02}r" + struct.pack("<I", 2**31) + b"."
    (tmp_path / "zoo.pkl").write_bytes(body)
    with pytest.raises(SourceError, match="no arrays"):
        read_numpy_pickle(tmp_path / "zoo.pkl")


@pytest.mark.parametrize("cut", [1, 40, 200, -3])
def test_a_cut_pickle_is_told_in_one_line(tmp_path: Path, cut: int):
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps({"model": ARRAYS}, protocol=2)[:cut])
    with pytest.raises(SourceError, match=r"cannot read the pickle|refused") as error:
        read_numpy_pickle(tmp_path / "zoo.pkl")
    assert "\n" not in str(error.value)


def test_bytes_that_do_not_fill_the_shape_are_refused(tmp_path: Path):
    whole = pickle.dumps({"x": np.zeros((3, 5), "float32")}, protocol=2)
    assert whole.count(b"K\x03K\x05") == 1
    for shape in (b"K\x03K\x06", b"K\x02K\x05"):
        (tmp_path / "zoo.pkl").write_bytes(whole.replace(b"K\x03K\x05", shape))
        with pytest.raises(SourceError, match="do not fill"):
            read_numpy_pickle(tmp_path / "zoo.pkl")


@pytest.mark.parametrize("seed", range(60))
def test_flipped_bytes_end_in_tensors_or_in_one_line(tmp_path: Path, seed: int):
    rng = np.random.default_rng(seed)
    content = bytearray(pickle.dumps({"model": ARRAYS}, protocol=int(rng.integers(2, 6))))
    for place in rng.integers(0, len(content), 3):
        content[place] = rng.integers(0, 256)
    (tmp_path / "zoo.pkl").write_bytes(bytes(content))
    try:
        tensors = read_numpy_pickle(tmp_path / "zoo.pkl")
    except SourceError as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
