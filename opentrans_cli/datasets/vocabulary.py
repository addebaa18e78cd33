"""The vocabulary: an ordered list of classes, each with its synonyms."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from opentrans_cli.errors import DataError

_BETWEEN = re.compile("[,;]")
_BETWEEN_NAMES = re.compile(r"(?<!\\)[|]|[,;]")

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
        """One class for each "name", "name|synonym|..." or "name,synonym,..."; a bar in a word is written "\\|".

        Raises DataError for empty or repeated words.
        """
        places = [(f"class {index} ('{text}')", text) for index, text in enumerate(names)]
        entries = [
            (where, tuple(word.replace(r"\|", "|") for word in synonyms_in(text, where, between=_BETWEEN_NAMES)))
            for where, text in places
        ]
        if not entries:
            raise DataError("no class named: the list of classes is empty; name at least one")
        return cls.from_entries(entries)

    @classmethod
    def from_entries(cls, entries: Iterable[Entry]) -> Vocabulary:
        """One class for each entry. Raises DataError, with its place, for a word that occurs twice."""
        return cls(_without_repeats(list(entries)))

    def without(self, names: Collection[str]) -> Vocabulary:
        """The classes whose names are not among `names`, in their order; all of them if none would be left."""
        kept = tuple(each for each in self.classes if each[0].casefold() not in names)
        return Vocabulary(kept or self.classes)

    def seen_by(self, names: Iterable[str]) -> tuple[bool, ...]:
        """For each class whether one of its synonyms is among `names` (FC-CLIP's rule for seen classes)."""
        known = {name.strip().casefold() for name in names}
        return tuple(any(word.casefold() in known for word in synonyms) for synonyms in self.classes)


def synonyms_in(text: str, where: str, *, between: re.Pattern[str] = _BETWEEN) -> tuple[str, ...]:
    """The words between the commas and semicolons of a text, or what else stands `between`, without quotes around them.

    `where` is its place in messages. Raises DataError for an empty word.
    """
    synonyms = tuple(_unquoted(word.strip()) for word in between.split(text))
    if not all(synonyms):
        extra = "bar" if between is _BETWEEN_NAMES and "|" in text else "comma"
        raise DataError(f"empty class name: {where}; remove the extra {extra} or write the missing name")
    return synonyms


def _unquoted(word: str) -> str:
    return word[1:-1].strip() if len(word) > 2 and word[0] == word[-1] and word[0] in "\"'" else word


def distinct_words(synonyms: tuple[str, ...]) -> tuple[str, ...]:
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
