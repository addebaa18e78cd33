"""A catalog: the closed table of names a user may choose from, each loaded on demand.

Tables hold strings, so help text and completion list names without importing torch, and a name that comes from a file
can only ever be looked up, never imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from opentrans_cli.errors import OptionError, unknown


class Catalog:
    """Names of one kind (pattern, estimator, framework, data set) and where each is defined.

    `targets` maps each name to "package.module:object"; these strings are constants in our source.
    """

    def __init__(self, kind: str, targets: Mapping[str, str]) -> None:
        self.kind = kind
        self.targets = dict(targets)

    def names(self) -> tuple[str, ...]:
        """All names, in the order of the table."""
        return tuple(self.targets)

    def load(self, name: str) -> Any:
        """The object called `name`; raises OptionError naming the known ones if there is none."""
        if name not in self.targets:
            raise OptionError(unknown(self.kind, name, self.targets))
        module, _, attribute = self.targets[name].partition(":")
        return getattr(import_module(module), attribute)
