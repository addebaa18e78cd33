"""A pickle is read as data: what it names is described, and nothing of it is imported or called."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opentrans_cli.checkpoints.pickle_data import Array, Unknown, read_pickle
from opentrans_cli.checkpoints.reader import open_checkpoint
from opentrans_cli.errors import SourceError


class Runs:
    """Unpickled the usual way, it calls `function`."""

    def __init__(self, function, *args) -> None:
        self.call = function, args

    def __reduce__(self):
        return self.call


FUNCTIONS = (os.system, eval, exec, np.load, np.frombuffer, np.ndarray, getattr, setattr, bytearray, torch.load, print)


def test_nothing_a_pickle_names_is_called_and_the_tensors_beside_it_are_read(tmp_path, capsys):
    trace = tmp_path / "trace"
    for function in FUNCTIONS:
        argument = f"touch {trace}" if function is os.system else f"open({str(trace)!r}, 'w')"
        content = {"model": {"a": np.ones(2), "x": Runs(function, argument)}, "y": Runs(function, argument)}
        for protocol in (0, 2, 4):
            (tmp_path / "code.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
            assert list(open_checkpoint(tmp_path / "code.pkl").tensors) == ["a"]
        torch.save({"a": torch.ones(2), "x": Runs(function, argument)}, tmp_path / "code.pth")
        assert list(open_checkpoint(tmp_path / "code.pth").tensors) == ["a"]
    assert not trace.exists() and capsys.readouterr().out == ""


def test_no_module_is_imported():
    before = set(sys.modules)
    assert read_pickle(io.BytesIO(b"\x80\x02}X\x01\x00\x00\x00acantigravity\nfly\n)Rs."))["a"].name == "antigravity.fly"
    assert set(sys.modules) == before


HOSTILE = {
    "persistent id": b"Pabc\n.",
    "extension code": b"\x82\x01.",
    "a call of a number": b"K\x01)R.",
    "a class of a dict": b"})\x81.",
    "a call of a class on the stack": b"(}o.",
    "other encoding": b"c_codecs\nencode\n(Vabc\nVbz2\ntR.",
    "bytes of a number": b"c__builtin__\nbytes\n(I99999999999\ntR.",
    "a tensor of nothing": b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x01))tR.",
    "endless bytes": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"a.",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_what_no_weights_need_is_an_error(tmp_path: Path, content: bytes):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02" + content)
    with pytest.raises(SourceError, match=r"cannot read the checkpoint|no tensors") as error:
        open_checkpoint(tmp_path / "a.pkl")
    assert "\n" not in str(error.value)


def test_attributes_set_on_known_names_change_nothing(tmp_path):
    """A name is a value of its own here: its attributes cannot be set for the next file."""
    poison = b"ctorch._utils\n_rebuild_tensor_v2\n(N}X\x04\x00\x00\x00textX\x01\x00\x00\x00as"
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02" + poison + b"X\x08\x00\x00\x00__call__Nstb0.")
    with contextlib.suppress(SourceError):
        open_checkpoint(tmp_path / "a.pkl")
    torch.save({"a": torch.ones(2)}, tmp_path / "b.pth")
    assert torch.equal(open_checkpoint(tmp_path / "b.pth").read("a"), torch.ones(2))


def test_a_memo_of_any_size_takes_no_memory():
    assert read_pickle(io.BytesIO(b"\x80\x02}r" + struct.pack("<I", 2**31) + b".")) == {}


def test_an_unknown_object_keeps_what_it_was_given_and_what_is_in_it():
    class Box(dict):
        pass

    box = Box(a=np.ones(2))
    box.note = "kept"
    sys.modules[__name__].Box, Box.__qualname__ = Box, "Box"
    read = read_pickle(io.BytesIO(pickle.dumps([box, np.float32(2)], 2)))
    assert isinstance(read[0], Unknown) and read[0].name.endswith(".Box") and read[0].state == {"note": "kept"}
    assert isinstance(read[0].entries["a"], Array) and read[0].entries["a"].described().shape == (2,)
    assert isinstance(read[1], Unknown)


@given(st.binary(max_size=80), st.integers(0, 400), st.integers(0, 255), st.integers(0, 5))
def test_damaged_pickles_end_in_tensors_or_in_one_line(tmp_path_factory, noise, place, byte, protocol):
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    content = {"a": [1, 2.5, (None, True)], "b": {"c": "text"}, "w": np.ones(2), "x": Runs(print, 1)}
    good = bytearray(pickle.dumps(content, protocol))
    good[place % len(good)] = byte
    for data in (noise, bytes(good), bytes(good[: place % len(good)])):
        path.write_bytes(b"\x80" + data[1:])
        try:
            opened = open_checkpoint(path)
        except SourceError as error:
            assert "\n" not in str(error)
        else:
            assert opened.tensors
