"""Key rules: each has our name of a tensor and its name in another library.

Both names are written with the same placeholders, so that a rule works in both directions:

    {leaf}      one part of a name, without dots
    {name*}     any parts
    {n#}        a number; {n#+1} on the other side is one more

The other library's name may end in [0], [1] or [2] for a third of the rows of a packed projection, or in ^T for a
transposed tensor. It may begin with ../ if the tensor is beside the tower instead of inside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

_PLACEHOLDER = re.compile(r"\{(\w+)(#|\*)?([+-]\d+)?\}")
_KINDS = {None: r"[^.\[\]]+", "#": r"(?:0|[1-9]\d*)", "*": r".+"}
_ENDING = re.compile(r"(?P<key>.*?)(?:\[(?P<third>[012])\])?(?P<transposed>\^T)?")


@dataclass(frozen=True)
class Place:
    """Where the values of one of our tensors are in a checkpoint."""

    key: str  # whole name in the checkpoint
    rule: NameRule
    third: int | None = None  # 0, 1 or 2: which rows of a packed projection
    transposed: bool = False

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the checkpoint's tensor if our tensor has `shape`."""
        if self.transposed:
            shape = shape[::-1]
        return shape if self.third is None or not shape else (3 * shape[0], *shape[1:])

    def rows(self, stored: tuple[int, ...]) -> slice:
        """The rows of the checkpoint's tensor, of shape `stored`, that hold our tensor."""
        if self.third is None:
            return slice(None)
        each = stored[0] // 3
        return slice(self.third * each, (self.third + 1) * each)


@dataclass(frozen=True)
class NameRule:
    """Our name of a tensor and its name in another library."""

    ours: str | None  # None: not needed here
    theirs: str | None  # None: the other library has no place for it
    kind: str = ""  # what the tensors are, or why they are left out, for tables and errors

    @property
    def text(self) -> str:
        """The rule as text for messages and tables."""
        return f"{self.ours} -> {self.theirs}"

    def matches(self, name: str) -> bool:
        """Whether the rule applies to our tensor `name`."""
        return self._place_of(name) is not None

    def place(self, name: str) -> Place | None:
        """Where our tensor `name` is; None if the rule does not apply to it, or it has no place."""
        found = self._place_of(name)
        if found is None or self.theirs is None:
            return None
        return Place(_fill(self._key, found.groupdict()), self, self.third, self.transposed)

    def name(self, key: str) -> str | None:
        """Our name of their tensor `key` or a third of it; None if the rule does not apply, or it is not needed."""
        found = self._there.fullmatch(key)
        if found is None or self.ours is None:
            return None
        name = _fill(self.ours, _shifted(self._key, found.groupdict(), sign=-1))
        back = self.place(name)
        return name if back is not None and back.key == key else None

    def about(self, key: str) -> bool:
        """Whether the rule applies to their tensor `key`."""
        return self._there.fullmatch(key) is not None

    @property
    def third(self) -> int | None:
        """Which third of their tensor ours is."""
        third = self._ending["third"]
        return None if third is None else int(third)

    @property
    def transposed(self) -> bool:
        """Whether their tensor is ours transposed."""
        return self._ending["transposed"] is not None

    def _place_of(self, name: str) -> re.Match[str] | None:
        return None if self.ours is None else self._ours.fullmatch(name)

    @cached_property
    def _ours(self) -> re.Pattern[str]:
        return _pattern(self.ours or "")

    @cached_property
    def _there(self) -> re.Pattern[str]:
        return _pattern(self._key)

    @cached_property
    def _ending(self) -> re.Match[str]:
        found = _ENDING.fullmatch(self.theirs or "")
        assert found is not None
        return found

    @property
    def _key(self) -> str:
        return self._ending["key"]


def below(prefix: str, kind: str, names: Iterable[str]) -> tuple[NameRule, ...]:
    """Rules that put the tensors called `names` (with placeholders) under `prefix`, their names unchanged."""
    return tuple(NameRule(name, prefix + name, kind) for name in names)


def _pattern(template: str) -> re.Pattern[str]:
    parts, end = [], 0
    for found in _PLACEHOLDER.finditer(template):
        parts += [re.escape(template[end : found.start()]), f"(?P<{found[1]}>{_KINDS[found[2]]})"]
        end = found.end()
    return re.compile("".join([*parts, re.escape(template[end:])]))


def _shifted(template: str, values: Mapping[str, str], *, sign: int) -> dict[str, str]:
    """`values` plus (sign 1) or, in the other direction, minus (sign -1) what the placeholders of `template` add."""
    shifts = {found[1]: sign * int(found[3]) for found in _PLACEHOLDER.finditer(template) if found[3]}
    return {name: str(int(value) + shifts[name]) if name in shifts else value for name, value in values.items()}


def _fill(template: str, values: Mapping[str, str]) -> str:
    shifted = _shifted(template, values, sign=1)
    return _PLACEHOLDER.sub(lambda found: shifted[found[1]], template)
