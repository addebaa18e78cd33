"""The protocol of an evaluation: all that decides its figures beside the segmentor. Equal protocols can be compared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from opentrans_cli.datasets.base import SegDataset
from opentrans_cli.datasets.folder import FolderDataset
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.files.records import json_bytes
from opentrans_cli.steps.eval.seen import SeenClasses
from opentrans_cli.steps.segmentors.opened import OpenedSegmentor
from opentrans_cli.steps.segmentors.picture_size import Sides
from opentrans_cli.steps.segmentors.windows import Windows
from opentrans_cli.steps.segmentors.words import Words


def protocol_record(
    report: Mapping[str, Any],
    samples: SegDataset,
    words: Words,
    opened: OpenedSegmentor,
    *,
    data: DatasetOptions,
    seen: SeenClasses,
    sides: Sides | None,
    windows: Windows | None,
) -> dict[str, Any]:
    """The field `protocol` of an eval report, see `artifacts.schema.json`; `report` is the rest of it.

    Versions and device stand in the report's `environment`.
    """
    prompts = _prompts(words, opened)
    classes = [list(synonyms) for synonyms in words.vocabulary.classes]
    return {
        "classes": classes,
        "classes_sha256": _sha256(classes),
        "words_from": {"kind": words.origin, "file": words.file, "sha256": words.sha256},
        "templates": None if prompts is None else list(prompts),
        "templates_sha256": None if prompts is None else _sha256(prompts),
        "synonyms": "maximum" if opened.reads_words else None,
        "ignored_ids": list(samples.ignored if isinstance(samples, FolderDataset) else (samples.ignore_index,)),
        "absent": report["absent"],
        "resolution": None if sides is None else asdict(sides),
        "windows": None if windows is None else asdict(windows),
        "split": data.split,
        "images": report["images"],
        "data": samples.fingerprint,
        "seen_from": seen.origin,
    }


def _prompts(words: Words, opened: OpenedSegmentor) -> Sequence[str] | None:
    """What the words were put into; None where no word is read, and where a pack does not say."""
    if not opened.reads_words:
        return None
    return (words.pack.templates or None) if words.pack is not None else opened.built.framework.templates


def _sha256(content: object) -> str:
    return hashlib.sha256(json_bytes(content)).hexdigest()
