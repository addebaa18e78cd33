"""Tensors that a good hash hides: masks, values and rounds that are not those of the manifest or of each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from opentrans_cli.files.tensorfile import read_metadata, read_tensors, tensor_chunks, tensor_headers
from opentrans_cli.steps.look.inspect import inspect

Tensors = dict[str, np.ndarray]


def _layers(change: Callable[[np.ndarray], np.ndarray], *names: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: change(tensors[name]) for name in names})


FORGED: dict[str, tuple[str, Callable[[Tensors], object], str]] = {
    "a padding bit": ("mask", _layers(lambda bits: bits | np.uint8([0, 128]), "conv2"), "masks"),
    "one weight more": ("mask", _layers(lambda bits: bits | np.uint8([2, 0]), "conv2"), "masks"),
    "one weight less": ("mask", _layers(lambda bits: bits & np.uint8([254, 255]), "conv2"), "masks"),
    "another weight": ("mask", _layers(lambda bits: bits ^ np.uint8([3, 0]), "conv2"), "rounds"),
    "a byte less": ("mask", _layers(lambda bits: bits[:1], "conv2"), "masks"),
    "a byte more": ("mask", _layers(lambda bits: np.append(bits, np.uint8(0)), "conv2"), "masks"),
    "bits of two dimensions": ("mask", _layers(lambda bits: bits.reshape(1, -1), "conv2"), "masks"),
    "bits of another type": ("mask", _layers(lambda bits: bits.view(np.int8), "conv2"), "masks"),
    "a foreign layer": ("mask", lambda t: t.update(evil=np.uint8([1])), "masks"),
    "a layer that is missing": ("mask", lambda t: t.pop("conv2"), "masks"),
    "no layer at all": ("mask", lambda t: t.clear(), "masks"),
    "one value less": ("weights", _layers(lambda values: values[1:], "conv2.weight"), "tower"),
    "values of another type": ("weights", _layers(lambda values: values.astype(np.float64), "conv2.weight"), "tower"),
    "values with NaN": ("weights", lambda t: t.update({"bn1.running_var": np.float32([np.nan, 1, 1])}), "tower"),
    "values without end": ("weights", lambda t: t.update({"bn1.running_var": np.float32([np.inf, 1, 1])}), "tower"),
    "dense values": ("weights", _layers(lambda values: np.zeros((5, 2), np.float32), "conv2.weight"), "tower"),
    "rounds of another shape": ("rounds", _layers(lambda numbers: numbers.reshape(-1), "conv2"), "rounds"),
    "rounds that keep all": ("rounds", _layers(np.zeros_like, "conv2"), "rounds"),
    "rounds that keep others": ("rounds", _layers(lambda numbers: np.roll(numbers, 1), "conv2"), "rounds"),
    "rounds of another type": ("rounds", _layers(lambda numbers: numbers.astype(np.int64), "conv2"), "rounds"),
    "a foreign layer of rounds": ("rounds", lambda t: t.update(evil=np.uint8([1])), "rounds"),
    "a round 0": ("round_weights", lambda t: t.update({"0/conv2.weight": t["1/conv2.weight"]}), "round towers"),
    "a round 255": ("round_weights", lambda t: t.update({"255/x": np.float32([1])}), "round towers"),
    "a round with a sign": ("round_weights", lambda t: t.update({"+1/x": np.float32([1])}), "round towers"),
    "a round that is none": ("round_weights", lambda t: t.update({"conv2.weight": np.float32([1])}), "round towers"),
    "a round above the last": (
        "round_weights",
        lambda t: t.update({"9/bn1.running_var": np.ones(3, "f4")}),
        "round towers",
    ),
    "a tensor of no tower": ("round_weights", lambda t: t.update({"1/evil": np.float32([1])}), "round towers"),
    "a value less in a round": ("round_weights", _layers(lambda v: v[1:], "1/conv2.weight"), "round towers"),
    "no values in a round": ("round_weights", lambda t: t.pop("1/conv2.weight"), "round towers"),
    "values of another type in a round": (
        "round_weights",
        _layers(lambda v: v.astype(np.float64), "1/conv2.weight"),
        "round towers",
    ),
    "a value more in a round": (
        "round_weights",
        _layers(lambda v: np.append(v, v[:1]), "1/conv2.weight"),
        "round towers",
    ),
    "NaN in a round": (
        "round_weights",
        _layers(lambda v: np.full_like(v, np.nan), "1/bn1.running_var"),
        "round towers",
    ),
    "a counter of another shape": ("round_weights", _layers(lambda v: v[:2], "1/bn1.running_var"), "round towers"),
}


def test_tensors_that_are_not_what_is_said(victims: Any, refused: Any) -> None:
    for kind, (file, change, reader) in FORGED.items():
        victim = victims(kind)
        path = victim.path / f"{file}.safetensors"
        stored = {name: header.dtype for name, header in tensor_headers(path).items()}
        tensors = read_tensors(path)
        change(tensors)
        half = {n: "bfloat16" for n, a in tensors.items() if stored.get(n) == "bfloat16" and a.dtype == np.float32}
        victim.put(path.name, b"".join(tensor_chunks(tensors, read_metadata(path) or None, dtypes=half)))
        refused(victim.path, readers=(reader,))


DOCUMENTS = {
    "no JSON": ("reports/x.json", b"hello"),
    "NaN": ("reports/x.json", b'{"miou": NaN}'),
    "1e999 in a known report": ("reports/eval-x.json", b'{"miou": 1e999}'),
    "a key twice": ("reports/x.json", b'{"a": 1, "a": 2}'),
    "nothing": ("reports/x.json", b""),
    "a report that is none": ("reports/prune.json", b"{}"),
    "a hundred thousand lists": ("reports/x.json", b"[" * 100_000),
    "a pickle": ("reports/x.json", b"\x80\x04}\x94."),
    "a picture that is a page": ("reports/x.png", b"<html><script>alert(1)</script>"),
    "a picture that is a program": ("reports/x.png", b"\x7fELF" + bytes(60)),
}


def test_documents_that_are_not_what_their_name_says(victims: Any, judged: Any) -> None:
    for kind, (name, data) in DOCUMENTS.items():
        victim = victims(kind)
        victim.put(name, data)
        assert "verify" in judged(victim.path), kind


def test_counts_of_rounds_that_no_layer_has(victim: Any, judged: Any) -> None:
    """A record that cannot be is not believed: the rounds themselves are counted."""
    for count in (-1, 10**400, 2**63, 1e3, True, None, "1"):

        def change(document: dict[str, Any], count: Any = count) -> None:
            own = {layer["name"]: [count, layer["kept"]] for layer in document["layers"]}
            document["steps"][-1]["metrics"]["kept_by_round"] = own

        victim.edit(change)
        refused = judged(victim.path)
        assert refused == {} or {"open", "inspect", "verify"} <= refused.keys(), count
        if not refused:
            assert [info.round for info in inspect(victim.path).rounds] == [1, 2, 3]
