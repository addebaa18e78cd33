"""opentrans segment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from opentrans_cli.cli import options as o
from opentrans_cli.cli.output import ConsoleReporter, emit, percent
from opentrans_cli.errors import OptionError

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.segment.segment import SegmentResult

SourceAndImagesArg = Annotated[
    list[str] | None,
    Argument(
        help="A source (see `opentrans prune --help`), unless --checkpoint is given, and images or folders of images.",
    ),
]
FolderOpt = Annotated[Path | None, Option("--out", "-o", help="Folder to write; never overwritten without --force.")]
WordsOpt = Annotated[str | None, Option("--words", "-w", help='Your own words: "red star, grass, sky".')]
ClassesOpt = Annotated[Path | None, Option("--classes", help="Class file instead of --words.")]
VocabularyOpt = Annotated[
    Path | None, Option("--vocabulary", help="Class file or vocabulary pack (.safetensors) instead of --words.")
]
TaskOpt = Annotated[str, Option("--task", help="semantic, instance or panoptic; the latter for frameworks of masks.")]
StuffOpt = Annotated[str | None, Option("--stuff", help="Words that are no objects, for the other tasks, with commas.")]
ScoresOpt = Annotated[
    Path | None, Option("--save-scores", help="Also write the scores of the one image: float32 (C, H, W), as .npy.")
]
PackOpt = Annotated[
    Path | None, Option("--save-vocabulary", help="Only write the words with their embeddings, as a vocabulary pack.")
]


def segment(
    source_and_images: SourceAndImagesArg = None,
    out: FolderOpt = None,
    words: WordsOpt = None,
    classes: ClassesOpt = None,
    vocabulary: VocabularyOpt = None,
    framework: o.FrameworkOpt = None,
    checkpoint: o.CheckpointOpt = None,
    seen: o.SeenOpt = None,
    no_resize: o.NoResizeOpt = False,
    task: TaskOpt = "semantic",
    stuff: StuffOpt = None,
    save_scores: ScoresOpt = None,
    save_vocabulary: PackOpt = None,
    base: o.BaseOpt = None,
    device: o.DeviceOpt = "auto",
    force: o.ForceOpt = False,
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
) -> None:
    """Label every pixel of your images with one of your words: label map and overlay with legend."""
    if sum(given is not None for given in (words, classes, vocabulary)) != 1:
        raise OptionError('segment needs words: --words "cat, dog", --classes or --vocabulary FILE; give exactly one')
    file = vocabulary or classes
    source, images = _split(source_and_images or [], checkpoint)
    if save_vocabulary is not None:
        _pack(source, words, locals())
        return
    if not images:
        raise OptionError("segment needs images: none is named; name files or folders")
    from opentrans_cli.steps.segment.segment import segment as step

    result = step(
        source,
        images=images,
        words=file or o.names(words),
        out=out,
        save_scores=save_scores,
        framework=framework,
        checkpoint=checkpoint,
        seen=seen,
        own_size=no_resize,
        task=task,
        stuff=o.names(stuff),
        base=base,
        device=device,
        force=force,
        reporter=ConsoleReporter(quiet=quiet),
    )
    emit(result.to_json(), lambda console: _show(console, result), as_json=as_json, path=result.path, quiet=quiet)


def _split(places: list[str], checkpoint: Path | None) -> tuple[str | None, list[Path]]:
    """Source and images; with a checkpoint there are images alone."""
    if checkpoint is not None:
        return None, [Path(place) for place in places]
    if not places:
        raise OptionError("segment needs a segmentor: no source is named; name one, or give --checkpoint FILE")
    return places[0], [Path(place) for place in places[1:]]


def _pack(source: str | None, words: str | None, given: dict[str, Any]) -> None:
    """`segment --save-vocabulary`; `given`: the command's local variables."""
    if given["images"] or given["out"] is not None or given["save_scores"] is not None:
        raise OptionError("a vocabulary pack is made of words alone: --save-vocabulary; leave images and outputs out")
    if given["checkpoint"] is not None and given["framework"] is None:
        raise OptionError(f"whose checkpoint is it? --checkpoint {given['checkpoint']}; add --framework")
    from rich.markup import escape

    from opentrans_cli.datasets.vocabulary import Vocabulary
    from opentrans_cli.steps.segment.pack_words import pack_words

    file = given["file"]
    vocabulary = Vocabulary.from_file(file) if file else Vocabulary.from_names(o.names(words))
    taken = {name: given[name] for name in ("framework", "checkpoint", "seen", "base", "force")}
    out = pack_words(
        source, vocabulary, out=given["save_vocabulary"], **taken, reporter=ConsoleReporter(quiet=given["quiet"])
    )
    document = {"vocabulary": list(vocabulary.names), "pack": str(out)}
    emit(
        document,
        lambda console: console.print(f"[bold]{escape(str(out))}[/]  {len(vocabulary)} classes", soft_wrap=True),
        as_json=given["as_json"],
        path=out,
        quiet=given["quiet"],
    )


def _show(console: Console, result: SegmentResult) -> None:
    from rich.markup import escape

    if not result.images:
        console.print(
            f"[bold]{escape(str(result.path))}[/]  scores of {len(result.vocabulary)} classes", soft_wrap=True
        )
    for image in result.images:
        shares = ", ".join(f"{name} {percent(share)} %" for name, share in list(image["classes"].items())[:6])
        console.print(f"[bold]{escape(str(result.path / image['overlay']))}[/]  {escape(shares)}", soft_wrap=True)
