"""The recorded options of a bundle's steps as a TOML file that `--config` reads again: a section for each command.

As in a script (`command_line.py`), verbs and options are looked up in closed tables, and what a stranger recorded can
only be a quoted value. What a file cannot say, such as the folder of another bundle, is a comment.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from opentrans_cli.bundle.card.markup import printable
from opentrans_cli.bundle.manifest import Step
from opentrans_cli.bundle.store import Bundle
from opentrans_cli.errors import OptionError
from opentrans_cli.steps.provenance.command_line import (
    FLAGS,
    IMPORT,
    check_verb,
    joined,
    only_text,
    pairs,
    stated_option,
    text,
)

_SOURCES = {"prune": "source", IMPORT: "file"}
"""By verb the argument that names what a history begins with; the other verbs start from a bundle."""


def config_of(bundle: Bundle, number: int | None = None) -> str:
    """The file for the steps of `bundle`, or for one of them, counted from 1.

    Raises OptionError for a number that no step has, if two steps have the same verb, and for a step that no command
    repeats.
    """
    steps = list(enumerate(bundle.manifest.steps, start=1))
    if number is not None:
        steps = [(each, step) for each, step in steps if each == number]
        if not steps:
            raise OptionError(f"no such step: --step {number}; the bundle has {len(bundle.manifest.steps)}")
    else:
        steps = [(each, step) for each, step in steps if step.verb in FLAGS]
        _check_once(steps)
    if not steps:
        raise OptionError(f"no step of this bundle has options: {bundle.path}; ask whoever made it")
    sections = ["\n".join(_section(bundle, each, step)) for each, step in steps]
    head = f"# Options of the steps that made the bundle {bundle.digest}\n# opentrans COMMAND --config THIS_FILE"
    return "\n\n".join([head, *sections]) + "\n"


def _check_once(steps: Sequence[tuple[int, Step]]) -> None:
    for verb in dict.fromkeys(step.verb for _, step in steps):
        numbers = [str(each) for each, step in steps if step.verb == verb]
        if len(numbers) > 1:
            raise OptionError(
                f"one file has one section for a command: {verb} is steps {', '.join(numbers)}; choose one with --step"
            )


def _section(bundle: Bundle, number: int, step: Step) -> Iterator[str]:
    check_verb(step)
    versions = ", ".join(f"{name} {version}" for name, version in sorted(step.versions.items()))
    yield f"[{step.verb}]  # {printable(f'step {number}, with {versions}')}"
    if step.parent is not None:
        yield f"# bundle: the one with the digest {printable(step.parent)}"
    elif step.verb == IMPORT:
        yield f"file = {_quoted(only_text('file', step.options.get('file')))}"
    elif step.verb in _SOURCES:
        yield f"{_SOURCES[step.verb]} = {_quoted(text('source', bundle.manifest.base.source))}"
    if (threads := step.options.get("threads")) is not None:
        yield f"# OMP_NUM_THREADS={printable(str(threads))}, processes: {printable(str(step.options.get('processes')))}"
    for option, value in sorted(step.options.items()):
        yield from _entry(option, value, step, bundle.manifest.base.source)
    if step.seed is not None:
        yield f"seed = {step.seed}"


def _entry(option: str, value: Any, step: Step, base: str) -> Iterator[str]:
    found = stated_option(option, value, step)
    if found is None:
        return
    key = found[1].spelled(option)[2:]
    kind = found[1].kind
    if kind == "bundle":
        yield f"# {key}: the bundle {printable(text(option, value))}"
    elif kind == "base":
        yield f"{key} = {_quoted(text('base', base))}"
    elif kind == "pairs":
        items = (pair.partition("=") for pair in pairs(option, value))
        yield f"{key} = {{{', '.join(f'{_quoted(name)} = {_quoted(each)}' for name, _, each in items)}}}"
    elif kind == "commas":
        yield f"{key} = {_quoted(joined(option, value)) if value else '[]'}"
    elif isinstance(value, list):
        yield f"{key} = [{', '.join(_plain(option, each) for each in value)}]"
    else:
        yield f"{key} = {_plain(option, value)}"


def _plain(option: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    shown = text(option, value)
    return _quoted(shown) if isinstance(value, str) else shown


def _quoted(value: str) -> str:
    """A basic string of TOML; JSON escapes what it may not hold, and `text` refuses what neither may."""
    return json.dumps(value, ensure_ascii=False)
