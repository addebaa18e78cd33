"""A framework's options: frozen dataclasses of numbers and flags, filled from names and text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args, get_type_hints

from opentrans_cli.errors import OptionError

_FLAGS = {"true": True, "false": False}


def parse_options(options_type: type[Any], given: Mapping[str, Any], *, owner: str) -> Any:
    """An `options_type` with the values of `given`; text is converted to the field's type.

    Fields are int, float or bool, each perhaps "or None". `owner` is named in errors. Raises OptionError for
    unknown names and for values that are not of the field's type; the dataclass itself checks ranges.
    """
    types = get_type_hints(options_type)
    known = [field.name for field in fields(options_type)]
    for name in given:
        if name not in known:
            choice = f"choose from {', '.join(known)}" if known else "it takes none"
            raise OptionError(f"{owner} has no option: '{name}'; {choice}")
    return options_type(**{name: _value(types[name], value, f"{owner} {name}") for name, value in given.items()})


def _value(wanted: Any, value: Any, what: str) -> Any:
    allowed = get_args(wanted) or (wanted,)
    if type(value) in allowed or (type(value) is int and float in allowed):
        return value
    if isinstance(value, str):
        text = value.strip().lower()
        if text == "none" and type(None) in allowed:
            return None
        if bool in allowed and text in _FLAGS:
            return _FLAGS[text]
        for kind in (kind for kind in allowed if kind in (int, float)):
            try:
                return kind(text)
            except ValueError:
                continue
    names = " or ".join("none" if kind is type(None) else kind.__name__ for kind in allowed)
    raise OptionError(f"wrong value for {what}: {value!r}; give {names}")
