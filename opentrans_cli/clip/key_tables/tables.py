"""The tables of `tables.json`: layouts (rules for names inside a tower) and the checkpoints that use them.

Names in a checkpoint are a prefix and a name of the layout. Any prefix is taken; the one a table states only says what
to call the checkpoint, and decides where a checkpoint holds several towers.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentrans_cli.checkpoints.rules import NameRule, Place
from opentrans_cli.errors import OptionError, unknown


@dataclass(frozen=True)
class TowerKind:
    """A kind of image tower, known by a few names that only it has."""

    name: str  # "ModifiedResNet"
    marks: tuple[str, ...]  # names in the layout that all have to be there
    heads: tuple[str, ...]  # starts of our names of what maps into the joint embedding space


@dataclass(frozen=True)
class Layout:
    """How the tensors of a tower are called."""

    name: str
    rules: tuple[NameRule, ...]
    kinds: tuple[TowerKind, ...]  # of towers that are known without their shapes

    def places(self, name: str) -> tuple[Place, ...]:
        """Where the tensor `name` of the tower can be, the likeliest first; empty if the layout has no place for it."""
        return tuple(place for rule in self.rules if (place := rule.place(name)) is not None)

    def name_of(self, key: str, third: int | None = None) -> str | None:
        """Our name of (a third of) the tensor `key` of the layout, relative to the prefix; None if there is none."""
        return next((name for rule in self.rules if rule.third == third and (name := rule.name(key))), None)


@dataclass(frozen=True)
class KeyTable:
    """A kind of checkpoint: a layout below the prefix that is usual for it."""

    name: str
    layout: Layout
    prefix: str  # "" or ending in a dot
    marks: tuple[str, ...]  # keys beside the tower that have to be there

    def fits(self, prefix: str, keys: Collection[str]) -> bool:
        """Whether a tower below `prefix`, in a checkpoint with these `keys`, is what the table describes."""
        parent = prefix.removesuffix(self.prefix)
        return prefix.endswith(self.prefix) and all(parent + mark in keys for mark in self.marks)


def _load() -> tuple[tuple[KeyTable, ...], dict[str, str]]:
    document: dict[str, Any] = json.loads(Path(__file__).with_name("tables.json").read_text(encoding="utf-8"))
    layouts = {
        entry["name"]: Layout(
            entry["name"],
            tuple(NameRule(ours, theirs) for ours, theirs in entry["rules"]),
            tuple(
                TowerKind(kind["kind"], tuple(kind["marks"]), tuple(kind["heads"])) for kind in entry.get("towers", [])
            ),
        )
        for entry in document["layouts"]
    }
    tables = tuple(
        KeyTable(entry["name"], layouts[entry["layout"]], entry["prefix"], tuple(entry["marks"]))
        for entry in document["tables"]
    )
    return tables, document["aliases"]


TABLES, ALIASES = _load()
"""All tables, a more special one before the others of its layout; frameworks whose checkpoints are like another's."""


def table_names() -> tuple[str, ...]:
    """What `--to` may name beside a checkpoint."""
    return (*(table.name for table in TABLES), *ALIASES)


def find_table(name: str) -> KeyTable:
    """The table `name`, or the one it is another word for; OptionError naming the known ones if there is none."""
    found = next((table for table in TABLES if table.name == ALIASES.get(name, name)), None)
    if found is None:
        raise OptionError(unknown("key table", name, table_names()))
    return found
