"""Options by name: `prune("tiny", sparsity=0.5)`, without importing a class of options.

Every verb is called in the same way: `verb(source, *, out=..., device="auto", force=False, reporter=None, **options)`.
"""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields
from inspect import Parameter, signature
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from opentrans_cli.errors import OptionError, did_you_mean

V = TypeVar("V", bound=Callable[..., Any])


def takes(*kinds: type[Any]) -> Callable[[V], V]:
    """Declares that the `**options` of a verb are the fields of the dataclasses `kinds`; `help()` then lists them."""

    def mark(verb: V) -> V:
        own = signature(verb)
        named = [p for p in own.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
        more = [_parameter(field) for kind in kinds for field in fields(kind) if field.name not in own.parameters]
        verb.__signature__ = own.replace(parameters=[*named, *more])  # type: ignore[attr-defined]
        return verb

    return mark


def _parameter(field: Field[Any]) -> Parameter:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=field.type)


def by_name(verb: str, given: Mapping[str, Any], *kinds: type[Any]) -> list[Any]:
    """One object of each dataclass in `kinds`, made of `given`, which maps names of fields to values.

    Text becomes a path, and a list a tuple, if the field has that type. Raises OptionError for a name that is no field,
    with the most similar field, and for a value of the wrong type; the dataclasses check ranges themselves.
    """
    hints = [get_type_hints(kind) for kind in kinds]
    wanted = {name: hint for named in hints for name, hint in named.items()}
    values = {}
    check_names(verb, given, wanted)
    for name, value in given.items():
        values[name] = _fitted(wanted[name], value)
        if values[name] is _UNFIT:
            kind = getattr(wanted[name], "__name__", str(wanted[name])) if not get_args(wanted[name]) else wanted[name]
            raise OptionError(f"wrong kind of value: {name}={str(value)[:80]!r}; it takes {kind}")
    made = zip(kinds, hints, strict=True)
    return [kind(**{name: value for name, value in values.items() if name in named}) for kind, named in made]


def check_names(verb: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises OptionError for a name that is not in `known`, with the most similar known name."""
    known = list(known)
    for name in given:
        if name not in known:
            move = did_you_mean(name, known) or f"; it has {', '.join(known)}"
            raise OptionError(f"{verb} has no such option: {name}{move}")


def on_processor(verb: str, device: str) -> None:
    """Refuse a device for a verb that needs none: all verbs take the argument, and none may ignore it."""
    if device not in ("auto", "cpu"):
        raise OptionError(f"{verb} computes on the processor: device '{device}'; leave it out")


_UNFIT = object()


def _fitted(wanted: Any, value: Any) -> Any:
    """`value` converted to the type `wanted`, or _UNFIT."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return next((found for kind in inner if (found := _fitted(kind, value)) is not _UNFIT), _UNFIT)
    if origin is Literal:  # the dataclass checks which values are allowed
        return value if isinstance(value, str) else _UNFIT
    if origin is tuple and int in inner and isinstance(value, Integral):  # one id in place of several
        value = (value,)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = inner[:1] * len(value) if inner[1:] == (...,) else inner
        items = tuple(_fitted(kind, item) for kind, item in zip(kinds, value, strict=False))
        return items if len(kinds) == len(value) and not any(item is _UNFIT for item in items) else _UNFIT
    if origin is not None or isinstance(value, bool):
        return value if wanted is bool else _UNFIT
    if wanted is int and isinstance(value, Integral):  # numpy's integers are accepted as well
        return int(value)
    if wanted is float and isinstance(value, Real):
        return float(value)
    if wanted in (str, Path) and isinstance(value, str | os.PathLike):
        return wanted(value)
    return value if isinstance(value, wanted) else _UNFIT
