"""segment: find the user's words in images, and write a label map and an overlay with a legend for each image."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor

from opentrans_cli.datasets.images import save_png, write_label_map
from opentrans_cli.datasets.picture_source import Picture, read_picture
from opentrans_cli.errors import DataError, OptionError, PictureError, unknown, without_move
from opentrans_cli.files.atomic import hidden_folder, staged_folder, write_file
from opentrans_cli.files.records import json_bytes
from opentrans_cli.files.targets import check_file_target, check_folder_target, check_parent, prepare_parent
from opentrans_cli.pictures.overlay import NO_CLASS, overlay
from opentrans_cli.pictures.palette import class_colours
from opentrans_cli.reporter import LOGGED, Reporter
from opentrans_cli.steps.by_name import by_name, takes
from opentrans_cli.steps.flow import Flow
from opentrans_cli.steps.report.gallery import GALLERY, write_gallery
from opentrans_cli.steps.samples import tell_skipped
from opentrans_cli.steps.segment.background import BACKGROUND, FoundClasses, with_background
from opentrans_cli.steps.segment.inputs import find_inputs, some_left, sound_ones
from opentrans_cli.steps.segmentors.certainty import Unsure
from opentrans_cli.steps.segmentors.opened import OpenedSegmentor, names_of, open_source
from opentrans_cli.steps.segmentors.predictor import Labelling, Predictor, Prepared, Queries
from opentrans_cli.steps.segmentors.published import open_published
from opentrans_cli.steps.segmentors.segments import coco_panoptic, find_instances, find_segments, things_of
from opentrans_cli.steps.segmentors.windows import Windows
from opentrans_cli.steps.segmentors.words import AnyWords, Words
from opentrans_cli.steps.shared_options import Reading, WindowChoice
from opentrans_cli.training.processes.distributed import World, open_world

REPORT, PANOPTIC = "segment.json", "panoptic.json"
_KINDS = ("label_map", "overlay", "panoptic")  # entries of the report that are names of files

_ROWS = 256

Task = Literal["semantic", "instance", "panoptic"]


@dataclass(frozen=True)
class SegmentOptions:
    """What to do and write. Raises OptionError if no output is asked for, or if options contradict each other."""

    out: Path | None = None  # folder of label maps and overlays
    save_scores: Path | None = None  # file for the scores of the one image, float32 (C, H, W), by numpy.save
    framework: str | None = None
    checkpoint: Path | None = None  # a framework's own checkpoint, instead of a source
    seen: Path | None = None  # class file with the classes that had training labels
    own_size: bool = False  # use pictures at their own size, whatever size a checkpoint was made for
    task: Task = "semantic"  # what is written besides the label map
    stuff: tuple[str, ...] = ()  # classes that are not objects, for the other tasks
    background: bool = False  # one more class, of words of what usually lies behind things
    threshold: float | None = None  # pixels whose best class is less probable are background
    overlay: bool = True  # write pictures with the words on them
    gallery: bool = False  # write one page of all pictures
    base: str | None = None
    device: str = "auto"
    skip_bad: bool = False  # that pictures are left out is no failure of the command; they are in `skipped` either way
    force: bool = False

    def __post_init__(self) -> None:
        if self.out is None and self.save_scores is None:
            raise OptionError("segment has nowhere to write: no --out; add it, or --save-scores")
        if self.checkpoint is not None and self.framework is None:
            raise OptionError(f"whose checkpoint is it? --checkpoint {self.checkpoint}; add --framework")
        if self.task not in get_args(Task):
            raise OptionError(unknown("task", self.task, get_args(Task)))
        if self.gallery and self.out is None:
            raise OptionError("only a folder can hold a gallery: --gallery; add --out")
        if self.task != "semantic" and self.out is None:
            raise OptionError(f"only a folder can hold segments: --task {self.task}; add --out")
        if self.task != "semantic" and (self.background or self.threshold is not None):
            option = "--background" if self.background else "--threshold"
            raise OptionError(f"objects have no background: {option} with --task {self.task}; leave one out")
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise OptionError(f"no probability: --threshold {self.threshold:g}; give above 0, at most 1")


@dataclass(frozen=True)
class SegmentResult:
    """What `segment` wrote: the folder `path`, or the file of scores if there is no folder."""

    path: Path
    # By image: name, label_map and overlay (file names), classes (name -> share of the pixels), and what the task adds.
    images: tuple[dict[str, Any], ...]
    vocabulary: tuple[str, ...]
    segmentor: dict[str, Any] = field(default_factory=dict)  # framework, and the checkpoint if it is one
    ids: tuple[int, ...] = ()  # of each class in the label maps; as the class file writes them, else 0, 1, ...
    skipped: tuple[str, ...] = ()  # pictures that were left out: which, and what is wrong with them
    background: int | None = None  # id of the pixels that are of none of the words, if it was asked for

    def to_json(self) -> dict[str, Any]:
        """The segment report of `artifacts.schema.json`."""
        return {
            "images": list(self.images),
            "vocabulary": list(self.vocabulary),
            "ids": list(self.ids),
            **({} if self.background is None else {"background": self.background}),
            "skipped": list(self.skipped),
            **self.segmentor,
        }


@takes(SegmentOptions, WindowChoice, Reading)
def segment(
    source: str | Path | None = None,
    *,
    images: str | PathLike[str] | Sequence[str | PathLike[str]],
    words: AnyWords,
    out: str | Path | None = None,
    device: str = "auto",
    force: bool = False,
    reporter: Reporter | None = None,
    **given: Any,
) -> SegmentResult:
    """Label every pixel of `images` (files, folders or tar shards) with one of `words`.

    Writes NAME.png (class ids) and NAME-overlay.png for each image, and segment.json, into the new folder `out`, which
    appears when all is written. NAME is the file's stem; images whose outputs would have the same name get their
    folder, and then their suffix, into it (photos-a-jpg). Ids are those of the class file if it writes any, else 0, 1,
    ... in the order of the words. A source without a segmentor is read out without training. A damaged or too small
    image is left out, and named in `skipped` of the result.

    source: None with `checkpoint`, a file of the `framework`'s own. words: "red star, sky", a sequence of names, or
    the Path of a class file or vocabulary pack. Options: the fields of `SegmentOptions`, `WindowChoice` and
    `Reading`. The processes of torchrun share the images; what they write is what one process writes.

    Raises DataError (also if no image is left), SourceError, BundleError, HubError, TransferError or OptionError.
    """
    options: SegmentOptions
    choice: WindowChoice
    reading: Reading
    given |= {"out": out, "device": device, "force": force}
    options, choice, reading = by_name("segment", given, SegmentOptions, WindowChoice, Reading)
    choice.check_task(options.task)
    if (source is None) == (options.checkpoint is None):
        raise OptionError("one segmentor looks: a source, or --checkpoint FILE; give exactly one of the two")
    listed = [images] if isinstance(images, str | PathLike) else images
    with open_world(options.device) as world:
        job = _planned(
            None if source is None else str(source), listed, words, options, choice, world, reporter or LOGGED
        )
        return job.run(reading.workers)


def _planned(
    source: str | None,
    images: Sequence[str | PathLike[str]],
    given: AnyWords,
    options: SegmentOptions,
    choice: WindowChoice,
    world: World,
    reporter: Reporter,
) -> _Job:
    """Look at all that is given, and then load the segmentor."""
    words = Words.of(given)
    for remark in words.remarks:
        reporter.say(remark)
    words = with_background(words) if options.background else words
    classes = FoundClasses.of(words, background=options.background or options.threshold is not None)
    found = find_inputs(images, reporter)
    _check_targets(options, len(found))
    pictures, skipped = sound_ones(found, reporter)  # before the segmentor is loaded
    some_left(len(pictures), skipped)
    things = things_of(words.vocabulary.names, options.stuff)
    seen = None if options.seen is None else words.seen_by(names_of(options.seen))
    opened = _opened(source, options, reporter)
    framework = opened.built.framework
    if options.task != "semantic" and not framework.masks:
        raise OptionError(f"{framework.name} finds no objects: --task {options.task}; use a framework of masks")
    reporter.say(f"segmentor: {framework.name}")
    if options.background and not opened.reads_words:
        raise OptionError(f"its classes are a fixed list: --background with {options.checkpoint}; use --threshold")
    text = opened.embedded(words, seen, reporter)
    predictor = Predictor(
        opened.built,
        text,
        device=world.device,
        sides=None if options.own_size else opened.sides,
        windows=Windows.of(choice),
        unsure=None if options.threshold is None else Unsure(options.threshold, len(classes.names) - 1),
    )
    told = {"framework": framework.name, **({"checkpoint": opened.checkpoint} if opened.checkpoint else {})}
    return _Job(predictor, classes, text.classes, things, options, pictures, skipped, told, world, reporter)


def _opened(source: str | None, options: SegmentOptions, reporter: Reporter) -> OpenedSegmentor:
    if options.checkpoint is not None:
        assert options.framework is not None
        return open_published(options.framework, options.checkpoint, base=options.base, reporter=reporter)
    assert source is not None
    return open_source(source, framework=options.framework, base=options.base, reporter=reporter)


@dataclass(frozen=True, eq=False)
class _Loaded:
    """A picture that is ready for the model."""

    image: np.ndarray  # uint8 (H, W, 3)
    prepared: Prepared


@dataclass(frozen=True, eq=False)
class _Found:
    """What the model found in a picture."""

    label_map: np.ndarray  # class of every pixel (H, W)
    queries: Queries | None  # for the tasks of objects


@dataclass(frozen=True)
class _Load:
    """Reads a picture and prepares it for the model; the error where that cannot be done."""

    predictor: Predictor
    picture: Picture

    def run(self) -> _Loaded | PictureError:
        try:
            image = read_picture(self.picture)
            return _Loaded(image, self.predictor.prepared(image, self.picture.name))
        except PictureError as error:
            return error


@dataclass(frozen=True)
class _Job:
    """Pictures to be labelled, and where the results go."""

    predictor: Predictor
    classes: FoundClasses
    scored: int  # number of classes that have scores
    things: tuple[bool, ...]
    options: SegmentOptions
    pictures: dict[str, Picture]  # by the name of their outputs
    damaged: Sequence[str]  # what is wrong with those that were left out beforehand
    told: dict[str, Any]  # about the segmentor
    world: World  # whose processes share the pictures
    reporter: Reporter

    @cached_property
    def colours(self) -> np.ndarray:
        """Colours of the classes except the background, uint8 (C, 3)."""
        return class_colours(self.classes.names[: self.classes.background])

    @cached_property
    def palette(self) -> np.ndarray:
        """Colours by id, uint8 (N, 3); black where there is no class."""
        palette = np.zeros((max(self.classes.ids) + 1, 3), np.uint8)
        palette[list(self.classes.ids[: len(self.colours)])] = self.colours
        return palette

    @cached_property
    def values(self) -> np.ndarray:
        """Ids of the classes, (C,), of as few bits as hold them."""
        return np.array(self.classes.ids, np.min_scalar_type(max(self.classes.ids)))

    def run(self, workers: int) -> SegmentResult:
        """Label all pictures, which `workers` threads read ahead."""
        if self.options.out is not None:
            return self._into(self.options.out, workers)
        path = self.options.save_scores
        assert path is not None
        if self.world.is_main:
            loaded = _Load(self.predictor, next(iter(self.pictures.values()))).run()
            if isinstance(loaded, PictureError):
                raise loaded
            self.save_scores(self.predictor.parts(loaded.prepared), loaded.image)
        words = slice(self.scored)
        return SegmentResult(path, (), self.classes.names[words], self.told, self.classes.ids[words])

    def _into(self, out: Path, workers: int) -> SegmentResult:
        """Write everything into `out`, which appears at the end."""
        main = self.world.is_main
        with staged_folder(out, replace=self.options.force) if main else hidden_folder(out) as folder:
            shares = self.world.collect((folder, self._share(folder, out, workers)))
            done = {row: found for _, share in shares for row, found in share.items()}
            entries = [done[row] for row in sorted(done) if not isinstance(done[row], str)]
            bad = [done[row] for row in sorted(done) if isinstance(done[row], str)]
            skipped = [*self.damaged, *bad]
            some_left(len(entries), skipped)
            tell_skipped(skipped, len(done) + len(self.damaged), self.reporter)
            names, ids, place = self.classes.names, self.classes.ids, self.classes.background
            background = None if place is None else ids[place]
            result = SegmentResult(out, tuple(entries), names, self.told, ids, tuple(skipped), background)
            if main:
                for other, _ in shares[1:]:
                    for path in other.iterdir():
                        path.replace(folder / path.name)
            self.world.barrier()  # then the others may remove their folders
            if main:
                self._write_reports(folder, result, [row for row in sorted(done) if not isinstance(done[row], str)])
        return result

    def _share(self, folder: Path, out: Path, workers: int) -> dict[int, Any]:
        """Label the pictures of this process: by number the entry of a picture, or what is wrong with it."""
        mine = [*enumerate(self.pictures.items())][self.world.rank :: self.world.size]
        done: dict[int, Any] = {}
        with Flow[_Loaded | PictureError](workers) as flow, self.reporter.bar("segmenting", len(mine)) as advance:
            tasks = (_Load(self.predictor, picture) for _, (_, picture) in mine)
            with closing(flow.ahead(tasks)) as pictures:
                for (row, (name, picture)), loaded in zip(mine, pictures, strict=True):
                    if isinstance(loaded, _Loaded):
                        entry = partial(self._write, folder, name, loaded.image, self._find(loaded))
                        flow.behind(partial(_put, done, row, entry, _photo(picture, out)))
                    elif len(self.pictures) == 1 and not self.damaged:
                        raise loaded
                    else:
                        done[row] = without_move(loaded)
                    advance(name)
        return done

    def _write_reports(self, folder: Path, result: SegmentResult, rows: Sequence[int]) -> None:
        """Write what is told of all pictures together; rows: the numbers of those with an entry."""
        (folder / REPORT).write_bytes(json_bytes(result.to_json()))
        if self.options.task == "panoptic":
            pictures = [*self.pictures.values()]
            files = [Path(pictures[row].member or pictures[row].path).name for row in rows]
            sizes = [(entry["height"], entry["width"]) for entry in result.images]
            classes = list(zip(result.vocabulary, self.things, self.colours.tolist(), strict=True))
            (folder / PANOPTIC).write_bytes(json_bytes(coco_panoptic(list(result.images), sizes, files, classes)))
        if self.options.gallery:
            write_gallery(folder, result.to_json(), home=result.path, reporter=self.reporter)

    def _write(self, folder: Path, name: str, image: np.ndarray, found: _Found) -> dict[str, Any]:
        """Write what was found in a picture; returns its entry in the report."""
        names, label_map = self.classes.names, found.label_map
        write_label_map(folder / f"{name}.png", self.values[label_map], self.palette)
        entry: dict[str, Any] = {"name": name, "label_map": f"{name}.png"}
        if self.options.overlay:
            entry["overlay"] = f"{name}-overlay.png"
            shown = names[: self.classes.background]
            rest = BACKGROUND if self.classes.background is not None else NO_CLASS
            page = overlay(image, label_map, shown, colours=self.colours, rest=rest)
            save_png(folder / entry["overlay"], page)
        entry |= {"height": image.shape[0], "width": image.shape[1], **_areas(label_map, self.classes)}
        if found.queries is not None and self.options.task == "instance":
            entry["instances"] = find_instances(found.queries, image, names, self.things)
        elif found.queries is not None:
            entry["panoptic"] = f"{name}-panoptic.png"
            path = folder / entry["panoptic"]
            entry["segments"] = find_segments(
                found.queries, image, names, self.things, path, framework=self.predictor.framework
            )
        return entry

    def _find(self, loaded: _Loaded) -> _Found:
        """What the model finds in a picture."""
        queries = None if self.options.task == "semantic" else self.predictor.queries(loaded.prepared)
        return _Found(self._label_map(loaded, queries), queries)

    def _label_map(self, loaded: _Loaded, queries: Queries | None) -> np.ndarray:
        """Class of every pixel of an image, (H, W); its scores are written if that is asked for."""
        if self.options.save_scores is not None:
            labels = self.predictor.labelling()
            self.save_scores(_seen(self.predictor.parts(loaded.prepared, queries), labels), loaded.image)
            return labels.map()
        if queries is not None:
            return self.predictor.labelled(self.predictor.parts(loaded.prepared, queries))
        return self.predictor.label_map(loaded.prepared)

    def save_scores(self, parts: Iterable[Tensor], image: np.ndarray) -> None:
        """Write the scores of an image, (C, H, W), float32, by numpy.save, completely or not at all."""
        assert self.options.save_scores is not None
        header = io.BytesIO()
        shape = (self.scored, image.shape[0], image.shape[1])
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
        chunks = (np.ascontiguousarray(part.cpu().numpy(), dtype="<f4").reshape(-1).view(np.uint8) for part in parts)
        try:
            write_file(self.options.save_scores, chain([header.getvalue()], (chunk.data for chunk in chunks)))
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f"cannot write: {self.options.save_scores} ({reason}); choose another place") from error


def _seen(parts: Iterable[Tensor], labels: Labelling) -> Iterator[Tensor]:
    """`parts`, which `labels` takes on their way."""
    for part in parts:
        labels.add(part)
        yield part


def _put(done: dict[int, Any], row: int, entry: Callable[[], dict[str, Any]], more: dict[str, str]) -> None:
    """Do what is left to do for a picture, and keep its entry."""
    done[row] = {**entry(), **more}


def _check_targets(options: SegmentOptions, count: int) -> None:
    """Raises OutputError or OptionError unless every output may be written to its place."""
    if options.out is not None:
        check_folder_target(options.out, force=options.force, foreign=_foreign)
        check_parent(options.out)
    scores = options.save_scores
    if scores is None:
        return
    if count != 1:
        raise OptionError(f"scores are of one image: --save-scores {scores} with {count} images; name one image")
    check_file_target(scores, force=options.force, option="--save-scores")
    prepare_parent(scores)


def _foreign(out: Path) -> set[str]:
    """The files in a folder that no earlier run has written."""
    there = {path.name for path in out.iterdir()}
    try:
        images = json.loads((out / REPORT).read_text(encoding="utf-8"))["images"]
        return there - {
            REPORT,
            PANOPTIC,
            GALLERY,
            *(image[kind] for image in images for kind in _KINDS if kind in image),
        }
    except (OSError, ValueError, LookupError, TypeError):
        return there


def _photo(picture: Picture, out: Path) -> dict[str, str]:
    """Where the photo lies, from the folder of the report, as an entry there; nothing for one in a tar."""
    if picture.member is not None:
        return {}
    return {"photo": Path(os.path.relpath(picture.path, out)).as_posix()}


def _areas(label_map: np.ndarray, classes: FoundClasses) -> dict[str, Any]:
    """The classes of a label map (H, W), largest area first: the share by name, and the pixels by id."""
    # A few rows at a time: bincount makes a copy of 64 bits.
    rows = range(0, len(label_map), _ROWS)
    counts = [np.bincount(label_map[top : top + _ROWS].ravel(), minlength=len(classes.names)) for top in rows]
    pixels = np.sum(counts, axis=0)
    there = [int(index) for index in np.argsort(-pixels, kind="stable") if pixels[index]]
    by_name: dict[str, int] = {}
    for index in there:  # published benchmarks give two classes the same name
        by_name[classes.names[index]] = by_name.get(classes.names[index], 0) + int(pixels[index])
    return {
        "classes": {name: round(count / label_map.size, 6) for name, count in by_name.items()},
        "areas": [
            {"id": classes.ids[index], "class": classes.names[index], "area": int(pixels[index])} for index in there
        ],
    }
