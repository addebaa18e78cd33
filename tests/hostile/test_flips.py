"""One bit, or one cut, at every structural place of every file: found by structure, by a count, or by the hash."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.errors import OpentransError
from opentrans_cli.files.records import is_clean

TENSOR_FILES = ("mask", "weights", "rounds", "round_weights", "segmentor", "alpha")
READER = dict(zip(TENSOR_FILES, ("masks", "tower", "rounds", "round towers", "head", "alpha"), strict=True))


def _damaged(data: bytes, places: Iterator[int] | range) -> Iterator[bytes]:
    """One bit of each place turned round, another bit at each."""
    for place in places:
        yield data[:place] + bytes([data[place] ^ (1 << (place % 8))]) + data[place + 1 :]


def _boundaries(data: bytes) -> set[int]:
    """Where the header and every tensor begin and end."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    offsets = [at for name, entry in header.items() if name != "__metadata__" for at in entry["data_offsets"]]
    return {0, 7, 8, 9, end - 1, end, *(end + at for at in offsets), *(end + at - 1 for at in offsets)} - {len(data)}


@pytest.mark.parametrize("name", TENSOR_FILES)
def test_a_flip_of_any_byte_of_a_tensor_file_is_found_by_its_reader(victim: Any, reads: Any, name: str) -> None:
    """Length, header and every value; the manifest vouches for the file as it was."""
    path = victim.path / f"{name}.safetensors"
    data = path.read_bytes()
    for changed in _damaged(data, range(len(data))):
        path.write_bytes(changed)
        with pytest.raises(OpentransError) as caught:
            reads[READER[name]](open_bundle(victim.path))
        assert "\n" not in str(caught.value) and is_clean(str(caught.value))


@pytest.mark.parametrize("name", TENSOR_FILES)
def test_a_flip_in_the_values_is_found_by_the_hash(victim: Any, judged: Any, name: str) -> None:
    path = victim.path / f"{name}.safetensors"
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for changed in _damaged(data, range(start, len(data), 7)):
        path.write_bytes(changed)
        assert f"{name}.safetensors does not match its hash" in judged(victim.path)["verify"]


@pytest.mark.parametrize("name", TENSOR_FILES)
def test_a_flip_of_the_structure_is_found_even_with_a_forged_hash_or_harmless(
    victim: Any, judged: Any, name: str
) -> None:
    """Nothing but our own errors comes of it, and what `verify` calls sound can be read."""
    path = victim.path / f"{name}.safetensors"
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    for changed in _damaged(data, range(0, end, 5)):
        victim.put(path.name, changed)
        refused = judged(victim.path)
        assert not refused or "verify" in refused, refused


@pytest.mark.parametrize("name", TENSOR_FILES)
@pytest.mark.parametrize("vouched", [False, True])
def test_a_cut_at_every_boundary_is_found(victim: Any, judged: Any, name: str, vouched: bool) -> None:
    path = victim.path / f"{name}.safetensors"
    data = path.read_bytes()
    for place in sorted(_boundaries(data)):
        if vouched:
            victim.put(path.name, data[:place])
        else:
            path.write_bytes(data[:place])
        refused = judged(victim.path)
        assert {"verify", READER[name] if vouched else "open"} <= refused.keys(), place


TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null|[{}\[\],:]')


def test_a_manifest_cut_at_any_token_is_refused(victim: Any, judged: Any) -> None:
    path: Path = victim.path / "manifest.json"
    data = path.read_bytes()
    tokens = [match.start() for match in TOKEN.finditer(data)]
    assert len(tokens) > 300
    for place in tokens:
        path.write_bytes(data[:place])
        assert {"open", "verify", "inspect"} <= judged(victim.path).keys()


def test_a_token_of_the_manifest_left_out_doubled_or_flipped_is_refused_or_read_as_it_stands(
    victim: Any, judged: Any
) -> None:
    path: Path = victim.path / "manifest.json"
    data = path.read_bytes()
    for number, match in enumerate(TOKEN.finditer(data)):
        start, end = match.span()
        changed = (
            data[:start] + data[end:],
            data[:end] + match[0] + data[end:],
            next(_damaged(data, range(start + (end - start) // 2, end))),
        )[number % 3]
        path.write_bytes(changed)
        refused = judged(victim.path)
        if "open" not in refused:
            json.loads(changed)  # another number, or one class less: a document all the same
        assert not refused or "verify" in refused


@pytest.mark.parametrize("name", ["README.md", "reports/note.json"])
def test_a_flip_in_a_document_is_found_by_the_hash(victim: Any, judged: Any, name: str) -> None:
    path: Path = victim.path / name
    data = path.read_bytes()
    for changed in _damaged(data, range(len(data))):
        path.write_bytes(changed)
        refused = judged(victim.path)
        assert "does not match its hash" in refused["documents"] and "does not match its hash" in refused["verify"]
