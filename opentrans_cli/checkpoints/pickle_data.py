"""Pickles read as data: what a pickle would build is described, and nothing that it names is imported or called.

A pickle is a program that calls what it names. Here a name is only looked up in a fixed table of this file, which knows
tensors, arrays and plain containers. Every other class or function becomes an `Unknown`, which keeps its data and does
nothing. So checkpoints that contain objects of mmengine, Lightning or argparse are read without their classes.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, BinaryIO, ClassVar

import numpy as np

from opentrans_cli.files.header import item_bytes
from opentrans_cli.files.slots import c_order

OLD_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""What a file of torch before 1.6 begins with: torch's magic number, pickled."""

# Classes of storages in torch. Tensors of other storages, such as quantised ones, cannot be read.
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
_ARRAYS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
_PYTHONS: Any = pickle._Unpickler  # the reader in Python; all its instructions can be replaced
_QUANTISED = {"QInt8Storage": 1, "QUInt8Storage": 1, "QInt32Storage": 4}


@dataclass(frozen=True)
class Storage:
    """Where the values of tensors are: in a named record of the file, or in bytes inside the pickle itself."""

    dtype: str | None  # None: each tensor has its own
    record: str = ""
    data: bytes | None = field(default=None, repr=False)
    skipped: int = 0  # values before the first one


@dataclass(frozen=True)
class Described:
    """A tensor as a pickle describes it."""

    shape: tuple[int, ...]
    dtype: str  # torch's name without "torch."
    storage: Storage | None = None  # None: its values are not in one place
    offset: int = 0  # of its first value in the storage, in values
    strides: tuple[int, ...] = ()  # in values
    problem: str | None = None  # why its values cannot be read


@dataclass(eq=False)
class Unknown:
    """Stands for an object of a class or function that is not known here; it does nothing."""

    name: str  # "argparse.Namespace"
    arguments: tuple[Any, ...] = ()
    state: Any = None  # its attributes, usually a dict by name
    entries: dict[Any, Any] = field(default_factory=dict)  # its entries, if it is like a dict

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def append(self, value: Any) -> None:
        """Ignores an item of a list-like object, because the item has no name to find it by."""

    add = append


@dataclass(frozen=True)
class _Name:
    """A class or a function as the pickle names it."""

    text: str


@dataclass(eq=False)
class Array:
    """A numpy array: a pickle creates it first and then sets its state."""

    state: Any = None

    def described(self) -> Described:
        """The array as a tensor, with its values in C order and little-endian."""
        _, shape, kind, fortran, raw = self.state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(raw, bytes | bytearray) or not isinstance(kind, _Kind) or kind.code not in _ARRAYS:
            return Described(tuple(shape), "object", problem="an array of objects or text")
        shape, dtype = tuple(int(side) for side in shape), np.dtype(kind.order + kind.code)
        if min((0, *shape)) < 0 or prod(shape) * dtype.itemsize != len(raw):
            raise pickle.UnpicklingError("an array whose bytes do not fill its shape")
        if fortran or kind.order == ">":
            values = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
            raw = values.astype(dtype.newbyteorder("<")).tobytes()
        return Described(shape, dtype.name, Storage(dtype.name, data=raw), 0, c_order(shape))


@dataclass(eq=False)
class _Kind:
    """A numpy dtype: its code, then its byte order."""

    code: str
    order: str = "<"

    @property
    def state(self) -> Any:
        return None

    @state.setter
    def state(self, state: Any) -> None:
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        self.order = order if order in ("<", ">") else "<"


def read_pickle(file: BinaryIO) -> Any:
    """What the pickle at the current position of `file` would build, with a `Described` or `Array` for every tensor.

    Afterwards the position is after the pickle. Raises UnpicklingError and the many other errors of a damaged pickle.
    """
    return _Reader(file, encoding="latin1").load()


def read_old(file: BinaryIO) -> tuple[Any, dict[str, tuple[int, int]]]:
    """Read a file of torch before 1.6, or its bytes: what `read_pickle` gives, and the records of the file.

    The records are by name: the first byte, and the byte after the last. Raises the same errors as `read_pickle`.
    """
    magic, protocol, system = (read_pickle(file) for _ in range(3))
    if magic != 0x1950A86A20F9469CFC6C or protocol != 1001 or system.get("little_endian") is not True:
        raise pickle.UnpicklingError("torch of another kind of machine or version wrote it")
    reader = _Reader(file, encoding="latin1")
    content, order = reader.load(), read_pickle(file)
    records: dict[str, tuple[int, int]] = {}
    for name in order:
        (count,) = struct.unpack("<q", file.read(8))
        start = file.tell()
        records[name] = start, start + count * reader.widths[name]
        file.seek(records[name][1])
    return content, records


