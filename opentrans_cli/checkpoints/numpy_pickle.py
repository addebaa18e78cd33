"""Pickles of numpy arrays, as detectron2's model zoo has them, read without running anything that they name.

A pickle is a program that calls what it names. It is not run here: its instructions are listed, and those that build
arrays, numbers, text, lists and dicts are followed. The few names that arrays need lead to stand-ins of our own, which
collect shape, type and bytes; every other name ends the reading.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from opentrans_cli.errors import SourceError

_WRAPPERS = ("model", "state_dict", "blobs")
_MAX_DEPTH = 4  # of dicts in dicts; a pickle can hold one that contains itself
_TYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1")


class _Refused(Exception):
    """The pickle names something that no array needs."""


class _DataType:
    """A numpy dtype: code, then its byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_: Any) -> None:
        self.code, self.order = str(code).lstrip("<>=|"), "="

    def build(self, state: Any) -> None:
        order = _text(state[1])
        if order not in ("<", ">", "=", "|"):
            raise ValueError("an array without byte order")
        self.order = order

    def real(self) -> np.dtype[Any]:
        if self.code not in _TYPES:
            raise _Refused(f"an array of type {self.code[:40]!r}")
        return np.dtype(self.order + self.code)


class _Array:
    """A numpy array: empty first, then its shape, type and bytes."""

    __slots__ = ("fortran", "kind", "raw", "shape")

    def __init__(self, *_: Any) -> None:
        self.raw: bytes | None = None

    def build(self, state: Any) -> None:
        _, self.shape, self.kind, self.fortran, raw = state
        if not isinstance(raw, str | bytes | bytearray):
            raise _Refused("an array of objects")
        self.raw = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)

    def tensor(self) -> Tensor:
        """A copy; raises ValueError if the bytes do not fill the shape."""
        if self.raw is None or not isinstance(self.kind, _DataType):
            raise ValueError("an array without values")
        shape, kind = tuple(int(size) for size in self.shape), self.kind.real()
        if min((0, *shape)) < 0 or math.prod(shape) * kind.itemsize != len(self.raw):
            raise ValueError("an array whose bytes do not fill its shape")
        values = np.frombuffer(self.raw, kind).reshape(shape, order="F" if self.fortran else "C")
        return torch.from_numpy(np.array(values.astype(kind.newbyteorder("="), copy=False), order="C"))


def _from_buffer(raw: Any, kind: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.build((1, shape, kind, order == "F", raw))
    return array


def _encoded(text: Any, encoding: Any) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise _Refused(f"text in the encoding {str(encoding)[:40]!r}")
    return str(text).encode("latin1")


def _never(*_: Any) -> Any:
    raise _Refused("a call of numpy.ndarray")


_NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _DataType,
    ("numpy", "ndarray"): _never,  # only ever named, as the type of an array
    ("collections", "OrderedDict"): dict,
    ("_codecs", "encode"): _encoded,
    ("__builtin__", "bytes"): lambda: b"",  # how the first protocols write no bytes at all
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}


class _Machine:
    """The stack, the marks in it and the memo of a pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: BinaryIO) -> Any:
        """Follow all instructions; returns what the last one leaves."""
        for instruction, argument, _ in pickletools.genops(file):
            name = instruction.name
            if name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            elif name in _VALUES:
                self.stack.append(argument)
            elif name in _MEMO_WRITES:
                self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
            elif name in _MEMO_READS:
                self.stack.append(self.memo[int(argument or 0)])
            elif name not in _IGNORED:
                if name not in _ACTIONS:
                    raise _Refused(f"the instruction {name}")
                _ACTIONS[name](self, argument)
        return self.stack[-1]

    def pop(self, count: int) -> list[Any]:
        """The last `count` values, oldest first."""
        if len(self.stack) < count:
            raise ValueError("an instruction without its values")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def marked(self) -> list[Any]:
        """The values since the last mark."""
        return self.pop(len(self.stack) - self.marks.pop())

    def tuple_of(self, count: int) -> None:
        self.stack.append(tuple(self.pop(count)))

    def extend(self) -> None:
        values = self.marked()
        self.stack[-1].extend(values)

    def dict_of(self, pairs: list[Any]) -> None:
        self.stack.append(dict(zip(pairs[::2], pairs[1::2], strict=True)))

    def items(self, pairs: list[Any]) -> None:
        self.stack[-1].update(zip(pairs[::2], pairs[1::2], strict=True))

    def reference(self, module: Any, name: Any) -> None:
        if (module, name) not in _NAMES:
            raise _Refused(f"{module}.{name}"[:80])
        self.stack.append(_NAMES[module, name])

    def call(self) -> None:
        function, arguments = self.pop(2)
        if function not in _NAMES.values():
            raise ValueError("a call of what is no function")
        self.stack.append(function(*arguments))

    def build(self) -> None:
        (state,) = self.pop(1)
        if not isinstance(self.stack[-1], _Array | _DataType):
            raise _Refused("an object with a state")
        self.stack[-1].build(state)


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_MEMO_WRITES = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_MEMO_READS = {"GET", "BINGET", "LONG_BINGET"}
_IGNORED = {"PROTO", "FRAME", "STOP"}
_ACTIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.pop(1),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.marked())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "LIST": lambda m, _: m.stack.append(m.marked()),
    "APPEND": lambda m, _: m.stack[-2].append(m.pop(1)[0]),
    "APPENDS": lambda m, _: m.extend(),
    "DICT": lambda m, _: m.dict_of(m.marked()),
    "SETITEM": lambda m, _: m.items(m.pop(2)),
    "SETITEMS": lambda m, _: m.items(m.marked()),
    "GLOBAL": lambda m, names: m.reference(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.reference(*m.pop(2)),
    "REDUCE": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.build(),
}


def read_numpy_pickle(path: Path) -> dict[str, Tensor]:
    """The arrays of a pickle by name, as tensors; a `model` wrapper is taken off, dicts in dicts are joined by dots.

    Raises SourceError if the file names anything but arrays and plain values, is damaged, or holds no arrays.
    """
    try:
        with path.open("rb") as file:
            content = _Machine().run(file)
        state = next(
            (content[name] for name in _WRAPPERS if isinstance(content, dict) and isinstance(content.get(name), dict)),
            content,
        )
        tensors = {key: array.tensor() for key, array in _flat(state)}
    except _Refused as error:
        raise SourceError(
            f"refused, the pickle holds more than arrays ({error}): {path}; save its weights as safetensors"
        ) from error
    except Exception as error:  # a damaged pickle can end in any of a dozen classes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise SourceError(f"cannot read the pickle: {path} ({reason}); download it again") from error
    if not tensors:
        raise SourceError(f"no arrays in the pickle: {path}; give a checkpoint of detectron2, or a state dict")
    return tensors


def _flat(state: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, _Array]]:
    for key, value in state.items() if isinstance(state, Mapping) else ():
        if isinstance(value, _Array):
            yield f"{prefix}{_text(key)}", value
        elif isinstance(value, Mapping) and depth < _MAX_DEPTH:
            yield from _flat(value, f"{prefix}{_text(key)}.", depth + 1)


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
