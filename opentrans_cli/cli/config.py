"""`--config run.toml`: values of options from a TOML file, in place of those that are not typed.

    quiet = true

    [prune]
    source = "RN50-quickgelu:openai"
    sparsity = 0.9
    exclude = ["layer4.*"]

A key is the name of an option or argument, with - or _. What stands above all sections is for every command, so each
must have the option; a section is for the command of its name, and wins. Values are checked as if they were typed.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentrans_cli.errors import OptionError, did_you_mean
from opentrans_cli.option import Options, Statement, option

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class ConfigChoice(Options):
    """Where values of options come from that are not typed."""

    config: Path | None = option(None, help="TOML file with values of these options; typed options win")


@dataclass(frozen=True)
class Offered:
    """An option or argument that a command offers."""

    said: Statement
    switch: bool  # it takes no value
    several: bool  # it takes several values


def read_config(path: Path, command: str, commands: Collection[str], offered: Mapping[str, Offered]) -> dict[str, Any]:
    """The values that the file has for `command`, by field, as a user would type them.

    commands: the names that a section may have. offered: the options of `command` by field. Raises OptionError for a
    file that cannot be read, an unknown key, and a value of a kind that no option takes.
    """
    fields = {spelling: field for field, each in offered.items() for spelling in _spellings(field, each.said)}
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for key, value, where in _entries(path, command, commands, fields):
        field = fields.get(key.replace("_", "-"))
        if field is None:
            raise OptionError(
                f"{command} has no such option: '{key}' in {where}"
                f"{did_you_mean(key, fields) or f'; see `opentrans {command} --help`'}"
            )
        if places.get(field) == where:
            raise OptionError(f"said twice, in two spellings: '{key}' in {where}; leave one out")
        places[field] = where
        values[field] = _typed(f"{key} in {where}", value, offered[field])
    return values


def _spellings(field: str, said: Statement) -> Iterator[str]:
    """The keys that mean an option: its name, and its long flags without the dashes."""
    yield field.replace("_", "-")
    if not said.argument:
        yield from (flag[2:] for flag in (said.spelled(field), *said.also) if flag.startswith("--"))


def _entries(
    path: Path, command: str, commands: Collection[str], known: Collection[str]
) -> Iterator[tuple[str, Any, str]]:
    """Key, value and place of every value for `command`; a later one of the same key wins."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"cannot read: --config {path} ({error.strerror or error}); check the path") from error
    except ValueError as error:  # of TOML, or of UTF-8
        raise OptionError(f"not a TOML file: --config {path} ({error}); mend it there") from error
    own: Any = {}
    for key, value in document.items():
        if not isinstance(value, dict) or key.replace("_", "-") in known:
            yield key, value, str(path)
        elif key not in commands:
            raise OptionError(
                f"no command is called so: section [{key}] in {path}"
                f"{did_you_mean(key, [*commands, *known]) or '; see `opentrans --help`'}"
            )
        elif key == command:
            own = value
    for key, value in own.items():
        yield key, value, f"[{command}] in {path}"


def _typed(name: str, value: Any, offered: Offered) -> Any:
    """A value of TOML as the command line would give it: text, or a list of texts, or true and false for a switch."""
    if isinstance(value, dict):
        if offered.said.kind != "pairs":
            raise OptionError(f"not one value: {name} is a table; write a text, a number, true or false")
        return [f"{key}={_text(f'{name}.{key}', each)}" for key, each in value.items()]
    if isinstance(value, list):
        if not offered.several:
            raise OptionError(f"not one value: {name} is a list; give one of them")
        texts = [_text(name, each) for each in value]
        if offered.said.kind != "commas":
            return texts
        if comma := next((text for text in texts if "," in text), None):
            raise OptionError(f"has a comma: '{comma}', {name}; commas part the names, leave it out")
        return ",".join(texts)
    if offered.switch and isinstance(value, bool):
        return value
    text = _text(name, value)
    return [text] if offered.several and offered.said.kind != "commas" else text


def _text(name: str, value: Any) -> str:
    """One value as it is typed; whether the option takes it is left to the option."""
    if isinstance(value, dict | list):
        raise OptionError(f"a list in a list, or a table in one: {name}; write a text or a number")
    return str(value).lower() if isinstance(value, bool) else str(value)
