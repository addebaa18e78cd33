"""Which flag repeats a recorded option: the one table from what steps write down to what the command line takes.

An option that is not in it cannot be repeated; one of the options dataclasses is `--its-name`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from opentrans_cli.errors import flag
from opentrans_cli.steps.analyze.options import AnalyzeOptions
from opentrans_cli.steps.finetune.options import FinetuneOptions
from opentrans_cli.steps.prune.options import PruneOptions

Kind = Literal["value", "source", "path", "bundle", "base", "pairs", "commas", "fixed", "run"]
"""How a recorded value is given again:

value    --flag=VALUE; a switch if it is true or false; once for each of a list; left out if it is null
source   the argument of the command
path     as value, but the user's own data, which may lie elsewhere by now
bundle   another bundle, recorded by its digest
base     where the base of the bundle lies
pairs    --flag=NAME=VALUE for each entry of an object
commas   one value, a list joined with commas
fixed    no flag: only one value can be repeated
run      no flag: how the program is started, or its seed, which the step records beside its options
"""


@dataclass(frozen=True)
class Flag:
    """How one option is given again."""

    kind: Kind = "value"
    name: str | None = None  # "--option"; None: the option's own name
    words: tuple[str, ...] = ()  # path: values that are no path
    only: Any = None  # fixed: the value
    off: str | None = None  # value: the switch that says false, where true is what is not said

    def spelled(self, option: str) -> str:
        """The flag on the command line."""
        return self.name or flag(option)


_DATA = {
    "dataset": Flag(),
    "images": Flag("path"),
    "labels": Flag("path"),
    "classes": Flag("path"),
    "split_list": Flag("path"),
    "ignore": Flag(),
    "limit": Flag(),
    "hold_out": Flag("commas"),
    "size": Flag("fixed"),
}
_RUN = {"device": Flag(), "threads": Flag("run"), "processes": Flag("run")}
_BASE = {"base": Flag("base")}


def _named(options: type) -> dict[str, Flag]:
    return {field.name: Flag() for field in fields(options)} | {"seed": Flag("run")}


IMPORT = "import"
"""The verb that starts from a checkpoint, which a script asks for."""

FLAGS: Mapping[str, Mapping[str, Flag]] = {
    "prune": _named(PruneOptions)
    | {
        "source": Flag("source"),
        "images": Flag("path", words=("shapes",)),
        "labels": Flag("path"),
        "classes": Flag("path"),
        "like": Flag("bundle"),
        "compile": Flag(),
    }
    | _RUN,
    IMPORT: {"file": Flag("source")}
    | {name: Flag() for name in ("format", "keys", "under", "include", "dtype", "mask_only")}
    | _BASE,
    "analyze": _named(AnalyzeOptions) | _BASE,
    "transfer": {"to": Flag(), "options": Flag("pairs", "--option"), "at_sparsity": Flag()} | _BASE,
    "finetune": _named(FinetuneOptions)
    | {
        "scale": Flag("commas"),
        "milestones": Flag("commas"),
        "captions": Flag("path"),
        "cache_features": Flag(),
        "flip": Flag(off="--no-flip"),
        "sync_batchnorm": Flag(off="--no-sync-batchnorm"),
    }
    | _DATA
    | _BASE
    | _RUN
    | {"split": Flag("fixed", only="train")},
    "eval": _DATA | _BASE | {"split": Flag("fixed", only="val"), "at_sparsity": Flag(), "curve": Flag()},
}
"""By verb: recorded option -> how it is given again."""

BEYOND = {
    "pull": "it took masks from the Hub and values from the base; run `opentrans pull` with --base again",
}
"""Verbs that a script cannot repeat without a network, and what to do instead."""

MEASURES = ("analyze", "eval")
"""Verbs that add to a bundle and leave its tensors, and so its digest, as they are."""
