"""Earlier rounds of a pruning run: their masks follow from `rounds.safetensors`, their towers are snapshots.

round_weights.safetensors   <round>/<layer>.weight   dtype (kept after that round,)   kept values in mask order
                            <round>/<other name>     as in weights.safetensors        any other tensor of the tower

A tensor that equals the one in weights.safetensors bit for bit is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.bundle.bitmask import Mask
from opentrans_cli.bundle.layout import SNAPSHOT, Tensors, decode_tower, encode_tower, weight_name
from opentrans_cli.errors import BundleError, MaskError

Rounds = Mapping[str, NDArray[np.uint8]]


def masks_after(rounds: Rounds, number: int) -> dict[str, Mask]:
    """By layer: the mask (bool, True = kept) after round `number`, which counts from 1."""
    return {layer: (numbers == 0) | (numbers > number) for layer, numbers in rounds.items()}


def rounds_until(rounds: Rounds, number: int) -> dict[str, NDArray[np.uint8]]:
    """The content of `rounds.safetensors` if the run had ended with round `number`."""
    return {layer: np.where(numbers > number, np.uint8(0), numbers) for layer, numbers in rounds.items()}


def kept_after(rounds: Rounds, last: int) -> dict[str, list[int]]:
    """By layer: how many weights are kept after each of the rounds 1 to `last`."""
    kept = {}
    for layer, numbers in rounds.items():
        by_round = np.bincount(numbers.reshape(-1), minlength=last + 1)
        kept[layer] = [int(by_round[0] + by_round[number + 1 :].sum()) for number in range(1, last + 1)]
    return kept


def last_round(rounds: Rounds) -> int:
    """The last round that removed a weight; 0 if none did."""
    return max(int(numbers.max()) for numbers in rounds.values())


def saved_rounds(names: Iterable[str]) -> tuple[int, ...]:
    """The rounds whose towers are in a file with tensors of these names, in order.

    The masks of such a round are larger than the last ones, so each has at least one tensor of its own.
    """
    return tuple(sorted({int(match[1]) for match in map(SNAPSHOT.fullmatch, names) if match}))


def encode_snapshots(
    towers: Mapping[int, Tensors], rounds: Rounds, last: Tensors, dtype: str
) -> dict[str, NDArray[Any]]:
    """The tensors of `round_weights.safetensors`.

    towers: by round, the dense tower after it, zero where pruned by then. Each is read once, so the mapping may make
    them on demand. Rounds after which no weight was removed are left out: the last tower has their masks.
    last: the encoded tower of the last round.
    Raises MaskError or BundleError, naming round and tensor, if a rule of the format is broken.
    """
    end = last_round(rounds)
    stored: dict[str, NDArray[Any]] = {}
    for number in sorted(towers):
        if number < 1:
            raise MaskError(f"not a round: {number}; rounds count from 1")
        if number >= end:
            break
        try:
            tower = encode_tower(towers[number], masks_after(rounds, number), dtype)
        except (MaskError, BundleError) as error:
            raise type(error)(f"in the tower of round {number}, {error}") from error
        _check_same_names(number, tower, last)
        layers = {weight_name(layer) for layer in rounds}
        for name, array in tower.items():
            if name not in layers and (array.dtype, array.shape) != (last[name].dtype, last[name].shape):
                raise MaskError(f"tensor changed its shape or type: {name!r} after round {number}; use one tower")
            if not _identical(array, last[name]):
                stored[f"{number}/{name}"] = array
    return stored


def decode_snapshot(
    number: int, stored: Tensors, *, last: Tensors, rounds: Rounds, origin: str
) -> dict[str, NDArray[Any]]:
    """The dense tower after round `number`: floating-point tensors as float32, exact zeros where pruned by then.

    stored, last: the tensors of `round_weights.safetensors` and of `weights.safetensors` as they are read.
    Raises BundleError when counts differ, a tensor has no counterpart, or a value is NaN or infinite.
    """
    own = dict(_of_round(number, stored))
    masks = masks_after(rounds, number)
    layers = {weight_name(layer): int(np.count_nonzero(mask)) for layer, mask in masks.items()}
    for name, array in own.items():
        wanted = (layers[name],) if name in layers else last[name].shape if name in last else None
        if array.shape != wanted or array.dtype != last[name].dtype:
            raise BundleError(
                f"tensor does not fit its round: '{number}/{name}' is {array.dtype} {array.shape} in {origin!r}; "
                "write or download the bundle again"
            )
    tower = {**last, **own}
    for name, kept in layers.items():
        if tower[name].shape != (kept,):
            raise BundleError(
                f"tensor is missing: '{number}/{name}', {kept} values, in {origin!r}; "
                "write or download the bundle again"
            )
    return decode_tower(masks, tower, origin=origin)


def _of_round(number: int, stored: Tensors) -> Iterator[tuple[str, NDArray[Any]]]:
    prefix = f"{number}/"
    for name, array in stored.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), array


def _check_same_names(number: int, tower: Tensors, last: Tensors) -> None:
    odd = sorted(set(tower) ^ set(last))
    if odd:
        raise MaskError(f"towers have different tensors: {odd[0]!r} after round {number}; keep whole towers")


def _identical(one: NDArray[Any], other: NDArray[Any]) -> bool:
    # Bytes are compared, because 0.0 and -0.0 are equal as numbers.
    return one.shape == other.shape and one.tobytes() == other.tobytes()
