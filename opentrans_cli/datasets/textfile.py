"""Class lists, split lists and captions: text, one entry a line, blank lines and `#` comments skipped."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from opentrans_cli.errors import DataError

_LINE_END = re.compile(r"\r\n|\r|\n")
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path, kind: str) -> str:
    """The text of a file: UTF-8, or UTF-16 with a byte order mark, as Windows writes it; line ends become newlines.

    `kind` names the file in messages ("class file"). Raises DataError if the file is missing or is no text.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{kind} not found: {path}; check the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{kind} cannot be read: {path} ({reason}); name a text file") from error
    try:
        text = data.decode("utf-16" if data.startswith(_WIDE) else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{kind} is not UTF-8 text: {path}, line {line}; save it as UTF-8") from None
    if "\0" in text:
        raise DataError(
            f"{kind} is not UTF-8 text: {path}, line {text[: text.index(chr(0))].count(chr(10)) + 1}; save it as UTF-8"
        )
    return _LINE_END.sub("\n", text)


def text_entries(text: str, path: Path, kind: str) -> list[tuple[int, str]]:
    """The entries of a text with their line numbers (from 1), stripped of surrounding blanks.

    Raises DataError, which names `path` and `kind`, if there is none.
    """
    lines = enumerate((line.strip() for line in text.split("\n")), start=1)
    entries = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not entries:
        raise DataError(f"{kind} is empty: {path}; write one entry per line")
    return entries


def read_entries(path: Path, kind: str) -> list[tuple[int, str]]:
    """The entries of a text file, see `text_entries`. Raises DataError if the file is missing, no text or empty."""
    return text_entries(read_text(path, kind), path, kind)


def read_captions(path: Path) -> dict[str, tuple[str, ...]]:
    """The words of images by stem, each word once, in their order; a line is STEM<tab>WORD,WORD.

    Raises DataError with file and line if a line has no tab, no word, or a repeated stem.
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
