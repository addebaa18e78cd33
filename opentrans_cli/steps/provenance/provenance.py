"""provenance: the chain of steps that made a bundle, and a shell script that repeats it.

A manifest may come from anybody. So verbs and options are looked up in a closed table (`command_line.py`), values reach
the shell only in quotes, and if a step cannot be repeated the script ends before it does anything.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from opentrans_cli.bundle.card.markup import LONGEST, printable
from opentrans_cli.bundle.hub.source import local_bundle
from opentrans_cli.bundle.layout import HEAD, MASK, ROUND_WEIGHTS, ROUNDS, WEIGHTS
from opentrans_cli.bundle.manifest import Step
from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.errors import OptionError
from opentrans_cli.reporter import SILENT, Reporter
from opentrans_cli.steps.provenance.command_line import (
    IMPORT,
    MEASURES,
    Inputs,
    Variable,
    base_word,
    command_of,
    imported,
)
from opentrans_cli.steps.provenance.config_file import config_of

_HEAD = """\
#!/bin/sh
# Makes this bundle again, step by step, and compares digests:
# {digest}
#
# usage: sh reproduce.sh [FOLDER]      a new folder for all bundles of the chain (default: reproduced)
#
# Needs `opentrans`. Another version of it or of torch, another processor or number of threads may round otherwise; the
# digest is another one then, and the script says so.
{notes}
set -eu

"""
_START = r"""
out=${1:-reproduced}
if [ -e "$out" ]; then
    printf '%s\n' "reproduce: already exists: $out; name a new folder" >&2
    exit 1
fi
mkdir -p -- "$out"
exec 3>&1 1>&2 # on stdout comes the path of the last bundle alone

check() { # bundle, recorded digest
    found=$(opentrans inspect --json -- "$1" | sed -n 's/^  "digest": "\(sha256:[0-9a-f]*\)".*/\1/p')
    if [ "$found" != "$2" ]; then
        printf '%s\n' "reproduce: another digest: $1 has $found, recorded is $2" >&2
        exit 1
    fi
}

