"""Other words for the classes of a data set stand in its order; words in another one would be scored without a sign."""

from __future__ import annotations

from collections.abc import Sequence

from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.errors import DataError

_FEWEST = 2  # exchanged classes; one alone may be a word that means two things


def check_word_order(words: Vocabulary, names: Sequence[str]) -> None:
    """Raises DataError if classes of `words` are other ones of `names`, the data set's, than their places say.

    So it is for a class that lacks its own name and has that of another among its words. Lists of Pascal Context, for
    example, are in use in three orders.
    """
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        places.setdefault(name.casefold(), place)
    moved = []
    for place, (name, synonyms) in enumerate(zip(names, words.classes, strict=True)):
        found = [places.get(word.casefold(), place) for word in synonyms]
        if name.casefold() not in map(str.casefold, synonyms) and any(other != place for other in found):
            moved.append((place, name, synonyms[0]))
    if len(moved) >= _FEWEST:
        place, name, word = moved[0]
        raise DataError(
            f"words in another order than the data set: its class {place} is '{name}', that of the words '{word}' "
            f"({len(moved)} such classes); write them in its order"
        )
