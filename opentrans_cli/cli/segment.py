"""opentrans segment."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from opentrans_cli.cli.command import Force, Talk, command
from opentrans_cli.cli.output import plain_table, speaks
from opentrans_cli.errors import OptionError, PictureError
from opentrans_cli.files.figures import percent
from opentrans_cli.option import Options, option
from opentrans_cli.steps.shared_options import (
    TASKS,
    BaseChoice,
    CheckpointChoice,
    Machine,
    Reading,
    WindowChoice,
    WordChoice,
)

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.segment.segment import SegmentResult


_PASSED = ("out", "task", "stuff", "background", "threshold", "overlay", "gallery", "save_scores", "skip_bad")
"""Options that the step takes as they are."""

_SHOWN_CLASSES, _SHOWN_IMAGES = 20, 8


@dataclass(frozen=True)
class SegmentRequest(Options):
    """What is labelled, and what is written."""

    source_and_images: tuple[str, ...] = option(
        (),
        help="a source (see `opentrans prune --help`), unless --checkpoint is given, and images, folders of images or "
        "tar shards; - reads a list of paths from stdin",
        argument=True,
        completes="source",
    )
    out: Path | None = option(None, also=("-o",), help="new folder of label maps and overlays")
    task: str = option(
        "semantic",
        help="what is found",
        choices=TASKS,
    )
    stuff: tuple[str, ...] = option(
        (), help="words that are no objects, with commas; for instance and panoptic", kind="commas"
    )
    background: bool = option(
        False, help="one more class for all else: COCO's words of stuff, such as wall or floor, except your own words"
    )
    threshold: float | None = option(
        None, above=0, most=1, help="least probability of a pixel's class; pixels below it are background"
    )
    overlay: bool = option(True, help="write pictures with the words on them and a legend")
    gallery: bool = option(False, help="write gallery.html as well, one page with all pictures and their classes")
    skip_bad: bool = option(
        False, help="end with exit code 0 although images were left out that cannot be read or are too small"
    )
    save_scores: Path | None = option(
        None, help="file for the scores of a single image as well: float32 (C, H, W), as .npy"
    )
    save_vocabulary: Path | None = option(
        None, help="file for the words with their embeddings, a vocabulary pack (.safetensors); nothing is segmented"
    )


@command
def segment_command(
    asked: SegmentRequest,
    choice: WordChoice,
    published: CheckpointChoice,
    windows: WindowChoice,
    base: BaseChoice,
    reading: Reading,
    machine: Machine,
    write: Force,
    talk: Talk,
) -> None:
    """Label every pixel of your images with one of your words: label map and overlay with legend.

    opentrans segment trained photo.jpg --words "dog, sofa, floor" --out pictures
    opentrans segment tiny docs/scene.png -w "red star, grass, sky" -o pictures
    """
    words = choice.chosen("segment")
    if published.checkpoint is None and not asked.source_and_images:
        raise OptionError("segment needs a segmentor: no source is named; name one, or give --checkpoint FILE")
    source = None if published.checkpoint is not None else asked.source_and_images[0]
    images = asked.source_and_images[0 if source is None else 1 :]
    if asked.save_vocabulary is not None:
        if images or asked.out is not None or asked.save_scores is not None:
            raise OptionError(
                "a vocabulary pack is made of words alone: --save-vocabulary; leave images and outputs out"
            )
        if published.checkpoint is not None and published.framework is None:
            raise OptionError(f"whose checkpoint is it? --checkpoint {published.checkpoint}; add --framework")
        from opentrans_cli.steps.segment.pack_words import pack_words
        from opentrans_cli.steps.segmentors.words import Words

        vocabulary = Words.of(words).vocabulary
        pack = pack_words(
            source,
            vocabulary,
            out=asked.save_vocabulary,
            framework=published.framework,
            checkpoint=published.checkpoint,
            seen=published.seen,
            base=base.base,
            force=write.force,
            reporter=talk.reporter,
        )
        document = {"vocabulary": list(vocabulary.names), "pack": str(pack)}
        text = f"{pack}  {len(vocabulary)} classes"
        talk.emit(document, lambda console: console.print(text, markup=False, soft_wrap=True), pack)
        return
    if not images:
        raise OptionError("segment needs images: none is named; name files or folders")
    from opentrans_cli.steps.segment.inputs import told_of
    from opentrans_cli.steps.segment.segment import segment

    given = {**vars(published), **vars(windows), **vars(base), **vars(reading), **vars(machine), **vars(write)}
    given |= {name: getattr(asked, name) for name in _PASSED}
    result = segment(source, images=_with_stdin(images), words=words, **given, reporter=talk.reporter)
    talk.emit(result.to_json(), lambda console: _show(console, result), result.path)
    if result.skipped and not asked.skip_bad:
        count = len(result.skipped)
        error = PictureError(
            f"{count} of {count + len(result.images)} images are not labelled: {told_of(result.skipped)}; replace "
            "them, or let it pass with --skip-bad"
        )
        error.reported = not speaks()  # every process knows of all pictures
        raise error


def _stdin() -> bytes:
    return sys.stdin.buffer.read()


def _with_stdin(images: Sequence[str]) -> list[str | PathLike[str]]:
    """The images, with the list from stdin where "-" stands."""
    from opentrans_cli.steps.segment.inputs import listed_paths

    if images.count("-") > 1:
        raise OptionError("stdin can be read once: - is named twice; name it once")
    if "-" in images and os.environ.get("WORLD_SIZE", "1") != "1":
        raise OptionError("several processes cannot share one stdin: -; name the images or their folder")
    given: list[str | PathLike[str]] = []
    for image in images:
        given += listed_paths(_stdin(), "stdin") if image == "-" else [image]
    return given


def _show(console: Console, result: SegmentResult) -> None:
    from rich.markup import escape

    if not result.images:
        console.print(
            f"[bold]{escape(str(result.path))}[/]  scores of {len(result.vocabulary)} classes", soft_wrap=True
        )
        return
    if len(result.images) > _SHOWN_IMAGES:
        _show_classes(console, result)
        return
    for image in result.images:
        shares = ", ".join(f"{name} {percent(share)} %" for name, share in list(image["classes"].items())[:6])
        picture = image.get("overlay", image["label_map"])
        console.print(f"[bold]{escape(str(result.path / picture))}[/]  {escape(shares)}", soft_wrap=True)


def _show_classes(console: Console, result: SegmentResult) -> None:
    """How much of all pictures each class fills, the largest first."""
    pixels, pictures = Counter[int](), Counter[int]()
    for image in result.images:
        for area in image["areas"]:
            pixels[area["id"]] += area["area"]
            pictures[area["id"]] += 1
    table = plain_table(f"{result.path}: {len(result.images)} images", "word", ">id", ">images", ">pixels, %")
    names = dict(zip(result.ids, result.vocabulary, strict=True))
    for number, count in pixels.most_common(_SHOWN_CLASSES):
        share = percent(count / pixels.total())
        table.add_row(names[number], str(number), str(pictures[number]), share)
    console.print(table)
    if len(pixels) > _SHOWN_CLASSES:
        console.print(f"and {len(pixels) - _SHOWN_CLASSES} more words; all are in segment.json")
    if missing := len(names) - len(pixels):
        console.print(f"found in no image: {missing} of {len(names)} words")
