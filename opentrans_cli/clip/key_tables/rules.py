"""One rule of a key table: a whole name inside open_clip's image tower beside the name another library gives it.

Both sides are written with the same placeholders, so that a rule reads in either direction:

    {leaf}      one part of a name, without dots
    {name*}     any parts
    {n#}        a number; {n#+1} on the other side is one more

and the side of the other library may end in [0], [1] or [2], a third of the rows of a packed projection, in ^T,
transposed, and begin with ../, beside the tower instead of inside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

_PLACEHOLDER = re.compile(r"\{(\w+)(#|\*)?([+-]\d+)?\}")
_KINDS = {None: r"[^.\[\]]+", "#": r"(?:0|[1-9]\d*)", "*": r".+"}
_ENDING = re.compile(r"(?P<key>.*?)(?:\[(?P<third>[012])\])?(?P<transposed>\^T)?")


@dataclass(frozen=True)
class Place:
    """Where the values of one tensor of the tower are in a checkpoint."""

    key: str  # whole name in the checkpoint
    rule: str  # of the table, for people
    third: int | None = None  # 0, 1 or 2: which rows of a packed projection
    transposed: bool = False

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the checkpoint's tensor, if the one of the tower has `shape`."""
        if self.transposed:
            shape = shape[::-1]
        return shape if self.third is None or not shape else (3 * shape[0], *shape[1:])

    def rows(self, stored: tuple[int, ...]) -> slice:
        """The rows of the checkpoint's tensor, of shape `stored`, that are meant."""
        if self.third is None:
            return slice(None)
        each = stored[0] // 3
        return slice(self.third * each, (self.third + 1) * each)


@dataclass(frozen=True)
class NameRule:
    """A name inside the tower and what another library calls it."""

    inside: str
    there: str

    @property
    def text(self) -> str:
        """The rule for people."""
        return f"{self.inside} -> {self.there}"

    def place(self, name: str) -> Place | None:
        """Where the tensor `name` of the tower is, relative to the tower's prefix; None: another rule has it."""
        found = self._inside.fullmatch(name)
        if found is None:
            return None
        ending = _ENDING.fullmatch(_fill(self.there, found.groupdict(), sign=1))
        assert ending is not None
        third = ending["third"]
        return Place(ending["key"], self.text, None if third is None else int(third), ending["transposed"] is not None)

    def name(self, place: Place) -> str | None:
        """The reverse of `place`: the name inside the tower; None if no name has this place under the rule."""
        third = "" if place.third is None else f"[{place.third}]"
        found = self._there.fullmatch(f"{place.key}{third}{'^T' if place.transposed else ''}")
        if found is None:
            return None
        name = _fill(self.inside, _shifted(self.there, found.groupdict(), sign=-1), sign=1)
        back = self.place(name)
        return name if back is not None and back.key == place.key else None

    @cached_property
    def _inside(self) -> re.Pattern[str]:
        return _pattern(self.inside)

    @cached_property
    def _there(self) -> re.Pattern[str]:
        return _pattern(self.there)


def _pattern(template: str) -> re.Pattern[str]:
    parts, end = [], 0
    for found in _PLACEHOLDER.finditer(template):
        parts += [re.escape(template[end : found.start()]), f"(?P<{found[1]}>{_KINDS[found[2]]})"]
        end = found.end()
    return re.compile("".join([*parts, re.escape(template[end:])]))


def _shifted(template: str, values: Mapping[str, str], *, sign: int) -> dict[str, str]:
    """`values` with what the placeholders of `template` add (sign 1) or, read backwards, take away (sign -1)."""
    shifts = {found[1]: sign * int(found[3]) for found in _PLACEHOLDER.finditer(template) if found[3]}
    return {name: str(int(value) + shifts[name]) if name in shifts else value for name, value in values.items()}


def _fill(template: str, values: Mapping[str, str], *, sign: int) -> str:
    shifted = _shifted(template, values, sign=sign)
    return _PLACEHOLDER.sub(lambda found: shifted[found[1]], template)
