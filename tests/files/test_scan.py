"""Reading once: the pieces of a scan are the tensors of the file, its hash that of every byte."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from opentrans_cli.errors import BundleError
from opentrans_cli.files import scan
from opentrans_cli.files.header import Head
from opentrans_cli.files.scan import TensorPiece, scan_file, scan_tensors
from opentrans_cli.files.tensorfile import read_tensors, write_tensors


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    tensors = {
        "a": rng.standard_normal((70, 9)),
        "b": rng.integers(0, 9, (5,)).astype(np.int64),
        "c": rng.random((33, 3)) < 0.5,
        "d": np.zeros((0, 4), np.float32),
        "e": np.float32(2.5),
        "f": rng.standard_normal(101).astype(np.float32),
    }
    write_tensors(tmp_path / "t.safetensors", tensors, {"x": 1}, dtypes={"f": "bfloat16"})
    return tmp_path / "t.safetensors"


def collected(path: Path) -> tuple[scan.Scanned, dict[str, np.ndarray]]:
    parts: dict[str, list[np.ndarray]] = {}

    def see(piece: TensorPiece) -> None:
        assert piece.start == sum(len(part) for part in parts.get(piece.tensor, ()))
        parts.setdefault(piece.tensor, []).append(piece.values.copy())

    scanned = scan_tensors(path, "t.safetensors", check=lambda head: None, see=see)
    return scanned, {name: np.concatenate(given) for name, given in parts.items()}


@pytest.mark.parametrize("piece", [64, 4 << 20])
def test_the_pieces_of_a_tensor_are_its_values_in_order(
    path: Path, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "_PIECE", piece)
    scanned, found = collected(path)
    assert scanned.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and scanned.problem is None
    stored = read_tensors(path)
    assert set(scanned.places) == set(stored) == {*found, "d"}
    for name, values in found.items():
        whole = (values.astype(np.uint32) << 16).view(np.float32) if name == "f" else values
        assert whole.tobytes() == stored[name].tobytes()


def test_a_damaged_file_is_hashed_to_its_end_and_no_tensor_of_it_is_seen(path: Path) -> None:
    data = path.read_bytes()
    for broken in (data[:-1], data + b"x", data[:5], b"", b"\xff" * 100, data[:20] + b"!" + data[21:]):
        path.write_bytes(broken)
        scanned, found = collected(path)
        assert scanned.sha256 == hashlib.sha256(broken).hexdigest()
        assert found == {} and scanned.problem is not None and str(path) in str(scanned.problem)


def test_what_the_check_refuses_is_not_seen(path: Path) -> None:
    def refuse(head: Head) -> None:
        assert set(head.places) == set("abcdef")
        raise BundleError("no")

    scanned = scan_tensors(path, "t", check=refuse, see=lambda piece: pytest.fail("seen"))
    assert str(scanned.problem) == "no" and scanned.sha256 == scan_file(path).sha256


def test_no_more_than_one_piece_is_in_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_PIECE", 128)
    largest = 0

    def see(piece: TensorPiece) -> None:
        nonlocal largest
        largest = max(largest, piece.values.nbytes)

    scan_tensors(path, "t", check=lambda head: None, see=see)
    assert largest == 128
