"""Vocabulary packs: classes with the embeddings of their texts, so that no text tower is needed to use them.

A safetensors file with the tensor `embeddings`, K x D, and one metadata key, `opentrans`, whose value is the JSON
`{"classes": [{"name": ..., "synonyms": [...], "seen": true}, ...], "templates": ["a photo of a {}.", ...]}`; the
prompts are those the embeddings were made with, and may be missing. Rows are the synonyms in the order of the classes.
A class without synonyms has one row, that of its name. Where synonyms do not repeat the name and there is a row for it
as well, that row comes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.errors import DataError
from opentrans_cli.files.tensorfile import read_metadata, read_tensors, tensor_headers, write_tensors

SUFFIX = ".safetensors"
_TENSOR = "embeddings"
_FLOATS = ("float64", "float32", "float16", "bfloat16")
_NEXT = "write it with --save-vocabulary"


@dataclass(frozen=True)
class PackedClass:
    """One class: what it is called, the texts that stand for it, and whether training labels it."""

    name: str
    texts: tuple[str, ...]  # one per row
    seen: bool


@dataclass(frozen=True, eq=False)
class VocabularyPack:
    """Classes and their embeddings."""

    classes: tuple[PackedClass, ...]
    embeddings: NDArray[np.float32]  # (K, D), rows of length 1: the texts of the classes in order
    templates: tuple[str, ...] = ()  # the prompts they were made with, "{}" stands for a text; empty: not known

    @property
    def class_indices(self) -> tuple[int, ...]:
        """The class of each row, 0 to C - 1."""
        return tuple(index for index, entry in enumerate(self.classes) for _ in entry.texts)


def is_pack(path: Path) -> bool:
    """Whether a vocabulary file is a pack: its suffix decides; any other file is a text file with classes."""
    return path.suffix == SUFFIX


def read_pack(path: Path) -> VocabularyPack:
    """The pack in `path`, its rows scaled to length 1. DataError if it is no pack, BundleError if damaged."""
    header = tensor_headers(path).get(_TENSOR)
    if header is None:
        raise DataError(f"not a vocabulary pack: {path} has no tensor '{_TENSOR}'; {_NEXT}")
    if header.dtype not in _FLOATS or len(header.shape) != 2 or 0 in header.shape:
        raise DataError(f"not a vocabulary pack: {path} has '{_TENSOR}' of {header.dtype} {header.shape}; {_NEXT}")
    about = read_metadata(path)
    entries, templates = about.get("classes"), about.get("templates", [])
    if not isinstance(entries, list) or not entries:
        raise DataError(f"not a vocabulary pack: {path} has no list of classes in its metadata; {_NEXT}")
    if not isinstance(templates, list) or not all(map(_is_word, templates)):
        raise DataError(f"templates have to be a list of texts: {path}; {_NEXT}")
    given = [_class(entry, f"class {index} of {path}") for index, entry in enumerate(entries)]
    classes = _with_rows(given, header.shape[0], path)
    return VocabularyPack(classes, _unit(read_tensors(path)[_TENSOR], path), tuple(templates))


def write_pack(path: Path, pack: VocabularyPack) -> None:
    """Write a pack completely or not at all; same content, same bytes. Raises BundleError if it cannot be written."""
    classes = [{"name": entry.name, "synonyms": list(entry.texts), "seen": entry.seen} for entry in pack.classes]
    about = {"classes": classes, **({"templates": list(pack.templates)} if pack.templates else {})}
    write_tensors(path, {_TENSOR: pack.embeddings}, about)


def _class(entry: Any, where: str) -> PackedClass:
    if not isinstance(entry, Mapping):
        raise DataError(f"not an object: {where}; {_NEXT}")
    name, synonyms, seen = entry.get("name"), entry.get("synonyms", []), entry.get("seen")
    if not isinstance(synonyms, list) or not all(_is_word(word) for word in (name, *synonyms)):
        raise DataError(f"name and synonyms have to be words: {where}; {_NEXT}")
    if seen not in (True, False):
        raise DataError(f"seen has to be true or false: {where}; {_NEXT}")
    return PackedClass(str(name), tuple(synonyms), bool(seen))


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _with_rows(given: list[PackedClass], rows: int, path: Path) -> tuple[PackedClass, ...]:
    """`given`, whose texts are only the synonyms, with the texts that fit the number of rows."""
    alone = [entry.texts or (entry.name,) for entry in given]
    named = [(entry.name, *entry.texts) for entry in given]
    counts = [sum(map(len, texts)) for texts in (alone, named)]
    if rows not in counts:
        raise DataError(
            f"rows and synonyms disagree: {path} has {rows} rows for {counts[0]} synonyms, {counts[1]} with the names "
            "of the classes; give one row for each synonym"
        )
    chosen = (alone, named)[counts.index(rows)]
    return tuple(PackedClass(entry.name, texts, entry.seen) for entry, texts in zip(given, chosen, strict=True))


def _unit(rows: NDArray[Any], path: Path) -> NDArray[np.float32]:
    values = np.asarray(rows, dtype=np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    wrong = np.flatnonzero(~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)))
    if wrong.size:
        raise DataError(f"embedding is zero, NaN or infinite: row {wrong[0]} of {path}; {_NEXT}")
    return np.asarray(values / lengths, dtype=np.float32)