class _Reader(_PYTHONS):  # type: ignore[misc]
    """Python's own reader of pickles; everything in it that would import or call something is replaced."""

    def __init__(self, file: BinaryIO, **settings: Any) -> None:
        super().__init__(file, **settings)
        self.widths: dict[str, int] = {}  # bytes of a value, by record

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        return _Name(f"{module}.{name}")

    def get_extension(self, code: int) -> Any:
        raise pickle.UnpicklingError("a name by number")

    def persistent_load(self, pid: Any) -> Any:
        what, kind, *more = pid
        if what == "module":  # how torch before 1.6 saved a class, with its source
            return kind
        record, _, _, *view = more
        name = kind.text.rpartition(".")[2]
        dtype = _STORAGES.get(name)
        self.widths[record] = _QUANTISED.get(name, 1 if dtype is None else item_bytes(dtype))
        start = view[0][1] if view and view[0] else 0
        return Storage(dtype or ("quantised" if name in _QUANTISED else None), str(record), skipped=start)

    def _instantiate(self, what: Any, arguments: Iterable[Any]) -> None:
        self.append(_made(what, tuple(arguments)))

    def load_reduce(self) -> None:
        arguments, what = self.stack.pop(), self.stack.pop()
        self.append(_made(what, tuple(arguments)))

    def load_newobj_ex(self) -> None:
        self.stack.pop()
        self.load_reduce()

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Unknown | Array | _Kind):
            target.state = state  # not kept for dicts: the versions of a state dict say nothing about tensors

    def load_bytearray8(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(self.read(length))  # Python's own code would reserve any length that a file claims

    dispatch: ClassVar[dict[int, Any]] = {
        **_PYTHONS.dispatch,
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_reduce,
        pickle.NEWOBJ_EX[0]: load_newobj_ex,
        pickle.BUILD[0]: load_build,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }


def _made(what: Any, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(what, _Name):
        raise pickle.UnpicklingError("a call of what is no name")
    known = _KNOWN.get(what.text)
    if known is not None:
        return known(*arguments)
    if what.text.startswith("torch._utils._rebuild"):
        return Described((), "unknown", problem=f"of a kind that is not known, {what.text}")
    return Unknown(what.text, arguments)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> Described:
    """`_rebuild_tensor_v2` of torch, and its older and newer versions."""
    dtype = next((one.text.removeprefix("torch.") for one in more if isinstance(one, _Name)), storage.dtype)
    turned = any(isinstance(one, Mapping) and (one.get("conj") or one.get("neg")) for one in more)
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or not all(type(number) is int and number >= 0 for number in numbers):
        raise pickle.UnpicklingError("a tensor that is none")
    problem = "conjugated" if turned else "quantised" if dtype == "quantised" else None
    return Described(tuple(shape), dtype or "unknown", storage, offset, tuple(strides), problem)


def _old_storage(data: Any) -> Storage:
    """What `pickle.dump` writes for a storage: a whole file of torch before 1.6."""
    file = io.BytesIO(data)
    storage, records = read_old(file)
    start, end = records[storage.record]
    return Storage(storage.dtype, data=file.getvalue()[start:end], skipped=storage.skipped)


def _sparse(layout: Any, parts: Any) -> Described:
    shape = next((part for part in parts if isinstance(part, tuple)), ())
    return Described(shape, "sparse", problem="sparse storage")


def _absent(dtype: Any, shape: Any, *more: Any) -> Described:
    return Described(tuple(shape), dtype.text.removeprefix("torch."), problem="without values")


def _buffer(raw: Any, kind: Any, shape: Any, order: Any, *more: Any) -> Array:
    return Array((1, shape, kind, order == "F", raw))


def _bytes(value: Any = b"", encoding: Any = "latin1") -> bytes:
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if not isinstance(value, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("bytes that are neither bytes nor text")
    return value.encode("latin1")


def _dict(pairs: Any = (), *more: Any) -> dict[Any, Any]:
    return dict(pairs) if isinstance(pairs, list | tuple | dict) else {}


_KNOWN: dict[str, Callable[..., Any]] = {
    **{f"torch._utils._rebuild_tensor{version}": _tensor for version in ("", "_v2", "_v3")},
    "torch._utils._rebuild_qtensor": _tensor,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_sparse_csr_tensor": _sparse,
    "torch._utils._rebuild_meta_tensor_no_storage": _absent,
    **{f"torch._utils._rebuild_parameter{more}": lambda data, *_: data for more in ("", "_with_state")},
    "torch._tensor._rebuild_from_type_v2": lambda what, kind, arguments, state: _made(what, tuple(arguments)),
    "torch.storage._load_from_bytes": _old_storage,
    "torch.Size": lambda sides=(): tuple(sides),
    **{f"numpy.{core}.multiarray._reconstruct": lambda *_: Array() for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _buffer for core in ("core", "_core")},
    "numpy.dtype": lambda code, *_: _Kind(str(code).lstrip("<>=|")),
    "_codecs.encode": _bytes,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "builtins.set": lambda items=(): list(items),
    "builtins.frozenset": lambda items=(): list(items),
    **{f"collections.{kind}": _dict for kind in ("OrderedDict", "defaultdict", "Counter")},
    "builtins.dict": _dict,
}
