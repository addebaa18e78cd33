"""Weights that are stored as small numbers and scales, as compressed-tensors writes them (0.14 to 0.20).

int-quantized, float-quantized   `M.weight` of int8 or float8 times `M.weight_scale`, after `M.weight_zero_point` is
                                 taken from it if there is one; `M.weight_scale_inv` is the same by another name
mxfp8-quantized                  the same with scales of one byte s, which mean 2 ** (s - 127)
pack-quantized                   `M.weight_packed`, 32-bit words full of numbers of 1 to 8 bits, the lowest first, each
                                 2 ** (bits - 1) too large; `M.weight_shape`; zero points are packed along the rows.
                                 Since 0.18 a number may reach into the next word, before that a word holds whole ones
nvfp4, mxfp4                     `M.weight_packed`, bytes of two numbers of 4 bits (float, E2M1), the lower first

A scale is for the whole weight, a row, a group of columns in a row, or a block of rows and columns. Values come back as
float32, without the rounding to the type of the scales that compressed-tensors does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.checkpoints.reader import SCALES, Checkpoint, StoredTensor
from opentrans_cli.errors import SourceError

_PACKED = "weight_packed"
_BESIDE = (_PACKED, *SCALES, "weight_shape", "weight_zero_point", "weight_g_idx", "weight_global_scale")
_SMALL = ("int8", "float8_e4m3fn", "float8_e5m2")
_INDICES = ("int32", "int64")
_BLOCK = 128  # rows and columns, where a block does not divide the weight
_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
_FP4 = np.concatenate([_E2M1, -_E2M1])  # by its 4 bits


@dataclass(frozen=True)
class Quantised:
    """How a weight is computed from tensors of the file, by their names."""

    shape: tuple[int, ...]  # of the weight
    codes: str  # the small numbers
    scale: str
    zero: str | None = None
    groups: str | None = None  # for each column the number of its group; None: groups follow each other
    overall: str | None = None  # one number that all scales are divided by
    bits: int | None = None  # of a packed number; None: not packed
    across: bool = False  # packed numbers may reach from one word into the next


def find_quantised(file: Checkpoint) -> tuple[dict[str, Quantised], frozenset[str]]:
    """The weights that are stored so, by name, and the names of all tensors that belong to them.

    A weight whose form is not one of those above is left out: its tensors remain what they are in the file.
    """
    found: dict[str, Quantised] = {}
    taken: set[str] = set()
    for key in file.tensors:
        module, _, leaf = key.rpartition(".")
        if leaf not in SCALES:
            continue
        dot = "." if module else ""
        names = {part: name for part in ("weight", *_BESIDE) if (name := f"{module}{dot}{part}") in file.tensors}
        weight = _weight(file, names)
        if weight is not None:
            found[f"{module}{dot}weight"] = weight
            taken |= set(names.values())
    return found, frozenset(taken)


def read_quantised(file: Checkpoint, weight: Quantised) -> NDArray[np.float32]:
    """The values of a weight, float32. Raises SourceError for a file that cannot be read or contradicts itself."""
    if weight.bits is None:
        numbers = _floats(file, weight.codes)
    elif file.tensors[weight.codes].dtype == "uint8":
        codes = file.array(weight.codes)
        numbers = _FP4[np.stack((codes & 15, codes >> 4), -1).reshape(weight.shape)]
    else:
        numbers = _unpacked(file.array(weight.codes), weight.bits, weight.shape[1], across=weight.across)
    return scaled(file, weight, numbers)


def scaled(file: Checkpoint, weight: Quantised, numbers: NDArray[Any]) -> NDArray[np.float32]:
    """`numbers`, of the shape of the weight, less its zero points and times its scales. Raises as `read_quantised`."""
    scale, groups = _floats(file, weight.scale), _groups(file, weight)
    if file.tensors[weight.scale].dtype == "uint8":
        scale = np.ldexp(np.float32(1), scale.astype(np.int32) - 127)  # E8M0
    if weight.overall is not None:
        scale = scale / _floats(file, weight.overall)
    if weight.zero is not None:
        zero = _floats(file, weight.zero)
        if weight.bits is not None:
            zero = _unpacked(file.array(weight.zero).T, weight.bits, weight.shape[0], across=weight.across).T
        numbers = numbers - _spread(zero, weight.shape, groups)
    return (numbers * _spread(scale, weight.shape, groups)).astype(np.float32)


def quantised_as(file: Checkpoint, module: str, codes: str, shape: tuple[int, ...]) -> Quantised | None:
    """How the values of a module's weight follow from the numbers `codes`, of `shape`; None if there are no scales."""
    scale = next((key for part in SCALES if (key := f"{module}.{part}") in file.tensors), None)
    zero = f"{module}.weight_zero_point"
    if scale is None:
        return None
    weight = Quantised(shape, codes, scale, zero=zero if zero in file.tensors else None)
    return weight if _fits(file.tensors, weight) else None


def _weight(file: Checkpoint, names: Mapping[str, str]) -> Quantised | None:
    """The weight of one module; names: of its tensors in the file, by their last part."""
    tensors = file.tensors
    codes = names.get(_PACKED, names.get("weight"))
    scale = next(names[part] for part in SCALES if part in names)
    if codes is None or not tensors[codes].readable:
        return None
    weight = Quantised(
        tensors[codes].shape,
        codes,
        scale,
        zero=names.get("weight_zero_point"),
        groups=names.get("weight_g_idx"),
        overall=names.get("weight_global_scale"),
    )
    whole = weight if tensors[codes].dtype in _SMALL else None
    if _PACKED in names:
        whole = _packed(file, weight, names.get("weight_shape"))
    return whole if whole is not None and _fits(tensors, whole) else None


