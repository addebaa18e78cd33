"""Headers of tensor files: offsets that overlap, leave holes or run out, shapes that lie, names that occur twice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.errors import BundleError

READER = {"mask": "masks", "weights": "tower", "rounds": "rounds", "segmentor": "head", "alpha": "alpha"}
READER["round_weights"] = "round towers"


def _first(document: dict[str, Any]) -> dict[str, Any]:
    return next(entry for name, entry in document.items() if name != "__metadata__")


def _set(key: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: _first(document).update({key: value})


def _add(name: str, dtype: str, shape: list[Any], offsets: list[Any]) -> Callable[[dict[str, Any]], object]:
    return lambda document: document.update({name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}})


def _rename(new: str) -> Callable[[dict[str, Any]], object]:
    def change(document: dict[str, Any]) -> None:
        old = next(name for name in document if name != "__metadata__")
        document[new] = document.pop(old)

    return change


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "overlap with the first": _add("x", "U8", [1], [0, 1]),
    "an offset behind the end": _add("x", "U8", [1], [2**40, 2**40 + 1]),
    "a tensor of a terabyte": _add("x", "U8", [2**40], [0, 2**40]),
    "a hole before the first": lambda d: _first(d).update(data_offsets=[o + 1 for o in _first(d)["data_offsets"]]),
    "offsets turned round": lambda d: _first(d)["data_offsets"].reverse(),
    "one offset": _set("data_offsets", [0]),
    "three offsets": _set("data_offsets", [0, 1, 2]),
    "negative offsets": _set("data_offsets", [-2, 0]),
    "offsets of 2^64": _set("data_offsets", [2**64, 2**64 + 2]),
    "offsets that are no numbers": _set("data_offsets", ["0", "2"]),
    "offsets that are null": _set("data_offsets", None),
    "a shape whose product overflows": _set("shape", [2**32, 2**32]),
    "a shape whose product overflows to the right one": _set("shape", [2**63, 2]),
    "a negative shape": _set("shape", [-1, -2]),
    "a shape of a broken number": _set("shape", [2.0]),
    "a shape of truth values": _set("shape", [True]),
    "a shape of 10^400": _set("shape", [10**400]),
    "a shape that is no list": _set("shape", 2),
    "a shape of a hundred dimensions": _set("shape", [1] * 100),
    "a shape with a zero and the largest side": _add("x", "F64", [0, 2**62], [0, 0]),
    "an unknown type": _set("dtype", "Q9"),
    "a type of others": _set("dtype", "F8_E4M3"),
    "a type that is a terminal's escape": _set("dtype", "\x1b[31mF32"),
    "a type that is a list": _set("dtype", ["U8"]),
    "another type": _set("dtype", "I32"),
    "a field that does not belong": _set("strides", [1]),
    "a field that is missing": lambda d: _first(d).pop("shape"),
    "an entry that is a list": _add("x", "U8", [], []) and (lambda d: d.update(x=[1])),
    "a name of a terminal's escape": _rename("\x1b]0;owned\x07"),
    "a name of two lines": _rename("a\nb"),
    "a name that turns the direction": _rename("conv2\u202ethgiew"),
    "a name of megabytes": _rename("a" * (2 << 20)),
    "no name": _rename(""),
    "half a surrogate pair as a name": _rename("\ud800"),
    "metadata that is a number": lambda d: d.update(__metadata__=3),
    "metadata of numbers": lambda d: d.update(__metadata__={"opentrans": 3}),
    "metadata that is no JSON": lambda d: d.update(__metadata__={"opentrans": "{"}),
    "metadata with NaN": lambda d: d.update(__metadata__={"opentrans": '{"a": NaN}'}),
    "metadata with 1e999": lambda d: d.update(__metadata__={"opentrans": '{"a": 1e999}'}),
    "metadata with a key twice": lambda d: d.update(__metadata__={"opentrans": '{"a": 1, "a": 2}'}),
    "metadata with an escape": lambda d: d.update(__metadata__={"opentrans": json.dumps({"layers": ["\x1b[2J"]})}),
    "metadata that is deep": lambda d: d.update(__metadata__={"opentrans": "[" * 100000}),
    "metadata of ten thousand digits": lambda d: d.update(__metadata__={"opentrans": '{"a": ' + "9" * 10000 + "}"}),
}


def test_a_header_that_lies(victims: Any, refused: Any) -> None:
    for kind, change in CHANGES.items():
        name, victim = "alpha" if kind.startswith("metadata") else "weights", victims(kind)
        victim.header(f"{name}.safetensors", change)
        refused(victim.path, "damaged safetensors file|is missing|disagrees", (READER[name],))


def test_it_is_the_same_for_every_tensor_file(victims: Any, judged: Any) -> None:
    for name, reader in READER.items():
        for kind in ("overlap with the first", "a shape whose product overflows", "an unknown type"):
            victim = victims(f"{name}, {kind}")
            victim.header(f"{name}.safetensors", CHANGES[kind])
            assert {"verify", reader} <= judged(victim.path).keys(), (name, kind)


def _twice(path: Path, name: str) -> bytes:
    content = path.read_bytes()
    header = content[8 : 8 + int.from_bytes(content[:8], "little")].rstrip(b" ")
    entry = json.loads(header)[name]
    return header[:-1] + b"," + json.dumps({name: entry}).encode()[1:-1] + b"}"


TEXTS: dict[str, Callable[[Path], bytes]] = {
    "a tensor twice, which the library lets pass": lambda path: _twice(path, "conv2.weight"),
    "metadata twice": lambda path: b'{"__metadata__":{},"__metadata__":{}}',
    "a field of a tensor twice": lambda path: b'{"a":{"dtype":"U8","dtype":"U8","shape":[],"data_offsets":[0,1]}}',
    "nothing": lambda path: b"",
    "a list": lambda path: b"[]",
    "a number": lambda path: b"7",
    "spaces before it": lambda path: b"   {}",
    "a mark of the byte order": lambda path: b"\xef\xbb\xbf{}",
    "bytes that are no text": lambda path: b"{\xff\xfe}",
    "UTF-16": lambda path: '{"a":1}'.encode("utf-16"),
    "two documents": lambda path: b"{}{}",
    "a comment": lambda path: b"{/* hello */}",
    "half a document": lambda path: b'{"a":{"dtype":',
    "lists a hundred thousand deep": lambda path: b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "objects a hundred thousand deep": lambda path: b'{"a":' * 100_000,
    "minus zero": lambda path: b'{"a":{"dtype":"U8","shape":[-0],"data_offsets":[-0,0]}}',
    "half a surrogate pair": lambda path: b'{"__metadata__":{"x":"\\ud800"}}',
    "infinity": lambda path: b'{"a":Infinity}',
    "zeros for padding": lambda path: b"{}\0\0\0\0\0\0",
}


def test_a_header_that_is_no_header(victims: Any, refused: Any) -> None:
    for kind, text in TEXTS.items():
        victim = victims(kind)
        victim.header("weights.safetensors", text(victim.path / "weights.safetensors"))
        refused(victim.path, "damaged safetensors file", ("tower",))


LENGTHS = (0, 1, 7, 2**16, 2**25 - 1, 2**25, 2**25 + 1, 100_000_001, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1)


def test_a_length_of_the_header_that_lies(victim: Any, judged: Any) -> None:
    data = (victim.path / "weights.safetensors").read_bytes()
    for length in LENGTHS:
        victim.put("weights.safetensors", length.to_bytes(8, "little") + data[8:])
        assert "damaged safetensors file" in judged(victim.path)["tower"], length


@pytest.mark.skipif(os.name == "nt", reason="sparse files")
def test_a_header_of_a_terabyte_is_refused_unread(victim: Any) -> None:
    path = victim.path / "weights.safetensors"
    with path.open("r+b") as file:
        file.write((2**39).to_bytes(8, "little"))
        file.truncate(2**39 + 8)  # takes no space on the disk

    def vouch(document: dict[str, Any]) -> None:
        for entry in document["files"]:
            if entry["name"] == path.name:
                entry["bytes"] = 2**39 + 8

    victim.edit(vouch)
    with pytest.raises(BundleError, match="header of 549755813888 bytes"):
        open_bundle(victim.path).tower()


def test_truth_values_that_are_neither(victim: Any, judged: Any) -> None:
    header = b'{"x":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}}'
    victim.put("segmentor.safetensors", len(header).to_bytes(8, "little") + header + b"\x01\x02")
    assert {"verify", "head"} <= judged(victim.path).keys()
