"""The command that repeats a recorded step, as shell text in which nothing recorded can be more than an argument."""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from opentrans_cli.bundle.manifest import Step
from opentrans_cli.errors import OptionError
from opentrans_cli.steps.provenance.flags import BEYOND, FLAGS, Flag

_INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")  # controls, text direction, surrogates, line and paragraph separators


@dataclass(frozen=True)
class Input:
    """A shell variable at the top of a script: what may lie elsewhere by now."""

    name: str  # "IMAGES"
    value: str  # as it was recorded; empty: the user has to say it
    note: str  # what it must be


class Inputs:
    """The variables of one script; equal values of one option share a variable."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str], Input] = {}

    def __iter__(self) -> Iterator[Input]:
        return iter(self._found.values())

    def word(self, option: str, value: str, note: str) -> str:
        """The variable of `option` as a shell word; `option` is a key of our own tables."""
        key = (option, value, note)
        if key not in self._found:
            others = sum(1 for known, _, _ in self._found if known == option)
            name = option.upper() + (f"_{others + 1}" if others else "")
            self._found[key] = Input(name, value, note)
        return f'"${self._found[key].name}"'


def command(step: Step, *, source: str, out: str | None, inputs: Inputs, base: str) -> str:
    """The command line of `step`, an option a line.

    source, out: shell words for what it reads and the bundle it writes, None if it writes into `source`. base: the
    bundle's base as it was recorded. Raises OptionError, with the reason, for a step that cannot be repeated.
    """
    if step.verb in BEYOND:
        raise OptionError(BEYOND[step.verb])
    if step.verb not in FLAGS:
        raise OptionError(f"this version of opentrans has no command '{step.verb}'; upgrade opentrans")
    flags = FLAGS[step.verb]
    words = []
    for option, value in sorted(step.options.items()):
        if option not in flags:
            raise OptionError(f"this version of opentrans has no such option: '{option}'; upgrade opentrans")
        words += _words(option, flags[option], value, step=step, inputs=inputs, base=base)
    if step.seed is not None:
        words.append(f"--seed={step.seed}")
    if out is not None:
        words.append(f"--out={out}")
    # After "--" no argument is taken for an option, whatever it begins with.
    return " \\\n    ".join([f"{_program(step)} {step.verb}", *words, f"-- {source}"])


def _program(step: Step) -> str:
    threads, processes = (step.options.get(name) for name in ("threads", "processes"))
    for name, count in (("threads", threads), ("processes", processes)):
        if count is not None and (type(count) is not int or not 0 < count < 10**4):
            raise OptionError(f"not a number of {name}: {count!r}; the record is damaged")
    start = f"OMP_NUM_THREADS={threads} " if threads else ""
    if processes is not None and processes > 1:
        return f"{start}torchrun --nproc-per-node={processes} -m opentrans_cli"
    return f"{start}opentrans"


def _words(option: str, flag: Flag, value: Any, *, step: Step, inputs: Inputs, base: str) -> list[str]:
    """What one option puts on the command line, each a shell word."""
    name = flag.spelled(option)
    if flag.kind in ("run", "source"):
        return []
    if flag.kind == "fixed":
        if value != flag.only:
            raise OptionError(f"no flag gives this option: '{option}' = {value!r}; use the Python function")
        return []
    if value is None:
        return []
    if flag.kind == "base":
        return [f"{name}={base_word(base, inputs)}"]
    if flag.kind == "bundle":
        return [f"{name}={inputs.word(option, '', f'the bundle {text(option, value)}')}"]
    if flag.kind == "path" and value not in flag.words:
        return [f"{name}={inputs.word(option, _only_text(option, value), f'data of {step.verb}: {step.data}')}"]
    if flag.kind == "pairs":
        return [f"{name}={quoted(option, pair)}" for pair in _pairs(option, value)]
    if flag.kind == "commas":
        return [f"{name}={quoted(option, _joined(option, value))}"] if value else []
    if isinstance(value, bool):
        return [name] if value else [flag.off] if flag.off else []
    return [f"{name}={quoted(option, each)}" for each in (value if isinstance(value, list) else [value])]


def base_word(source: str, inputs: Inputs) -> str:
    """The variable that holds the base."""
    return inputs.word("base", text("base", source), "where the base lies")


def imported(step: Step, inputs: Inputs) -> str:
    """The variable that holds the checkpoint a bundle was imported from."""
    return inputs.word("file", _only_text("file", step.options.get("file")), f"the imported checkpoint, {step.data}")


def quoted(option: str, value: Any) -> str:
    """One shell word that is `value` and nothing else."""
    return shlex.quote(text(option, value))


def text(option: str, value: Any) -> str:
    """Text or number of an option as text; OptionError for other values, and for characters that cannot be seen."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise OptionError(f"neither text nor a number: '{option}'; the record is damaged")
    shown = str(value)
    if any(unicodedata.category(char) in _INVISIBLE for char in shown):
        raise OptionError(f"value with characters that cannot be seen: '{option}'; do not trust the record")
    return shown


def _only_text(option: str, value: Any) -> str:
    if not isinstance(value, str):
        raise OptionError(f"not the path of data: '{option}'; it was recorded by an older version")
    return text(option, value)


def _pairs(option: str, value: Any) -> Iterator[str]:
    """A framework's options as `--option` reads them."""
    if not isinstance(value, dict):
        raise OptionError(f"not an object: '{option}'; the record is damaged")
    for key, each in sorted(value.items()):
        word = each is None or isinstance(each, bool)
        yield f"{key}={str(each).lower() if word else text(option, each)}"


def _joined(option: str, value: Any) -> str:
    names = [text(option, name) for name in value] if isinstance(value, list) else []
    if not names or any("," in name for name in names):
        raise OptionError(f"not a list of names without commas: '{option}'; the record is damaged")
    return ",".join(names)
