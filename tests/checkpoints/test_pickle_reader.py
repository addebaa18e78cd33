"""A pickle of torch.save is read as data: what it says about tensors is right, and all else is left to torch."""

from __future__ import annotations

import collections
import contextlib
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opentrans_cli.checkpoints import torch_slots as module
from opentrans_cli.checkpoints.pickle_reader import Described, UnknownPickle, read_pickle
from opentrans_cli.checkpoints.torch_slots import mapped_slots, torch_slots
from opentrans_cli.errors import SourceError


def saved_pickle(value, path):
    torch.save(value, path)
    with zipfile.ZipFile(path) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def test_what_torch_saves_is_described_as_it_is(tmp_path):
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    value = {
        "model": layer.state_dict(),  # an OrderedDict with attributes
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "view": torch.arange(12.0).view(3, 4)[:, 1],
        "types": [torch.zeros(2, dtype=dtype) for dtype in (torch.bfloat16, torch.int8, torch.bool, torch.float64)],
        "plain": {"lr": 0.1, "steps": 10**12, "none": None, "flags": (True, False), "size": torch.Size([1, 2])},
    }
    read = read_pickle(saved_pickle(value, tmp_path / "m.pth"))
    assert read["plain"] == {**value["plain"], "size": (1, 2)}
    assert [entry.dtype for entry in read["types"]] == ["bfloat16", "int8", "bool", "float64"]
    assert (read["view"].offset, read["view"].shape, read["view"].strides) == (1, (3,), (4,))
    for key, tensor in value["model"].items():
        entry = read["model"][key]
        assert isinstance(entry, Described)
        assert (entry.shape, entry.strides) == (tuple(tensor.shape), tuple(tensor.stride()))


def test_torch_and_the_reader_find_the_same_places(tmp_path):
    torch.manual_seed(0)
    model = {"a": torch.randn(3, 4), "b": torch.randn(8).half()[2:], "c": torch.zeros(0), "d": torch.tensor(3)}
    torch.save({"model": model, "optimizer": {"m": torch.randn(3, 4)}, "epoch": 1}, tmp_path / "m.pth")
    read = torch_slots(tmp_path / "m.pth")
    assert read == mapped_slots(tmp_path / "m.pth", read.records)


def test_an_unusual_file_is_read_through_torch_and_a_foreign_name_is_refused(tmp_path, monkeypatch):
    torch.save({"w": torch.ones(2), "n": torch.ones(3, dtype=torch.uint16)}, tmp_path / "m.pth")
    assert set(torch_slots(tmp_path / "m.pth").slots) == {"w", "n"}
    torch.save({"w": torch.ones(2), "counter": collections.UserDict()}, tmp_path / "u.pth")
    with pytest.raises(SourceError, match="refused, it holds more than tensors"):
        torch_slots(tmp_path / "u.pth")
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pth")
    monkeypatch.setattr(module, "_MAX_PICKLE", 3)
    assert set(torch_slots(tmp_path / "w.pth").slots) == {"w"}


class Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("value", [Evil(), [print], {"a": Evil}, {1, 2}, b"bytes", complex(1, 2)])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_but_known_names_is_read_and_nothing_runs(value, protocol, capsys):
    with pytest.raises(UnknownPickle):
        read_pickle(pickle.dumps({"w": value}, protocol))
    assert capsys.readouterr().out == ""


@given(st.binary(max_size=80), st.integers(0, 200), st.integers(0, 255))
def test_damaged_pickles_raise_one_kind_of_error(noise, place, byte):
    good = bytearray(pickle.dumps({"a": [1, 2.5, (None, True)], "b": {"c": "text"}}, 2))
    good[place % len(good)] = byte
    for data in (noise, bytes(good), bytes(good[: place % len(good)])):
        with contextlib.suppress(UnknownPickle):
            read_pickle(data)


def test_a_tensor_that_reaches_behind_its_storage_is_not_believed(tmp_path):
    torch.save({"w": torch.ones(4)}, tmp_path / "m.pth")
    data = (tmp_path / "m.pth").read_bytes()
    shape = b"K\x04\x85"  # the tuple (4,)
    assert data.count(shape) == 1
    (tmp_path / "m.pth").write_bytes(data.replace(shape, b"K\x09\x85"))
    with pytest.raises(SourceError):
        torch_slots(tmp_path / "m.pth")


def test_the_usual_file_is_read_without_torch(tmp_path):
    torch.save({"model": {"w": torch.ones(4)}, "iteration": np.float64(1).item()}, tmp_path / "m.pth")
    code = (
        "import sys; from pathlib import Path; from opentrans_cli.checkpoints.torch_slots import torch_slots\n"
        f"print(list(torch_slots(Path({str(tmp_path / 'm.pth')!r})).slots), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['w'] False"
