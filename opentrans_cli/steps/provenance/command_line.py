"""The command that repeats a recorded step, as shell text in which recorded values can only be arguments.

It is made from the recorded options. A recorded command line would hold the paths of one machine and `--force`, and a
stranger could write anything into it. How an option looks on a command line follows from its one definition.
"""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass
from typing import Any

from opentrans_cli.bundle.manifest import Step
from opentrans_cli.datasets import DATASETS
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.errors import OptionError
from opentrans_cli.option import Statement, stated
from opentrans_cli.steps.analyze.options import AnalyzeOptions, CostChoice
from opentrans_cli.steps.eval.options import EvalOptions, ScoreOptions, TaskOptions
from opentrans_cli.steps.finetune.options import FinetuneControls, FinetuneOptions
from opentrans_cli.steps.import_options import ImportOptions
from opentrans_cli.steps.prune.options import PruneControls, PruneOptions
from opentrans_cli.steps.shared_options import BaseChoice, DataChoice, Machine, RoundChoice
from opentrans_cli.steps.transfer.options import TransferOptions

_INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")  # controls, text direction, surrogates, line and paragraph separators

Flags = Mapping[str, tuple[Field[Any], Statement]]


def _flags(options: type, *names: str) -> Flags:
    """The options of a dataclass, or only the recorded ones."""
    return {field.name: (field, said) for field, said in stated(options) if not names or field.name in names}


IMPORT = "import"
"""The verb that starts from a checkpoint, which a script asks for."""

_DATA = {**_flags(DataChoice), **_flags(DatasetOptions), **_flags(BaseChoice)}
FLAGS: Mapping[str, Flags] = {
    "prune": {**_flags(PruneOptions), **_flags(PruneControls, "compile"), **_flags(Machine)},
    IMPORT: _flags(ImportOptions),
    "analyze": {**_flags(AnalyzeOptions), **_flags(CostChoice, "resolution"), **_flags(BaseChoice)},
    "transfer": {**_flags(TransferOptions, "to", "options"), **_flags(RoundChoice), **_flags(BaseChoice)},
    "finetune": {**_flags(FinetuneOptions), **_flags(FinetuneControls, "cache_features"), **_flags(Machine), **_DATA},
    "eval": {
        **_flags(EvalOptions),
        **_flags(ScoreOptions),
        **_flags(TaskOptions, "task"),
        **_flags(RoundChoice),
        **_DATA,
    },
}
"""By verb the options that are recorded, and so may stand in a script: none that says where something is written."""

RUN = ("seed", "threads", "processes")
"""What no flag repeats: how the program is started, and its seed, which a step records beside its options."""

FIXED = {"split": {"finetune": "train", "eval": "val"}, "size": {}}
"""Options for Python alone, of which one value can be repeated: that of the verb, or null."""

BEYOND = {
    "pull": "it took masks from the Hub and values from the base; run `opentrans pull` with --base again",
}
"""Verbs that a script cannot repeat without a network, and what to do instead."""

MEASURES = ("analyze", "eval")
"""Verbs that add to a bundle and leave its tensors, and so its digest, as they are."""


@dataclass(frozen=True)
class Variable:
    """A shell variable at the top of a script, for a file or source that may have moved."""

    name: str  # "IMAGES"
    value: str  # as it was recorded; empty: the user has to fill it in
    note: str  # what it must be


