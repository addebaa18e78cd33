"""Whatever bytes come: our own errors in one clean line, or what the writer would have written."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from opentrans_cli.bundle.bitmask import pack_mask, unpack_mask
from opentrans_cli.bundle.manifest import Manifest
from opentrans_cli.errors import OpentransError
from opentrans_cli.files.records import is_clean, json_bytes, parse_json
from opentrans_cli.files.tensorfile import parse_tensors, read_metadata, tensor_chunks, tensor_headers

GOLDEN = Path(__file__).parents[1] / "golden" / "bundle-v1-rounds"
DOCUMENT: dict[str, Any] = json.loads((GOLDEN / "manifest.json").read_text())
TENSOR_FILE = (GOLDEN / "weights.safetensors").read_bytes()

settings.register_profile("quick", max_examples=60, deadline=None)
settings.load_profile("quick")

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@contextmanager
def refusing() -> Iterator[None]:
    """Our own errors pass, if they can be shown."""
    try:
        yield
    except OpentransError as error:
        assert "\n" not in str(error) and is_clean(str(error)) and "; " in str(error)


@st.composite
def changed_manifests(draw: Callable[[Any], Any]) -> dict[str, Any]:
    """The golden manifest with one or two places replaced, removed or added."""
    document = json.loads(json.dumps(DOCUMENT))
    for _ in range(draw(st.integers(1, 2))):
        place = document
        while True:
            keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and draw(st.booleans()):
                place = place[key]
                continue
            action = draw(st.sampled_from(("replace", "remove", "add")))
            if action == "remove":
                del place[key]
            elif action == "add" and isinstance(place, dict):
                place[draw(st.text(max_size=8))] = draw(plain)
            else:
                place[key] = draw(plain)
            break
    return document


@given(changed_manifests())
def test_a_changed_manifest_is_refused_or_is_what_it_is_written_as(document: dict[str, Any]) -> None:
    with refusing():
        manifest = Manifest.from_json(parse_json(json.dumps(document).encode(), "'x'"), "'x'")
        assert Manifest.from_json(parse_json(json_bytes(manifest.to_json()), "x")) == manifest


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode) | plain.map(lambda v: json.dumps(v).encode()))
def test_bytes_are_refused_or_json_that_reads_back(data: bytes) -> None:
    with refusing():
        value = parse_json(data, "'x'")
        assert repr(parse_json(json.dumps(value).encode(), "x")) == repr(value)


@given(st.integers(0, len(TENSOR_FILE) - 1), st.integers(0, 8), st.binary(max_size=8))
def test_a_spliced_tensor_file_is_refused_or_read_alike_from_file_and_memory(place: int, cut: int, new: bytes) -> None:
    data = TENSOR_FILE[:place] + new + TENSOR_FILE[place + cut :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        path.write_bytes(data)
        with refusing():
            read_metadata(path)
        with refusing():
            found, tensors = tensor_headers(path), parse_tensors(data, "x")
            assert {name: header.shape for name, header in found.items()} == {n: a.shape for n, a in tensors.items()}


names = st.text(st.characters(min_codepoint=33, exclude_categories=("C", "Z")), min_size=1, max_size=12)
values = st.sampled_from(["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]).flatmap(
    lambda kind: arrays.arrays(np.dtype(kind), arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)


@given(st.dictionaries(names, values, max_size=4))
def test_tensors_of_any_name_type_and_shape_come_back(tensors: dict[str, np.ndarray]) -> None:
    data = b"".join(tensor_chunks(tensors))
    back = parse_tensors(data, "x")
    assert {name: (a.dtype, a.shape, a.tobytes()) for name, a in back.items()} == {
        name: (a.dtype, a.shape, a.tobytes()) for name, a in tensors.items()
    }
    assert b"".join(tensor_chunks(back)) == data


@given(st.lists(st.integers(0, 9), max_size=4), st.binary(max_size=40))
def test_bits_are_refused_or_pack_to_the_same(shape: list[int], bits: bytes) -> None:
    with refusing():
        mask = unpack_mask(np.frombuffer(bits, np.uint8), shape)
        assert mask.shape == tuple(shape) and pack_mask(mask).tobytes() == bits
