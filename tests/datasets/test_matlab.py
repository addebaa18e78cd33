"""MATLAB's label maps: ids as they were saved, and every other content named with its file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from opentrans_cli.datasets.matlab import matlab_shape, read_matlab_labels
from opentrans_cli.errors import PictureError

IDS = np.random.default_rng(0).integers(0, 460, (37, 50)).astype(np.uint16)


@pytest.mark.parametrize("kind", [{}, {"do_compression": True}, {"format": "4"}])
@pytest.mark.parametrize("dtype", [np.uint16, np.float64, np.int32])
def test_ids_are_as_they_were_saved(tmp_path: Path, kind: dict, dtype: type) -> None:
    savemat(tmp_path / "a.mat", {"LabelMap": IDS.astype(dtype), "other": np.eye(3)}, **kind)
    read = read_matlab_labels(tmp_path / "a.mat", "a.mat")
    assert read.dtype == np.int64
    assert (read == IDS).all()
    assert matlab_shape(tmp_path / "a.mat", "a.mat") == IDS.shape
    assert (read_matlab_labels(io.BytesIO((tmp_path / "a.mat").read_bytes()), "a.mat") == IDS).all()


def saved(**arrays: object) -> bytes:
    file = io.BytesIO()
    savemat(file, arrays)
    return file.getvalue()


HDF5 = b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n" + bytes(100)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (saved(labels=IDS), "has no LabelMap: a.mat holds labels; name the array LabelMap"),
        (saved(LabelMap=IDS[None]), r"holds no ids: a.mat \(uint16 \(1, 37, 50\)\)"),
        (saved(LabelMap=IDS + 0.5), "holds no ids"),
        (saved(LabelMap=IDS.astype(np.int32) - 9), "holds no ids"),
        (saved(LabelMap=IDS.astype(np.int32) * 1000), "holds no ids"),
        (saved(LabelMap="text"), "holds no ids"),
        (saved(LabelMap={"a": IDS}), "holds no ids"),
        (saved(LabelMap=np.full((3, 4), np.nan)), "holds no ids"),
        (HDF5, "MATLAB file of version 7.3: a.mat; save it again with -v7"),
        (b"", "damaged or no MATLAB file"),
        (b"no MATLAB file at all", "damaged or no MATLAB file"),
    ],
)
def test_what_is_no_label_map_is_named(data: bytes, message: str) -> None:
    with pytest.raises(PictureError, match=message):
        read_matlab_labels(io.BytesIO(data), "a.mat")


@pytest.mark.parametrize("compressed", [True, False])
def test_a_damaged_file_is_an_error_or_another_label_map(tmp_path: Path, compressed: bool) -> None:
    savemat(tmp_path / "a.mat", {"LabelMap": IDS[:9, :9]}, do_compression=compressed)
    whole = (tmp_path / "a.mat").read_bytes()
    rng = np.random.default_rng(1)
    damaged = [whole[:length] for length in range(128, len(whole), 7)]
    for place in range(128, len(whole), 5):
        bytes_ = bytearray(whole)
        bytes_[place] ^= int(rng.integers(1, 256))
        damaged.append(bytes(bytes_))
    refused = 0
    for data in damaged:
        try:
            assert read_matlab_labels(io.BytesIO(data), "a.mat").ndim == 2
        except PictureError as error:
            refused += 1
            assert "a.mat" in str(error)
    assert refused > len(damaged) / 4


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"label map not found: .*b\.mat"):
        read_matlab_labels(tmp_path / "b.mat", str(tmp_path / "b.mat"))
