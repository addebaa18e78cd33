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

READER = {"mask": "masks", "weights": "tower", "rounds": "rounds", "round_weights": "round towers"}
READER |= {"segmentor": "head", "alpha": "alpha"}


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


def test_a_flip_of_any_byte_of_a_tensor_file_is_found_by_its_reader(victim: Any, reads: Any, judged: Any) -> None:
    """Length, header and every value; the manifest vouches for the file as it was. `verify` finds it by the hash."""
    for name, reader in READER.items():
        path = victim.path / f"{name}.safetensors"
        data = path.read_bytes()
        for changed in _damaged(data, range(len(data))):
            path.write_bytes(changed)
            with pytest.raises(OpentransError) as caught:
                reads[reader](open_bundle(victim.path))
            assert "\n" not in str(caught.value) and is_clean(str(caught.value))
        start = 8 + int.from_bytes(data[:8], "little")
        for changed in _damaged(data, range(start, len(data), 7)):
            path.write_bytes(changed)
            assert f"{name}.safetensors does not match its hash" in judged(victim.path)["verify"]
        path.write_bytes(data)


def test_a_flip_of_the_structure_is_found_even_with_a_forged_hash_or_harmless(victims: Any, judged: Any) -> None:
    """Nothing but our own errors comes of it, and what `verify` calls sound can be read."""
    for name in READER:
        victim = victims(name)
        data = (victim.path / f"{name}.safetensors").read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        for changed in _damaged(data, range(0, end, 5)):
            victim.put(f"{name}.safetensors", changed)
            refused = judged(victim.path)
            assert not refused or "verify" in refused, (name, refused)


def test_a_cut_at_every_boundary_is_found(victims: Any, judged: Any) -> None:
    """By the size that the manifest says, or, where it vouches for the cut file, by the file itself."""
    for name, reader in READER.items():
        victim = victims(name)
        path = victim.path / f"{name}.safetensors"
        data = path.read_bytes()
        for place in sorted(_boundaries(data)):
            path.write_bytes(data[:place])
            assert {"verify", "open"} <= judged(victim.path).keys(), (name, place)
        for place in sorted(_boundaries(data)):
            victim.put(path.name, data[:place])
            assert {"verify", reader} <= judged(victim.path).keys(), (name, place)


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


def test_a_flip_in_a_document_is_found_by_the_hash(victim: Any, judged: Any) -> None:
    for name in ("README.md", "reports/note.json"):
        path = victim.path / name
        data = path.read_bytes()
        for changed in _damaged(data, range(len(data))):
            path.write_bytes(changed)
            refused = judged(victim.path)
            assert "does not match its hash" in refused["documents"] and "does not match its hash" in refused["verify"]
        path.write_bytes(data)
