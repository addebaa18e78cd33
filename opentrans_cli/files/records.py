"""Convert frozen dataclasses to JSON documents and back, strictly: the type hints are the format.

Allowed hints: str, int, float, `X | None`, tuple[X, ...], dict[str, X], dict[str, Any] (any plain JSON) and
other records. A document must have exactly the fields of its class, each of the hinted type; a bool or 1.0 is not
accepted as an int; every number is finite; text holds no control characters, since it is printed to terminals.
Messages quote at most a few hundred characters of a document.

No schema library is used, because it only checks a document: it makes no objects, takes three times as long, and its
messages quote their input. `artifacts.schema.json` defines the same format for other programs; a test compares the two.
"""

from __future__ import annotations

import json
import math
import re
import types
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from opentrans_cli.errors import BundleError

# Numbers that JSON can hold.


def finite(value: float) -> float | None:
    """`value`, or None for infinity and NaN, which JSON does not have."""
    return value if math.isfinite(value) else None


R = TypeVar("R", bound="Record")

MAX_DEPTH = 32  # levels of nested JSON; our documents have six
MAX_VALUES = 1 << 20  # in one document: an empty list takes three bytes of text and twenty times that in memory
MAX_RECORDS = 1 << 14  # in one list of layers, files or steps
_LONGEST = 300  # characters for a place or a problem in a message

# Control characters, halves of surrogate pairs, unusual line ends, and marks that change the text direction: with them
# a text would not be shown as it is. Joiners are allowed, since some scripts need them.
_UNCLEAN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True)
class Record:
    """A frozen dataclass that cannot hold a value that its JSON form does not allow.

    Raises BundleError when it is created with such a value.
    """

    def __post_init__(self) -> None:
        hints = _hints(type(self))
        for field in fields(self):
            where = f"{type(self).__name__}.{field.name}"
            object.__setattr__(self, field.name, _decode(hints[field.name], getattr(self, field.name), where))
        self.check()

    def check(self) -> None:
        """Checks between the fields; a subclass raises BundleError when one fails."""

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON-ready dict."""
        return {field.name: _encode(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_json(cls: type[R], document: object, where: str = "document") -> R:
        """The record that a JSON document describes. Raises BundleError, naming the wrong place."""
        hints = _hints(cls)
        expect_keys(document, [field.name for field in fields(cls)], where)
        assert isinstance(document, dict)
        return cls(**{name: _decode(hints[name], value, f"{where}.{name}") for name, value in document.items()})


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(cls: type) -> dict[str, Any]:
    """Types of a record's fields; they are cached, because Python compiles every annotation again on each call."""
    if cls not in _HINTS:
        _HINTS[cls] = get_type_hints(cls)
    return _HINTS[cls]


def is_clean(text: str) -> bool:
    """Whether `text` may be printed as it is: nothing in it is a control character or changes how the rest is shown."""
    return _UNCLEAN.search(text) is None


def parse_json(data: bytes, where: str, *, max_values: int = MAX_VALUES) -> Any:
    """The value in UTF-8 JSON `data`; BundleError for anything not strictly JSON, for keys that occur twice, and for
    more than `max_values` values.
    """
    if data.count(b",") + data.count(b"[") + data.count(b"{") > max_values:
        raise BundleError(
            f"too much JSON: {where} has more than {max_values} values; write or download the bundle again"
        )
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_whole)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is text only in Python
        return value
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"not readable as JSON: {where}, {str(error).splitlines()[0]}; write or download the bundle again"
        ) from error


def json_bytes(document: object) -> bytes:
    """`document` as JSON text with sorted keys: the same bytes for the same content."""
    return json.dumps(document, sort_keys=True, indent=2, allow_nan=False).encode() + b"\n"


def expect_keys(document: object, names: Collection[str], where: str) -> None:
    """Raises BundleError unless `document` is a dict with exactly these keys."""
    if not isinstance(document, dict):
        raise wrong(where, "is not an object")
    for name in names:
        if name not in document:
            raise wrong(where, f"lacks {name!r}")
    for name in document:
        if name not in names:
            raise wrong(where, f"has the unknown key {name!r}")


def require(condition: bool, where: str, problem: str) -> None:
    """Raises BundleError, saying that `where` has `problem`, unless `condition` is true."""
    if not condition:
        raise wrong(where, problem)


def wrong(where: str, problem: str) -> BundleError:
    """The error for one wrong place of a manifest."""
    return BundleError(
        f"manifest is not valid: {_printable(where)} {_printable(problem)}; write or download the bundle again"
    )


def _printable(text: str) -> str:
    """`text` made safe for a message: one line, no control characters, limited length."""
    # A place contains keys of the document, which may hold line breaks.
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text[: _LONGEST + 1])
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."


def _within(where: str, key: str | int) -> str:
    """The name of a place inside `where`, cut, because a huge key would be copied for everything below it."""
    inner = f"[{key}]" if isinstance(key, int) else f".{str(key)[:_LONGEST]}"
    return where[:_LONGEST] + inner


def plain_json(value: object, where: str, depth: int = 0) -> Any:
    """A copy of `value` in plain JSON types (tuples become lists); BundleError if it holds anything else."""
    if depth > MAX_DEPTH:
        raise wrong(where, f"is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        for key in value:
            require(isinstance(key, str), where, f"has the key {key!r}, which is not text")
        return {_text(key, where): plain_json(item, _within(where, key), depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item, _within(where, index), depth + 1) for index, item in enumerate(value)]
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, float) or type(value) is int:
        number = _number(
            value, where
        )  # ints are checked too: one with a thousand digits would fail in the first division
        return number if isinstance(value, float) else value
    if value is None or type(value) is bool:
        return value
    raise wrong(where, f"is a {type(value).__name__}, which JSON does not hold")


def _encode(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, tuple | list):
        return [_encode(item) for item in value]
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    return value


def _decode(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint` says; JSON lists and dicts become tuples and records where the hint wants
    them.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return plain_json(value, where)
    if origin in (Union, types.UnionType):
        return None if value is None else _decode(inner[0], value, where)
    if origin is tuple:
        require(isinstance(value, list | tuple), where, "is not a list")
        records = isinstance(inner[0], type) and issubclass(inner[0], Record)
        require(not records or len(value) <= MAX_RECORDS, where, f"has more than {MAX_RECORDS} entries")
        return tuple(_decode(inner[0], item, _within(where, index)) for index, item in enumerate(value))
    if origin is dict:
        require(isinstance(value, dict), where, "is not an object")
        return {_text(key, where): _decode(inner[1], item, _within(where, key)) for key, item in value.items()}
    if isinstance(hint, type) and issubclass(hint, Record):
        return value if isinstance(value, hint) else hint.from_json(value, where)
    if hint is str:
        return _text(value, where)
    if hint is int:
        require(type(value) is int, where, "is not a whole number")
        return value
    if hint is float:
        return _number(value, where)
    raise TypeError(f"records have no fields of type {hint}")


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise wrong(where, "is not text")
    require(is_clean(value), where, "holds control characters")
    return value


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(where, "is not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    require(math.isfinite(number), where, "is not a finite number")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return document


def _whole(digits: str) -> int:
    if digits == "-0":  # an integer for some readers, a float for others
        raise ValueError("-0 is no whole number")
    return int(digits)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
