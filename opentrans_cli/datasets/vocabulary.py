"""The vocabulary: an ordered list of classes, each with its synonyms."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from opentrans_cli.datasets.textfile import read_entries
from opentrans_cli.errors import DataError

INVALID = "invalid_class_id"
"""FC-CLIP's class files mark ids without a class by this name."""

_NUMBERED = re.compile(r"(\d+):(.*)")

Entry = tuple[str, tuple[str, ...]]  # its place in the file (for messages), and its synonyms


@dataclass(frozen=True)
class Vocabulary:
    """Class i is `classes[i]`: its synonyms, of which the first is its name.

    Spelling is kept; comparisons ignore case. Some published benchmarks give two classes the same name.
    """

    classes: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if not self.classes or not all(self.classes):
            raise ValueError("a vocabulary needs at least one class, and a class at least one name")

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each class, in order."""
        return tuple(synonyms[0] for synonyms in self.classes)

    @classmethod
    def from_names(cls, names: Iterable[str]) -> Vocabulary:
        """One class for each "name" or "name,synonym,..."; raises DataError for empty or repeated words."""
        places = [(f"class {index} ('{text}')", text) for index, text in enumerate(names)]
        entries = [(where, _synonyms(text, where)) for where, text in places]
        if not entries:
            raise DataError("no class named: the list of classes is empty; name at least one")
        return cls(_without_repeats(entries))

    @classmethod
    def from_file(cls, path: Path) -> Vocabulary:
        """The classes of a text file, one per line with comma-separated synonyms; `#` starts a comment line.

        Lines of the form `id:name,synonym,...` (FC-CLIP's class files) are understood too: ids must ascend,
        lines named `invalid_class_id` are dropped, and classes are numbered 0, 1, ... in order. Those files
        are published benchmarks, two of which use a word for two classes (ADE20K-847 has two kinds of "pot"),
        so repeats are refused only in the plain form. Raises DataError if the file is missing, empty, not
        UTF-8 or breaks these rules.
        """
        lines = read_entries(path, "class file")
        numbered = [_NUMBERED.fullmatch(text) for _, text in lines]
        if not any(numbered):
            return cls(_without_repeats([_entry(path, number, text) for number, text in lines]))
        entries: list[Entry] = []
        last = -1
        for (number, _), match in zip(lines, numbered, strict=True):
            where = f"{path}, line {number}"
            if match is None:
                raise DataError(f"line without an id among lines with ids: {where}; write 'id:name' or drop all ids")
            if int(match[1]) <= last:
                raise DataError(f"class ids must ascend: {where} has {match[1]} after {last}; sort the lines by id")
            last = int(match[1])
            if match[2].strip() != INVALID:
                entries.append(_entry(path, number, match[2]))
        if not entries:
            raise DataError(f"class file has only {INVALID} lines: {path}; write one class per line")
        return cls(tuple(_distinct(synonyms) for _, synonyms in entries))

    def seen_by(self, names: Iterable[str]) -> tuple[bool, ...]:
        """For each class whether one of its synonyms is among `names` (FC-CLIP's rule for seen classes)."""
        known = {name.strip().casefold() for name in names}
        return tuple(any(word.casefold() in known for word in synonyms) for synonyms in self.classes)


def _entry(path: Path, number: int, text: str) -> Entry:
    where = f"{path}, line {number}"
    return where, _synonyms(text, where)


def _synonyms(text: str, where: str) -> tuple[str, ...]:
    synonyms = tuple(word.strip() for word in text.split(","))
    if not all(synonyms):
        raise DataError(f"empty class name: {where}; remove the extra comma or write the missing name")
    return synonyms


def _distinct(synonyms: tuple[str, ...]) -> tuple[str, ...]:
    """`synonyms` without repeats; the first spelling stays."""
    kept: dict[str, str] = {}
    for word in synonyms:
        kept.setdefault(word.casefold(), word)
    return tuple(kept.values())


def _without_repeats(entries: list[Entry]) -> tuple[tuple[str, ...], ...]:
    """The synonyms of `entries`; raises DataError if any word occurs twice."""
    places: dict[str, str] = {}
    for where, synonyms in entries:
        for word in synonyms:
            if (first := places.setdefault(word.casefold(), where)) != where:
                raise DataError(f"'{word}' names two classes: {first} and {where}; keep it in one")
            if sum(other.casefold() == word.casefold() for other in synonyms) > 1:
                raise DataError(f"'{word}' occurs twice in one class: {where}; keep it once")
    return tuple(synonyms for _, synonyms in entries)
