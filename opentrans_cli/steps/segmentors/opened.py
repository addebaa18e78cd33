"""A segmentor ready for prediction, from a source or from a framework's own checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from opentrans_cli.assets import class_list_file
from opentrans_cli.clip.source import LoadedClip
from opentrans_cli.datasets.class_file import read_classes
from opentrans_cli.errors import OptionError
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.frameworks.base import ClassText, Framework
from opentrans_cli.reporter import SILENT, Reporter
from opentrans_cli.steps.segmentors.built import TRAINING_FREE, BuiltSegmentor, build_segmentor, bundle_segmentor
from opentrans_cli.steps.segmentors.picture_size import Sides
from opentrans_cli.steps.segmentors.words import Words
from opentrans_cli.steps.sources import load_text_clip, load_tower


@dataclass(frozen=True)
class OpenedSegmentor:
    """A segmentor, and what is known of the words it was made for."""

    built: BuiltSegmentor
    text_clip: Callable[[], LoadedClip]  # loads the CLIP that embeds its words
    trained_on: tuple[str, ...] = ()  # names of the classes that had training labels; empty: not known
    sides: Sides | None = None  # size to which pictures are resized; None: they keep their own
    checkpoint: dict[str, str] | None = None  # file name and SHA-256, of a framework's own checkpoint
    reads_words: bool = True  # False: its head has a fixed list of classes, and words are names in that order

    def embedded(self, words: Words, seen: Sequence[bool] | None = None, reporter: Reporter = SILENT) -> ClassText:
        """`words` as texts for this segmentor; `seen` by class, by default those that had training labels."""
        flags = tuple(words.seen_by(self.trained_on) if seen is None else seen)
        if seen is None and words.pack is None and self.checkpoint is not None and self.trained_on:
            reporter.say(f"seen in training: {sum(flags)} of {len(flags)} classes, by COCO's names; others with --seen")
        if not self.reads_words:
            return replace(ClassText.one_each(torch.ones(len(flags), self.built.dimension)), seen=flags)
        return words.embedded(
            self.text_clip,
            dimension=self.built.dimension,
            templates=self.built.framework.templates,
            seen=flags,
            reporter=reporter,
        )


def open_source(
    source: str,
    *,
    framework: str | None = None,
    at_sparsity: float | None = None,
    base: str | None = None,
    reporter: Reporter = SILENT,
) -> OpenedSegmentor:
    """The segmentor of a source: the one that a bundle holds, else the tower read out without training.

    Raises OptionError if it is not of `framework` and would have to be trained; else what `load_tower` raises.
    """
    if framework is not None:
        FRAMEWORKS.load(framework)  # a wrong name is reported before anything is loaded
    tower = load_tower(source, reporter, base=base, at_sparsity=at_sparsity)
    record = tower.bundle.manifest.segmentor if tower.bundle else None
    if record is not None and framework in (None, record.framework):
        built = bundle_segmentor(tower)
        assert built is not None
    else:
        if framework is None:
            reporter.say(f"no segmentor in {source}: reading the tower out without training ({TRAINING_FREE})")
        chosen: Framework = FRAMEWORKS.load(framework or TRAINING_FREE)
        if chosen.trainable:
            raise OptionError(
                f"no trained {chosen.name} in the source: {source}; give --checkpoint FILE, or train one with "
                f"`opentrans finetune --framework {chosen.name}`"
            )
        built, record = build_segmentor(tower, chosen.name), None
    return OpenedSegmentor(
        built,
        text_clip=lambda: load_text_clip(tower.base, base, reporter, loaded=tower.clip),
        trained_on=record.seen if record is not None else (),
    )


def names_of(classes: Path | None) -> tuple[str, ...]:
    """All words of a class file; without a file those of the 133 classes of COCO's panoptic task."""
    path = classes or class_list_file("coco")
    return tuple(word for synonyms in read_classes(path).vocabulary.classes for word in synonyms)
