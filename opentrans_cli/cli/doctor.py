"""opentrans doctor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentrans_cli.cli.command import Talk, command
from opentrans_cli.files.figures import human_bytes
from opentrans_cli.option import Options, option

if TYPE_CHECKING:
    from opentrans_cli.steps.look.doctor import DoctorResult, PackageState


@dataclass(frozen=True)
class DoctorRequest(Options):
    """How much is looked at."""

    imports: bool = option(True, help="import every package, to see whether it works and which devices torch has")


@command
def doctor_command(asked: DoctorRequest, talk: Talk) -> None:
    """Show what is installed, what this machine can do and what is broken, as Markdown to paste into an issue.

    opentrans doctor
    opentrans doctor --no-imports
    """
    from opentrans_cli.steps.look.doctor import doctor

    result = doctor(**vars(asked), reporter=talk.reporter)
    # Print without the console's markup and line width: it is to be pasted.
    talk.emit(result.to_json(), lambda console: console.file.writelines(f"{line}\n" for line in _lines(result)))


def _lines(result: DoctorResult) -> Iterator[str]:
    yield f"## opentrans {result.opentrans}\n"
    if result.python:
        yield f"- Python: {result.python['version']}, {result.python['implementation']}, {result.python['executable']}"
        yield f"- package: {result.python['package']}"
    yield from (f"- {name}: {value}" for name, value in result.system.items())
    if result.threads is not None:
        yield f"- threads of torch: {result.threads}"
    yield "\n### Devices\n"
    if not result.devices:
        yield "- not looked at"
    for device in result.devices:
        shown = "; ".join(device.names) if device.available else "not available"
        yield f"- {device.kind}: {', '.join(part for part in (shown, device.note) if part) or 'available'}"
    yield "\n### Packages\n"
    yield from (f"- {_package(state)}" for state in result.packages)
    yield "\n### Extras\n"
    for extra in result.extras:
        there = ", ".join(_package(state) for state in extra.packages if state.version is not None)
        install = f"not installed, pip install 'opentrans-cli[{extra.name}]'"
        yield f"- {extra.name} ({extra.commands}): {there if extra.installed else install}"
    yield "\n### Caches and disks\n"
    for cache in result.caches:
        more = "" if cache.complete else "more than "
        size = f"{more}{human_bytes(cache.bytes)} in {cache.files:,} files" if cache.exists else "not there yet"
        yield f"- {cache.of}: {cache.path}, {size}"
    for disk in result.disks:
        yield f"- disk of {', '.join(disk.of)}: {human_bytes(disk.free)} of {human_bytes(disk.total)} free"
    yield "\n### Environment\n"
    yield from (f"- {name}={value}" for name, value in result.environment.items())
    if not result.environment:
        yield "- none of the variables that matter is set"
    yield "\n### Problems\n"
    yield from (f"- {problem}" for problem in result.problems)
    if not result.problems:
        yield "- none found"


def _package(state: PackageState) -> str:
    if state.version is None:
        return f"{state.name}: not installed"
    return f"{state.name} {state.version}{', broken, see below' if state.problem else ''}"
