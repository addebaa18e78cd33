"""A framework's own checkpoint as a segmentor ready for prediction."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from opentrans_cli.bundle.manifest import Base
from opentrans_cli.checkpoints.reader import Checkpoint, open_checkpoint
from opentrans_cli.clip.architecture import infer_tower
from opentrans_cli.clip.layers import arrays
from opentrans_cli.clip.source import LoadedClip, load_clip
from opentrans_cli.files.digest import tower_digest
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.frameworks.base import Framework
from opentrans_cli.frameworks.original import (
    Original,
    build_original,
    load_original,
    original_preprocess,
    original_tensors,
    original_words,
)
from opentrans_cli.reporter import SILENT, Reporter
from opentrans_cli.steps.segmentors.built import BuiltSegmentor
from opentrans_cli.steps.segmentors.opened import OpenedSegmentor, names_of
from opentrans_cli.steps.segmentors.picture_size import PUBLISHED
from opentrans_cli.steps.sources import Tower, dense_tower, load_tower


def open_published(
    framework: str, path: Path, *, base: str | None = None, reporter: Reporter = SILENT
) -> OpenedSegmentor:
    """The segmentor of a checkpoint that was saved by the framework's own code or by opentrans.

    Weights that are zero count as pruned. Words are embedded by the text tower in the file, or by that of the source
    `base`, which also gives its tower to a checkpoint without one. Raises OptionError for an unknown framework, and
    SourceError or TransferError for files that are no such checkpoint.
    """
    chosen: Framework = FRAMEWORKS.load(framework)
    checkpoint, original = _read(framework, path, reporter)
    trunk = None if original.tower or base is None else load_tower(base, reporter)
    module: Any = build_original(original, None if trunk is None else trunk.visual)
    options = chosen.options(original.options)
    tower = _tower(module.backbone, original, path)
    published = original.lineage != "ours"  # and trained on COCO, all of them
    fixed = getattr(options, "classes", None) is not None
    return OpenedSegmentor(
        BuiltSegmentor(chosen, options, module, tower),
        text_clip=lambda: _words(original, path, base, trunk),
        reads_words=not fixed,
        trained_on=names_of(None) if published else (),
        sides=PUBLISHED if published else None,
        checkpoint={"file": path.name, "sha256": checkpoint.sha256()},
    )


def published_words(framework: str, path: Path, *, base: str | None, reporter: Reporter) -> LoadedClip:
    """The CLIP that embeds words for a checkpoint; raises the same errors as `open_published`."""
    return _words(_read(framework, path, reporter)[1], path, base)


def _read(framework: str, path: Path, reporter: Reporter) -> tuple[Checkpoint, Original]:
    reporter.say(f"reading {path}")
    checkpoint = open_checkpoint(path)
    if checkpoint.note is not None:
        reporter.say(checkpoint.note)
    return checkpoint, load_original(framework, original_tensors(checkpoint))


def _words(original: Original, path: Path, base: str | None, trunk: Tower | None = None) -> LoadedClip:
    """The CLIP that embeds words; trunk: the tower of `base`, if it was loaded."""
    if trunk is not None and isinstance(trunk.clip, LoadedClip):
        return trunk.clip
    return load_clip(base) if base is not None else original_words(original, source=str(path))


def _tower(visual: nn.Module, original: Original, path: Path) -> Tower:
    """The trunk of a checkpoint as a source's tower; `visual` may have lost its pool."""
    pixels = original_preprocess(original)
    state = arrays(visual.state_dict())
    base = Base(
        source=str(path),
        architecture=original.lineage,
        model_cfg={**infer_tower(state), "embed_dim": original.embedding or 1},
        digest=tower_digest(state),
        preprocess={**asdict(pixels), "mean": list(pixels.mean), "std": list(pixels.std)},
        activation="quick_gelu",
    )
    tower = dense_tower(base, state, visual)
    return replace(tower, masks={layer: tower.state[f"{layer}.weight"] != 0 for layer in tower.masks})