holds() { # bundle, recorded sha256 of one of its files
    if ! grep -q -F -- "\"$2\"" "$1/manifest.json"; then
        printf '%s\n' "reproduce: another mask: $1 holds no file with sha256 $2" >&2
        exit 1
    fi
}
"""
_REFUSAL = """\
printf '%s\\n' {message} >&2
exit 1
"""
PUBLISHED = "push"
MASKS = "masks"
"""In place of a folder: a bundle of masks alone, which no command makes on this machine."""

_IDENTITY = (MASK, WEIGHTS, ROUNDS, ROUND_WEIGHTS, HEAD)


@dataclass(frozen=True)
class ChainStep:
    """One step of the history."""

    number: int  # from 1
    verb: str
    parent: str | None  # digest of the bundle it started from
    digest: str  # digest of the bundle it made
    options: dict[str, Any]  # options as they were recorded
    seed: int | None
    versions: dict[str, str]
    data: str | None  # fingerprint
    command: str | None  # shell text that repeats it; None if that cannot be done
    problem: str | None  # why not

    @property
    def measures(self) -> bool:
        """Whether the step leaves the tensors unchanged."""
        return self.verb in MEASURES

    @property
    def blocks(self) -> bool:
        """Whether a script cannot continue after this step."""
        return self.problem is not None and not (self.measures and self.parent == self.digest)


@dataclass(frozen=True)
class Provenance:
    """How a bundle was made."""

    path: Path
    digest: str
    source: str  # source of the base, as it was given
    base_digest: str
    steps: tuple[ChainStep, ...]  # oldest first
    script: str  # POSIX shell

    @property
    def reproducible(self) -> bool:
        """Whether the script can give the same digest: every step that changed tensors can be repeated."""
        return _can_be_repeated(self.steps)

    def to_json(self) -> dict[str, Any]:
        """The provenance report of `artifacts.schema.json`."""
        return {
            "digest": self.digest,
            "base": {"source": self.source, "digest": self.base_digest},
            "reproducible": self.reproducible,
            "steps": [asdict(step) for step in self.steps],
        }


def provenance(source: Path | str, *, reporter: Reporter = SILENT) -> Provenance:
    """The history of a bundle, read only from its manifest.

    `source` may be hf://org/name[@revision], which is pulled into the cache first. Raises BundleError or HubError.
    """
    bundle = open_bundle(local_bundle(source, reporter))
    base = bundle.manifest.base
    inputs = Inputs()
    steps = tuple(_chain(bundle, inputs))
    script = _script(bundle, steps, tuple(inputs))
    return Provenance(bundle.path, bundle.digest, base.source, base.digest, steps, script)


def provenance_config(source: Path | str, *, step: int | None = None, reporter: Reporter = SILENT) -> str:
    """The recorded options of the steps, or of one, as a TOML file for `--config`.

    Raises OptionError where such a file cannot be written, BundleError or HubError.
    """
    return config_of(open_bundle(local_bundle(source, reporter)), step)


def _chain(bundle: Bundle, inputs: Inputs) -> Iterator[ChainStep]:
    steps = bundle.manifest.steps
    # A step names the bundle it started from, so the next step gives the digest of the bundle it made.
    digests = [*(step.parent or "" for step in steps[1:]), bundle.digest]
    current = None
    for number, (step, digest) in enumerate(zip(steps, digests, strict=False), start=1):
        line, problem = None, None
        target = f'"$out/{number}-{step.verb}"'
        try:
            line = _command(bundle, step, current, target, inputs)
        except OptionError as error:
            problem = printable(str(error))[:LONGEST]
        if step.verb in MEASURES and step.parent != digest:
            line, problem = None, "the history is broken: what it measured is not what comes after it"
        if step.verb == PUBLISHED:
            current = MASKS
        elif step.verb not in MEASURES:
            current = target
        yield ChainStep(
            number,
            step.verb,
            step.parent,
            digest,
            step.options,
            step.seed,
            step.versions,
            step.data,
            line,
            problem,
        )


def _can_be_repeated(steps: tuple[ChainStep, ...]) -> bool:
    return not any(step.blocks for step in steps) and not all(step.measures for step in steps)


def _command(bundle: Bundle, step: Step, current: str | None, target: str, inputs: Inputs) -> str:
    base = bundle.manifest.base.source
    if current is None and (step.verb not in ("prune", IMPORT) or step.parent is not None):
        raise OptionError("it starts from a bundle whose own history is not recorded; ask whoever made it")
    if current is not None and step.verb == IMPORT:
        raise OptionError("an import has a checkpoint before it and no bundle; do not trust the record")
    if current == MASKS:
        raise OptionError("it starts from published masks without values; repeat what led to them instead")
    if step.verb == PUBLISHED and current is not None:
        return _published(bundle, step, current)
    source = current or (imported(step, inputs) if step.verb == IMPORT else base_word(base, inputs))
    return command_of(step, source=source, out=None if step.verb in MEASURES else target, inputs=inputs, base=base)


def _published(bundle: Bundle, step: Step, current: str) -> str:
    """Shell lines which check that the files left of `current`, after only its masks were published, are the same."""
    if step.options != {"mask_only": True}:
        raise OptionError("what it published is not known to this version of opentrans; upgrade opentrans")
    files = [entry for entry in bundle.manifest.files if entry.name in _IDENTITY]
    return "\n".join(f"holds {current} {entry.sha256}" for entry in files)


def _script(bundle: Bundle, steps: tuple[ChainStep, ...], inputs: tuple[Variable, ...]) -> str:
    """The shell script; all recorded text in it is in quotes or in a comment of one line."""
    script = _HEAD.format(digest=bundle.digest, notes="\n".join(_notes(bundle, steps)))
    if not _can_be_repeated(steps):
        return script + "".join(_refusals([step for step in steps if step.blocks]))
    for entry in inputs:
        script += f"{entry.name}={shlex.quote(entry.value)} # {printable(entry.note)}\n"
    for entry in inputs:
        if not entry.value:
            message = shlex.quote(f"reproduce: say at the top of this script where it is: {entry.name}, {entry.note}")
            script += f"[ -n \"${entry.name}\" ] || {{ printf '%s\\n' {message} >&2; exit 1; }}\n"
    script += _START
    last = ""
    for step in steps:
        script += f"\n# {step.number}. {step.verb}\n"
        if step.command is None:
            script += f"# left out, it changes no tensor: {step.problem}\n"
            continue
        script += f"{step.command}\n"
        if not step.measures and step.verb != PUBLISHED:
            last = f'"$out/{step.number}-{step.verb}"'
            script += f"check {last} {step.digest}\n"
    return script + f"\nprintf '%s\\n' {last} >&3\n"


def _notes(bundle: Bundle, steps: tuple[ChainStep, ...]) -> Iterator[str]:
    yield "#"
    yield f"# base: {printable(bundle.manifest.base.source)}, image tower {bundle.manifest.base.digest}"
    for step in steps:
        versions = ", ".join(f"{name} {version}" for name, version in sorted(step.versions.items()))
        data = "no data" if step.data is None else f"data {step.data}"
        yield f"# step {step.number}: {printable(f'{step.verb} with {versions}; {data}')}"


def _refusals(problems: list[ChainStep]) -> Iterator[str]:
    lines = [f"reproduce: cannot be repeated: step {step.number}, {step.verb}: {step.problem}" for step in problems]
    lines = lines or ["reproduce: no step that makes it is recorded; ask whoever made the bundle"]
    for line in lines:
        yield f"# {line}\n"
    yield _REFUSAL.format(message=" ".join(map(shlex.quote, lines)))
