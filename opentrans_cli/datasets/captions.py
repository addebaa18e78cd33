"""Files with the words of images: UTF-8 text, one image a line, its stem, a tab, words with commas between them."""

from __future__ import annotations

from pathlib import Path

from opentrans_cli.datasets.textfile import read_entries
from opentrans_cli.errors import DataError


def read_captions(path: Path) -> dict[str, tuple[str, ...]]:
    """By stem the words of its image, each once, in their order.

    Raises DataError naming file and line if one has no tab, no word, or a stem that was there before.
    """
    captions: dict[str, tuple[str, ...]] = {}
    for number, entry in read_entries(path, "captions"):
        stem, tab, rest = entry.partition("\t")
        words = tuple(dict.fromkeys(word for part in rest.split(",") if (word := part.strip())))
        if not tab or not stem.strip() or not words:
            raise DataError(f"no stem, tab and words: {path}, line {number}; write STEM<tab>WORD,WORD")
        if stem.strip() in captions:
            raise DataError(f"'{stem.strip()}' occurs twice: {path}, line {number}; keep one")
        captions[stem.strip()] = words
    return captions
