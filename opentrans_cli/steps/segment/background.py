"""A class for pixels that are of none of the user's words.

Benchmarks know two ways, and both are here: words of what usually lies behind things share one class, as for the 21
classes of PASCAL VOC; and a pixel whose best class is not probable enough is of no class.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from opentrans_cli.datasets.class_file import LARGEST_ID
from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.errors import DataError, OptionError
from opentrans_cli.steps.segmentors.opened import names_of
from opentrans_cli.steps.segmentors.words import Words

BACKGROUND = "background"

_THINGS = 80  # the first classes of COCO's panoptic task are objects


@dataclass(frozen=True)
class FoundClasses:
    """What label maps may show: the words' classes, and behind them the background, if it is asked for."""

    names: tuple[str, ...]
    ids: tuple[int, ...]  # in label maps
    background: int | None = None  # index of that class

    @classmethod
    def of(cls, words: Words, *, background: bool) -> FoundClasses:
        """Those of `words`, and a background unless it is among them already. Raises DataError if no id is left."""
        names, ids = words.vocabulary.names, words.ids
        if not background:
            return cls(names, ids)
        if names[-1] != BACKGROUND:
            names, ids = (*names, BACKGROUND), (*ids, _free_id(ids))
        return cls(names, ids, len(names) - 1)


def with_background(words: Words) -> Words:
    """`words` and one class behind them: "background" and COCO's words of stuff, such as wall, except the user's own.

    Raises DataError if that word is one of the user's, OptionError for a vocabulary pack.
    """
    if words.pack is not None:
        raise OptionError("a vocabulary pack has all its words: --background; leave it out, or give words")
    own = {word.casefold() for synonyms in words.vocabulary.classes for word in synonyms}
    if BACKGROUND in own:
        raise DataError(f"a class of yours is the background: '{BACKGROUND}'; leave --background out, or that word")
    stuff = (BACKGROUND, *names_of(None)[_THINGS:])
    vocabulary = Vocabulary((*words.vocabulary.classes, tuple(word for word in stuff if word.casefold() not in own)))
    return replace(words, vocabulary=vocabulary, written=(*words.ids, _free_id(words.ids)))


def _free_id(ids: tuple[int, ...]) -> int:
    """The id behind the largest."""
    if max(ids) >= LARGEST_ID:
        raise DataError(f"no id is left for the background: a class has {max(ids)}; give that class a smaller one")
    return max(ids) + 1