def _packed(file: Checkpoint, weight: Quantised, shape_key: str | None) -> Quantised | None:
    """The packed weight with its shape and bits; None if they cannot be known."""
    stored = file.tensors[weight.codes]
    if len(stored.shape) != 2:
        return None
    rows, words = stored.shape
    if stored.dtype == "uint8" and shape_key is None:
        # A third of these bytes of mxfp6 belongs to its next number: only the number of groups tells the two apart.
        groups = math.prod(file.tensors[weight.scale].shape[1:])
        whole = len(file.tensors[weight.scale].shape) == 2 and 2 * words in (16 * groups, 32 * groups)
        return replace(weight, shape=(rows, 2 * words), bits=4) if whole else None
    shape = None if shape_key is None else file.tensors[shape_key]
    if stored.dtype != "int32" or shape is None or shape.shape != (2,) or shape.dtype not in _INDICES:
        return None
    assert shape_key is not None
    height, columns = (int(side) for side in file.array(shape_key))
    bits, across = _bits(file, weight.codes, columns, words)
    if height != rows or bits is None:
        return None
    return replace(weight, shape=(rows, columns), bits=bits, across=across)


def _bits(file: Checkpoint, key: str, columns: int, words: int) -> tuple[int | None, bool]:
    """Bits of a number, and whether numbers reach into the next word, from how many words a row has.

    Of several answers, as for a row of a few columns, the one with the fewest bits after which all words are zero.
    """
    across = [bits for bits in range(1, 9) if math.ceil(columns * bits / 32) == words]
    whole = [bits for bits in (3, 5, 6) if math.ceil(columns / (32 // bits)) == words]
    if len(across) + len(whole) == 1:
        return (across or whole)[0], bool(across)
    flat = np.unpackbits(np.ascontiguousarray(file.array(key)).view(np.uint8), axis=1, bitorder="little")
    return next((bits for bits in across if not flat[:, columns * bits :].any()), None), True


def _fits(tensors: Mapping[str, StoredTensor], weight: Quantised) -> bool:
    """Whether the shapes of scales and zero points are those of a weight of this shape."""
    scale = tensors[weight.scale]
    if len(weight.shape) < 2 or not (scale.readable and _steps(scale.shape, weight.shape)):
        return False
    if weight.groups is not None:
        groups = tensors[weight.groups]
        if len(scale.shape) != 2 or groups.shape != weight.shape[1:] or groups.dtype not in _INDICES:
            return False
    if weight.overall is not None and math.prod(tensors[weight.overall].shape) != 1:
        return False
    if weight.zero is None:
        return True
    zero = tensors[weight.zero]
    if weight.bits is None:
        return zero.readable and zero.shape == scale.shape
    per_word = 32 / weight.bits if weight.across else 32 // weight.bits
    return zero.dtype == "int32" and zero.shape == (math.ceil(weight.shape[0] / per_word), *scale.shape[1:])


def _steps(scale: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """How many rows, columns ... of a weight share a scale; () if the shapes do not go together."""
    scale = (*scale, *[1] * (len(shape) - len(scale))) if math.prod(scale) == 1 or len(scale) == 1 else scale
    if len(scale) != len(shape):
        return ()
    steps = []
    for parts, side in zip(scale, shape, strict=True):
        step = side // parts if parts and side % parts == 0 else _BLOCK
        if math.ceil(side / step) != parts:
            return ()
        steps.append(step)
    return tuple(steps)


def _spread(scale: NDArray[Any], shape: tuple[int, ...], groups: NDArray[np.int64] | None) -> NDArray[Any]:
    """Scales or zero points, one for each value of the weight, or with a side of 1 where all have the same."""
    steps = _steps(scale.shape, shape)
    scale = scale.reshape(*scale.shape, *[1] * (len(shape) - scale.ndim)) if scale.ndim < len(shape) else scale
    if groups is not None:
        return scale[:, groups]
    for axis, step in enumerate(steps):
        if scale.shape[axis] > 1:
            scale = np.repeat(scale, step, axis)[(slice(None),) * axis + (slice(shape[axis]),)]
    return scale


def _unpacked(words: NDArray[Any], bits: int, count: int, *, across: bool) -> NDArray[np.float32]:
    """The numbers, (rows, count), of rows of words, (rows, words)."""
    rows = np.ascontiguousarray(words).view(np.uint8)
    flat = np.unpackbits(rows, axis=1, bitorder="little")
    if not across:
        per_word = 32 // bits
        flat = flat.reshape(len(flat), -1, 32)[:, :, : per_word * bits].reshape(len(flat), -1)
    numbers = flat[:, : count * bits].reshape(len(flat), count, bits)
    return (numbers @ (1 << np.arange(bits)) - (1 << (bits - 1))).astype(np.float32)


def _groups(file: Checkpoint, weight: Quantised) -> NDArray[np.int64] | None:
    """The group of each column; None if groups follow each other, which -1 says as well."""
    if weight.groups is None:
        return None
    groups = file.array(weight.groups).astype(np.int64)
    if groups.max() >= file.tensors[weight.scale].shape[-1]:
        raise SourceError(f"groups and scales disagree: '{weight.groups}' in {file.path}; download or export it again")
    return None if groups.min() < 0 else groups


def _floats(file: Checkpoint, key: str) -> NDArray[np.float32]:
    return file.numbers(key).astype(np.float32)
