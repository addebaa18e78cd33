"""Every option is defined once: as a field of a dataclass, with its default, range or choices, help and kind.

    @dataclass(frozen=True)
    class PruneOptions(Options):
        lr: float = option(1e-3, above=0, help="learning rate of AdamW", panel="Distillation")

This definition gives the check of the value, the parameter of the command line (`cli/command.py`), the flag in a script
of `provenance`, and the row in the tables of `docs/commands.md`. A field without `option` can be set only in Python.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from numbers import Real
from typing import Any, Literal

from opentrans_cli.errors import OptionError, flag, unknown

Kind = Literal["value", "source", "path", "bundle", "base", "pairs", "commas"]
"""What the value is, and so how a recorded one is given again on a command line:

value    text, a number or a switch; each of several is given by itself
source   what the command reads: its argument
path     the user's own data, which may lie elsewhere by now
bundle   another bundle, recorded by its digest
base     where the base of the bundle lies
pairs    names and values, each pair given by itself as NAME=VALUE
commas   several values in one text, with commas
"""


Completes = Literal["source", "bundle", "layer", "block", "round"]
"""What the shell lists for a value: sources or bundles that are here, or layers, blocks or sparsities of the source."""

_COMPLETED: Mapping[Kind, Completes] = {"base": "source", "bundle": "bundle"}


@dataclass(frozen=True)
class Statement:
    """The description of an option apart from its name, type and default; see `option`."""

    help: str
    panel: str | None
    above: float | None
    least: float | None
    below: float | None
    most: float | None
    choices: Mapping[str, str]
    noun: str | None
    unset: str | None
    kind: Kind
    flag: str | None
    also: tuple[str, ...]
    argument: bool
    metavar: str | None
    known: tuple[str, ...]
    completes: Completes | None

    def spelled(self, name: str) -> str:
        """The option of the field `name` as a user types it: "--weight-decay"."""
        return self.flag or flag(name)

    @property
    def wanted(self) -> str:
        """The range in words; "" if every value is allowed."""
        ends = {
            "above {}": self.above,
            "{} or more": self.least,
            "below {}": self.below,
            "at most {}": self.most,
        }
        if self.least is not None and self.most is not None:
            return f"{_number(self.least)} to {_number(self.most)}"
        return ", ".join(text.format(_number(end)) for text, end in ends.items() if end is not None)

    def holds(self, number: float) -> bool:
        """Whether a number is in the range; NaN and infinite values never are."""
        return (
            math.isfinite(number)
            and (self.above is None or number > self.above)
            and (self.least is None or number >= self.least)
            and (self.below is None or number < self.below)
            and (self.most is None or number <= self.most)
        )

    def described(self, name: Callable[[str], str] = str) -> str:
        """The help with the allowed values: "learning rate of AdamW (above 0)"; `name` formats the names in it."""
        choices = [f"{name(each)} ({why})" if why else name(each) for each, why in self.choices.items()]
        listed = " or ".join(part for part in (", ".join(choices[:-1]), *choices[-1:]) if part)
        return f"{self.help}{f': {listed}' if listed else ''}{f' ({self.wanted})' if self.wanted else ''}"


def option(
    default: Any = MISSING,
    *,
    help: str,
    panel: str | None = None,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    choices: Mapping[str, str] | Sequence[str] = (),
    noun: str | None = None,
    unset: str | None = None,
    kind: Kind = "value",
    flag: str | None = None,
    also: tuple[str, ...] = (),
    argument: bool = False,
    metavar: str | None = None,
    known: Sequence[str] = (),
    completes: Completes | None = None,
) -> Any:
    """A field of an options dataclass; an option without a default is required.

    help: a short phrase. panel: its heading in `--help`. above, least, below, most: the range of a number, or of each
    number in a tuple. choices: the allowed names, with or without a description of each. noun: what such a name is
    called ("criterion"); None: the field's own name. unset: what applies where the default is None. flag: the flag, if
    it differs from the name. also: other flags for the same option ("-s"). argument: it is positional and has no flag.
    known: values that the shell offers beside others that are allowed. completes: what it lists; by default what `kind`
    says.
    """
    listed = choices if isinstance(choices, Mapping) else dict.fromkeys(choices, "")
    completes = completes or _COMPLETED.get(kind)
    said = Statement(
        *(help, panel, above, least, below, most, listed, noun, unset, kind, flag, also, argument, metavar),
        *(tuple(known), completes),
    )
    return field(default=default, metadata={Statement: said})


def seed() -> Any:
    """The field of the seed, which several dataclasses have."""
    return option(0, least=0, most=2**32 - 1, help="seed of everything random")


def workers(count: int, what: str, *, panel: str | None = None) -> Any:
    """The field of how many workers make pictures ahead; what: they are and do, as in "threads that read pictures"."""
    return option(count, least=0, most=1024, help=f"{what}; 0 does it in the main one", panel=panel)


def stated(options: Any) -> Iterator[tuple[Field[Any], Statement]]:
    """The fields of a dataclass, or of an instance of one, that are options, in their order."""
    for each in fields(options):
        if (said := each.metadata.get(Statement)) is not None:
            yield each, said


class Options:
    """A base for dataclasses of options: creating one with a value out of range raises an error."""

    def __post_init__(self) -> None:
        """Raises OptionError for a value that is out of its range or not one of its choices."""
        for each, said in stated(self):
            value = getattr(self, each.name)
            if value is not None:
                for part in value if isinstance(value, tuple | list) else (value,):
                    _check(each, said, part, shown(value))


def shown(value: Any) -> str:
    """A value as a user types it: 0.5, "a", (0.8, 0.9) -> "0.8,0.9"."""
    if isinstance(value, tuple | list):
        return ",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check(each: Field[Any], said: Statement, value: Any, text: str) -> None:
    name = said.spelled(each.name)
    if said.choices and value not in said.choices:
        raise OptionError(unknown(said.noun or each.name.replace("_", " "), value, said.choices))
    if isinstance(value, Real) and not isinstance(value, bool) and not said.holds(float(value)):
        raise OptionError(f"out of range: {name} {text}; give {said.wanted or 'a finite number'}")


def _number(value: float) -> str:
    return f"{value:g}" if value % 1 or value % 10**6 == 0 else str(int(value))
