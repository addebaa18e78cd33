"""What the pickle in a file of torch.save says, read as data: nothing is unpickled, imported or called, nor is torch.

Of the opcodes those are known that torch.save writes for tensors in dicts and lists, and of the names in it a closed
table. Whatever else a pickle holds is left to torch itself.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

_TYPES = {
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
}
_TENSOR, _PARAMETER = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"
_DICT, _SIZE = "collections OrderedDict", "torch Size"
_VALUES = ("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class UnknownPickle(Exception):
    """The pickle holds something that is not known here."""


class Described(NamedTuple):
    """A tensor as a pickle describes it."""

    dtype: str
    record: str  # name of its storage
    offset: int  # of its first value in the storage, in values
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in values


class _Name(NamedTuple):
    text: str


class _Storage(NamedTuple):
    dtype: str
    record: str


def read_pickle(data: bytes) -> Any:
    """The dicts, lists and values that a pickle would make, with a `Described` for every tensor.

    Raises UnknownPickle for anything else.
    """
    reader = _Reader()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return reader.stack.pop()
            reader.step(opcode.name, argument)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, UnicodeError) as error:
        raise UnknownPickle(str(error)) from error
    raise UnknownPickle("it ends early")


class _Reader:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.marks: list[int] = []  # heights of the stack

    def step(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _NEW:
            self.stack.append(_NEW[name]())
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name in _TUPLES:
            self.stack[-_TUPLES[name] :] = [tuple(self.stack[-_TUPLES[name] :])]
        elif name == "GLOBAL":
            self.stack.append(_known(argument))
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name != "PROTO":
            self._build(name)

    def _build(self, name: str) -> None:
        if name == "TUPLE":
            self.stack.append(tuple(self._marked()))
        elif name in ("SETITEM", "SETITEMS"):
            items = self._marked() if name == "SETITEMS" else [self.stack.pop(-2), self.stack.pop()]
            _of(dict, self.stack[-1]).update(zip(items[::2], items[1::2], strict=True))
        elif name in ("APPEND", "APPENDS"):
            items = self._marked() if name == "APPENDS" else [self.stack.pop()]
            _of(list, self.stack[-1]).extend(items)
        elif name == "BINPERSID":
            self.stack.append(_storage(self.stack.pop()))
        elif name == "REDUCE":
            arguments = self.stack.pop()
            self.stack.append(_made(self.stack.pop(), arguments))
        elif name == "BUILD":
            self.stack.pop()  # attributes of a state dict, its versions
            _of(dict, self.stack[-1])
        else:
            raise UnknownPickle(name)

    def _marked(self) -> list[Any]:
        place = self.marks.pop()
        items = self.stack[place:]
        del self.stack[place:]
        return items


def _known(text: str) -> _Name:
    module, _, kind = text.partition(" ")
    if text not in (_TENSOR, _PARAMETER, _DICT, _SIZE) and (module != "torch" or kind not in _TYPES):
        raise UnknownPickle(text)
    return _Name(text)


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise UnknownPickle(f"no {kind.__name__}")
    return value


def _storage(value: Any) -> _Storage:
    word, name, record, *_ = value
    if word != "storage":
        raise UnknownPickle("a reference that is no storage")
    return _Storage(_TYPES[_of(_Name, name).text.partition(" ")[2]], _of(str, record))


def _made(name: Any, arguments: tuple[Any, ...]) -> Any:
    text = _of(_Name, name).text
    if text == _DICT and not arguments:
        return {}
    if text == _SIZE:
        return tuple(*arguments)
    if text == _PARAMETER:
        return _of(Described, arguments[0])
    if text != _TENSOR or len(arguments) != 6:
        raise UnknownPickle(text)
    storage, offset, shape, strides, *_ = arguments
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or not all(type(number) is int and number >= 0 for number in numbers):
        raise UnknownPickle("a tensor that is none")
    return Described(_of(_Storage, storage).dtype, storage.record, offset, shape, strides)
