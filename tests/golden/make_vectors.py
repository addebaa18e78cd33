"""Writes `docs/vectors.json`, the test vectors of the format: `python tests/golden/make_vectors.py`.

Small inputs with what a reader or a writer must make of them. Bytes and bits are hexadecimal, floating values are
numbers, exact in their type. What stands there stays; new vectors are added at the end of their list.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from opentrans_cli.bundle.bitmask import pack_mask
from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.files.digest import tower_digest
from opentrans_cli.files.tensorfile import tensor_chunks, to_bfloat16_bits

GOLDEN = Path(__file__).parent
VECTORS = GOLDEN.parents[1] / "docs" / "vectors.json"


def masks() -> list[dict[str, Any]]:
    """Masks as bits: whole bytes, padding, several dimensions, all, none."""
    given: list[Any] = [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1] * 9,
        [[1, 0, 0], [0, 1, 1]],
        [0],
        [[[1, 1], [0, 1]], [[0, 0], [1, 0]]],
    ]
    arrays = [np.array(mask, bool) for mask in given]
    return [
        {"mask": m.astype(int).tolist(), "shape": list(m.shape), "bytes": pack_mask(m).tobytes().hex()} for m in arrays
    ]


def bfloat16() -> list[dict[str, str]]:
    """float32 to bfloat16 and back, both as bits, big end first: ties, carries, signs, tiny numbers."""
    given = [1.0, 1 + 1 / 256, 1 + 3 / 256, 1 + 1 / 256 + 2**-20, -1 - 1 / 256, 0.0, -0.0, 1 / 3, 1e-40, 255.5, 3.0e38]
    bits = to_bfloat16_bits(np.float32(given))
    return [
        {"float32": struct.pack(">f", x).hex(), "bfloat16": f"{int(b):04x}"} for x, b in zip(given, bits, strict=True)
    ]


def base_digests() -> list[dict[str, Any]]:
    """Towers and their digests. The first two agree: the same weights in two types."""
    third = np.float32([1 / 3, -2, 0])
    towers: list[dict[str, np.ndarray]] = [
        {"conv.weight": third.reshape(3, 1)},
        {"conv.weight": third.astype(np.float16).reshape(3, 1)},
        {"b": np.float32([0.5]), "a": np.array(7, np.int64)},
        {"a": np.float64([65504, 65519.99, 65520, 1e300, -1e300, 2.0**-25, -0.0])},
        {"é": np.array([True, False])},
    ]
    return [
        {
            "tensors": {
                name: {"dtype": array.dtype.name, "shape": list(array.shape), "values": array.reshape(-1).tolist()}
                for name, array in tower.items()
            },
            "digest": tower_digest(tower),
        }
        for tower in towers
    ]


def tensor_files() -> list[dict[str, Any]]:
    """Tensor files byte by byte."""
    tensors = {"b": np.float32([1.5]), "a": np.uint8([1, 2, 3]), "c": np.array(-1, np.int64)}
    files = [({"conv2": np.uint8([5])}, None), (tensors, {"layers": ["b"], "estimator": "xmin_peak"})]
    return [
        {
            "tensors": {
                name: {"dtype": array.dtype.name, "shape": list(array.shape), "values": array.reshape(-1).tolist()}
                for name, array in given.items()
            },
            "metadata": metadata,
            "bytes": b"".join(tensor_chunks(given, metadata)).hex(),
        }
        for given, metadata in files
    ]


def bundles() -> list[dict[str, Any]]:
    """What the committed bundles hold."""
    return [_bundle(path.parent) for path in sorted(GOLDEN.rglob("manifest.json"))]


def _bundle(folder: Path) -> dict[str, Any]:
    bundle = open_bundle(folder)
    rounds = bundle.rounds()
    assert rounds is not None
    return {
        "folder": f"tests/golden/{folder.name}",
        "digest": bundle.digest,
        "digest_text": _identity(bundle),
        "base_digest": bundle.manifest.base.digest,
        "masks": {name: mask.astype(int).tolist() for name, mask in bundle.masks().items()},
        "rounds": {name: numbers.tolist() for name, numbers in rounds.items()},
        "tower": _values(bundle.tower()),
        "round_towers": {str(number): _values(bundle.round_tower(number)) for number in bundle.saved_rounds()},
    }


def _identity(bundle: Bundle) -> str:
    """The text whose hash is the digest, written anew after the specification."""
    names = [f"{name}.safetensors" for name in ("mask", "weights", "rounds", "round_weights", "segmentor")]
    lines = sorted(f"{entry.name}:{entry.sha256}" for entry in bundle.manifest.files if entry.name in names)
    text = "\n".join([bundle.manifest.base.digest, *lines])
    assert bundle.digest == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    return text


def _values(tower: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: {"dtype": array.dtype.name, "values": array.tolist()} for name, array in sorted(tower.items())}


def vectors() -> dict[str, Any]:
    """The whole document."""
    return {
        "version": 1,
        "masks": masks(),
        "bfloat16": bfloat16(),
        "tensor_files": tensor_files(),
        "base_digests": base_digests(),
        "bundles": bundles(),
    }


def text(document: dict[str, Any]) -> str:
    """The document as it is committed: one vector a line."""
    parts = []
    for key, value in document.items():
        rows = [json.dumps(row, sort_keys=True) for row in value] if isinstance(value, list) else None
        inner = json.dumps(value) if rows is None else "[\n  " + ",\n  ".join(rows) + "\n ]"
        parts.append(f' "{key}": {inner}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    VECTORS.write_text(text(vectors()), encoding="utf-8")
