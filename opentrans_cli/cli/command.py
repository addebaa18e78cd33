"""A command whose arguments and options are the fields of dataclasses."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin, get_type_hints

import typer

from opentrans_cli.cli.completion import completer
from opentrans_cli.cli.config import ConfigChoice, Offered, read_config
from opentrans_cli.cli.output import ConsoleReporter, Show, emit
from opentrans_cli.errors import OptionError, RunStopped
from opentrans_cli.option import Options, Statement, option, shown, stated

T = TypeVar("T")


class Typed(dict[str, Any], Generic[T]):
    """The options of `T` that the user typed, by field; options left at their defaults are not in it."""


@dataclass(frozen=True)
class Talk(Options):
    """How a command answers."""

    json: bool = option(False, help="print one JSON document on stdout")
    quiet: bool = option(False, also=("-q",), help="print no messages and no progress on stderr")

    @property
    def reporter(self) -> ConsoleReporter:
        """Where a step sends its messages."""
        return ConsoleReporter(quiet=self.quiet)

    def emit(self, document: dict[str, Any], show: Show, path: Path | str | None = None) -> None:
        """Print one result; `path` (or address) is what the command wrote, `show` prints the table for people."""
        try:
            emit(document, show, as_json=self.json, path=path, quiet=self.quiet)
        except KeyboardInterrupt as error:
            if isinstance(path, Path):  # the same command would be refused where its result lies
                raise error from RunStopped(written=path)
            raise


@dataclass(frozen=True)
class Force(Options):
    """What a command that writes does with existing files."""

    force: bool = option(False, help="replace an output that exists, if this program wrote it")


@dataclass(frozen=True)
class Resume(Options):
    """What a command that trains does with an interrupted run."""

    resume: bool = option(False, help="continue a run that was interrupted; its other options have to be repeated")


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of `function`, which takes dataclasses of options; every field is an argument or option.

    A parameter of the class `Typed[T]` offers the options of `T` and gets those that were typed, here or in the file of
    `--config`. Lines of the docstring that begin with `opentrans` are examples, which stand at the end of `--help`.
    """
    hints = {name: hint for name, hint in get_type_hints(function).items() if name != "return"}
    groups: dict[str, type] = {name: get_args(hint)[0] if get_args(hint) else hint for name, hint in hints.items()}
    types = {group: get_type_hints(group) for group in groups.values()}
    offered = {field.name: (field, said, types[group][field.name]) for group in types for field, said in stated(group)}
    ((file, about_file),) = stated(ConfigChoice)
    lines = [line.strip() for line in (function.__doc__ or "").splitlines()]

    def fill(ctx: typer.Context, value: Path | None) -> Path | None:
        """Take the values of the file for options that are not typed; click asks `default_map` for these."""
        if value is not None and not ctx.resilient_parsing:
            root: Any = ctx.find_root().command
            kinds = {name: _offered(said, hint) for name, (_, said, hint) in offered.items()}
            ctx.default_map = read_config(value, str(ctx.info_name), root.list_commands(ctx), kinds)
        return value

    def run(ctx: typer.Context, **values: Any) -> None:
        values.pop(file.name)
        given = {name: _read(*offered[name], value) for name, value in values.items()}
        typed = {name for name in given if _is_typed(ctx, name)}
        made: dict[str, Any] = {}
        for name, group in groups.items():
            own = {field.name: given[field.name] for field, _ in stated(group)}
            if get_origin(hints[name]) is Typed:
                made[name] = Typed({field: value for field, value in own.items() if field in typed})
            else:
                made[name] = group(**own)
        function(**made)

    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters = [context, *(_parameter(*each) for each in offered.values())]
    parameters.append(_parameter(file, about_file, Path | None, callback=fill, is_eager=True))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__name__, run.__doc__ = function.__name__, unmarked(lines[0])
    run.groups = (*groups.values(), ConfigChoice)  # type: ignore[attr-defined]
    examples = (unmarked(line) for line in lines if line.startswith("opentrans "))
    run.epilog = "\n".join(["Examples:", *examples])  # type: ignore[attr-defined]
    return run


def unmarked(text: str) -> str:
    """`text` for `--help`, where rich would take [name] for markup and leave it out."""
    return text.replace("[", r"\[")


def _is_typed(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _offered(said: Statement, hint: Any) -> Offered:
    """What the file of `--config` may say about an option."""
    core = _core(hint)
    return Offered(said, switch=core is bool, several=get_origin(core) in (tuple, dict))


def _parameter(field: Field[Any], said: Statement, hint: Any, **more: Any) -> inspect.Parameter:
    """The parameter from which typer makes an argument or option."""
    text = said.described()
    settings: dict[str, Any] = {"help": unmarked(f"{text[:1].upper()}{text[1:]}.")}
    settings |= {"rich_help_panel": said.panel, "metavar": said.metavar, **more}
    default = field.default
    if (offer := completer(said)) is not None:
        settings["autocompletion"] = offer
    if isinstance(default, tuple | dict):
        settings["show_default"], default = (shown(default) if default else said.unset or False), None
    elif default is None and said.unset is not None:
        settings["show_default"] = said.unset
    kind = _read_as(said, hint)
    if said.argument:
        info: Any = typer.Argument(**settings)
    else:
        name = said.spelled(field.name)
        info = typer.Option(f"{name}/--no-{name[2:]}" if default is True else name, *said.also, **settings)
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is MISSING else default,
        annotation=Annotated[kind, info],
    )


def _core(hint: Any) -> Any:
    """A type without its `| None`."""
    parts = [part for part in get_args(hint) if part is not type(None)]
    return parts[0] if type(None) in get_args(hint) else hint


def _read_as(said: Statement, hint: Any) -> Any:
    """The type that typer reads; several values are a list, or one text with commas."""
    core = _core(hint)
    if get_origin(core) in (tuple, dict):
        each = Path if Path in get_args(core) else str
        return str | None if said.kind == "commas" else list[each] | None  # type: ignore[valid-type]
    plain = core if core in (bool, int, float, Path) else str
    return plain if core is hint else plain | None


def _read(field: Field[Any], said: Statement, hint: Any, value: Any) -> Any:
    """The value of a field, from the value that typer read."""
    core = _core(hint)
    if value is None and isinstance(field.default, tuple | dict):
        return field.default
    if get_origin(core) is dict:
        return _pairs(said.spelled(field.name), value or (), said.metavar or "output_stride=8")
    if get_origin(core) is not tuple or value is None:
        return value
    if said.kind != "commas":
        return tuple(value)
    parts = tuple(part.strip() for part in value.split(",") if part.strip())
    number = next((kind for kind in (int, float) if kind in get_args(core)), None)
    if number is None:
        return parts
    try:
        return tuple(map(number, parts))
    except ValueError:
        name, example = said.spelled(field.name), shown(field.default) or "0,255"
        raise OptionError(f"not numbers with commas: {name} {value}; such as {name} {example}") from None


def _pairs(name: str, values: Sequence[str], example: str) -> dict[str, str]:
    for pair in values:
        if "=" not in pair:
            raise OptionError(f"not NAME=VALUE: {name} {pair}; write for example {example}")
    return {left.strip(): right.strip() for left, _, right in (pair.partition("=") for pair in values)}
