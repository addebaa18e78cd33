"""The tower's fingerprint: equal for fp16 and fp32 copies, different for anything that matters."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from opentrans_cli.files.atomic import write_file
from opentrans_cli.files.digest import file_sha256, tower_digest


@pytest.fixture
def tower() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "conv.weight": rng.standard_normal((3, 2)).astype(np.float16).astype(np.float32),
        "bn.num_batches_tracked": np.array(3, np.int64),
    }


def test_copies_in_float16_float32_and_float64_have_one_digest(tower: dict[str, np.ndarray]) -> None:
    for dtype in (np.float16, np.float64):
        copy = {**tower, "conv.weight": tower["conv.weight"].astype(dtype)}
        assert tower_digest(copy) == tower_digest(tower)


def test_weights_that_round_to_the_same_float16_have_one_digest() -> None:
    weight = np.float32([0.1, 1e-9, 3e5])
    assert tower_digest({"w": weight}) == tower_digest({"w": weight.astype(np.float64)})
    with np.errstate(over="ignore"):
        assert tower_digest({"w": weight}) == tower_digest({"w": weight.astype(np.float16)})


def test_order_and_memory_layout_do_not_count(tower: dict[str, np.ndarray]) -> None:
    turned = {name: np.asarray(tower[name], order="F") for name in reversed(tower)}
    assert tower_digest(turned) == tower_digest(tower)


def test_every_change_of_name_shape_value_or_set_counts(tower: dict[str, np.ndarray]) -> None:
    weight = tower["conv.weight"]
    changed = weight.copy()
    changed[0, 0] += 1
    variants = [
        {**tower, "conv.weight": changed},
        {**tower, "conv.weight": weight.reshape(2, 3)},
        {**tower, "bn.num_batches_tracked": np.array(4, np.int64)},
        {"conv.weight": weight},
        {"convx.weight": weight, "bn.num_batches_tracked": tower["bn.num_batches_tracked"]},
    ]
    digests = [tower_digest(variant) for variant in (tower, *variants)]
    assert len(set(digests)) == len(digests)


def test_the_digest_is_pinned(tower: dict[str, np.ndarray]) -> None:
    """Published masks name their base by it, so it can never change."""
    known = "sha256:" + hashlib.sha256(b'["a", [2], "float16"]\n' + b"\x00\x3c\x00\xc0").hexdigest()
    assert tower_digest({"a": np.float32([1, -2])}) == known


def test_file_sha256_equals_hashlib_over_several_blocks(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    (tmp_path / "x").write_bytes(data)
    assert file_sha256(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_a_file_is_hashed_and_counted_while_it_is_written(tmp_path: Path) -> None:
    chunks = [b"abc" * 100_000, b"", memoryview(b"xyz")]
    written = write_file(tmp_path / "x", chunks)
    assert written == (file_sha256(tmp_path / "x"), 300_003)