class Inputs:
    """The variables of one script; equal values of one option share a variable."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str], Variable] = {}

    def __iter__(self) -> Iterator[Variable]:
        return iter(self._found.values())

    def word(self, option: str, value: str, note: str) -> str:
        """The variable of `option` as a shell word; `option` is a key of the tables of this module."""
        key = (option, value, note)
        if key not in self._found:
            others = sum(1 for known, _, _ in self._found if known == option)
            name = option.upper() + (f"_{others + 1}" if others else "")
            self._found[key] = Variable(name, value, note)
        return f'"${self._found[key].name}"'


def command_of(step: Step, *, source: str, out: str | None, inputs: Inputs, base: str) -> str:
    """The command line of `step`, one option per line.

    source, out: shell words for what it reads and the bundle it writes, None if it writes into `source`. base: the
    bundle's base as it was recorded. Raises OptionError, with the reason, for a step that cannot be repeated.
    """
    check_verb(step)
    words = []
    for option, value in sorted(step.options.items()):
        words += _words(option, value, step=step, inputs=inputs, base=base)
    if step.seed is not None:
        words.append(f"--seed={step.seed}")
    if out is not None:
        words.append(f"--out={out}")
    # After "--" no argument is read as an option, whatever it begins with.
    return " \\\n    ".join([f"{_program(step)} {step.verb}", *words, f"-- {source}"])


def check_verb(step: Step) -> None:
    """Raises OptionError, with the reason, for a step that no command repeats."""
    if step.verb in BEYOND:
        raise OptionError(BEYOND[step.verb])
    if step.verb not in FLAGS:
        raise OptionError(f"this version of opentrans has no command '{step.verb}'; upgrade opentrans")


def _program(step: Step) -> str:
    threads, processes = (step.options.get(name) for name in ("threads", "processes"))
    for name, count in (("threads", threads), ("processes", processes)):
        if count is not None and (type(count) is not int or not 0 < count < 10**4):
            raise OptionError(f"not a number of {name}: {count!r}; the record is damaged")
    start = f"OMP_NUM_THREADS={threads} " if threads else ""
    if processes is not None and processes > 1:
        return f"{start}torchrun --nproc-per-node={processes} -m opentrans_cli"
    return f"{start}opentrans"


def stated_option(option: str, value: Any, step: Step) -> tuple[Field[Any], Statement] | None:
    """The option that repeats a recorded one; None if nothing does or is needed. Raises OptionError with the reason."""
    if option in RUN:
        return None
    if option in FIXED:
        if value != FIXED[option].get(step.verb):
            raise OptionError(f"no flag gives this option: '{option}' = {value!r}; use the Python function")
        return None
    if option not in FLAGS[step.verb]:
        raise OptionError(f"this version of opentrans has no such option: '{option}'; upgrade opentrans")
    found = FLAGS[step.verb][option]
    return None if found[1].kind == "source" or value is None else found


def _words(option: str, value: Any, *, step: Step, inputs: Inputs, base: str) -> list[str]:
    """The shell words that one option adds to the command line."""
    found = stated_option(option, value, step)
    if found is None:
        return []
    field, said = found
    name = said.spelled(option)
    if said.kind == "base":
        return [f"{name}={base_word(base, inputs)}"]
    if said.kind == "bundle":
        return [f"{name}={inputs.word(option, '', f'the bundle {text(option, value)}')}"]
    if said.kind == "path" and value not in DATASETS.names():
        return [f"{name}={inputs.word(option, only_text(option, value), f'data of {step.verb}: {step.data}')}"]
    if said.kind == "pairs":
        return [f"{name}={quoted(option, pair)}" for pair in pairs(option, value)]
    if said.kind == "commas":
        return [f"{name}={quoted(option, joined(option, value))}"] if value not in ([], "") else []
    if isinstance(value, bool):
        return [name] if value else [f"--no-{name[2:]}"] if field.default is True else []
    return [f"{name}={quoted(option, each)}" for each in (value if isinstance(value, list) else [value])]


def base_word(source: str, inputs: Inputs) -> str:
    """The variable that holds the base."""
    return inputs.word("base", text("base", source), "where the base lies")


def imported(step: Step, inputs: Inputs) -> str:
    """The variable that holds the checkpoint a bundle was imported from."""
    return inputs.word("file", only_text("file", step.options.get("file")), f"the imported checkpoint, {step.data}")


def quoted(option: str, value: Any) -> str:
    """One shell word that is `value` and nothing else."""
    return shlex.quote(text(option, value))


def text(option: str, value: Any) -> str:
    """Text or number of an option as text. Raises OptionError for other values and for invisible characters."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise OptionError(f"neither text nor a number: '{option}'; the record is damaged")
    shown = str(value)
    if any(unicodedata.category(char) in _INVISIBLE for char in shown):
        raise OptionError(f"value with characters that cannot be seen: '{option}'; do not trust the record")
    return shown


def only_text(option: str, value: Any) -> str:
    if not isinstance(value, str):
        raise OptionError(f"not the path of data: '{option}'; it was recorded by an older version")
    return text(option, value)


def pairs(option: str, value: Any) -> Iterator[str]:
    """A framework's options as `--option` reads them."""
    if not isinstance(value, dict):
        raise OptionError(f"not an object: '{option}'; the record is damaged")
    for key, each in sorted(value.items()):
        word = each is None or isinstance(each, bool)
        yield f"{key}={str(each).lower() if word else text(option, each)}"


def joined(option: str, value: Any) -> str:
    values = [value] if type(value) is int else value  # an older record may have one id in place of several
    names = [text(option, name) for name in values] if isinstance(values, list) else []
    if not names or any("," in name for name in names):
        raise OptionError(f"not a list of names without commas: '{option}'; the record is damaged")
    return ",".join(names)
