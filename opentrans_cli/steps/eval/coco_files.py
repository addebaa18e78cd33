"""eval --predictions with --task panoptic or instance: anybody's files in COCO's formats against the truth in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from opentrans_cli.datasets.coco_json import Category, ImageId, ListedImage
from opentrans_cli.datasets.coco_objects import read_found_objects, read_objects
from opentrans_cli.datasets.coco_panoptic import PanopticFile
from opentrans_cli.errors import DataError, did_you_mean
from opentrans_cli.files.atomic import write_file
from opentrans_cli.files.figures import in_percent
from opentrans_cli.files.records import json_bytes
from opentrans_cli.files.targets import check_file_target, prepare_parent
from opentrans_cli.metrics.mask_ap import FoundObject, TrueObject, coco_library, mask_ap
from opentrans_cli.metrics.panoptic import PanopticCounts
from opentrans_cli.reporter import SILENT, Reporter
from opentrans_cli.steps.eval.objects import PANOPTIC_FILE, RESULTS_FILE, instance_scores, panoptic_scores


def score_coco_files(
    predictions: Path,
    truth: Path,
    task: str,
    *,
    out: Path | None = None,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """The figures of predictions in percent, with those of each class by its name; they also go to the file `out`.

    task: "panoptic" or "instance". predictions, truth: for the first, panoptic JSONs of COCO's with their PNGs; for the
    second, a list of results, and a JSON such as `instances_val2017.json`. Raises DataError for files
    that are missing, damaged, or do not fit each other, OptionError without faster-coco-eval, and OutputError.
    """
    if out is not None:
        check_file_target(out, force=force)
    if predictions.is_dir():
        predictions = predictions / (PANOPTIC_FILE if task == "panoptic" else RESULTS_FILE)
    report = _classes_by_name((_panoptic if task == "panoptic" else _instances)(predictions, truth, reporter))
    if out is not None:
        prepare_parent(out)
        write_file(out, [json_bytes(report)])
    return report


def _panoptic(predictions: Path, truth: Path, reporter: Reporter) -> dict[str, Any]:
    known, found = PanopticFile(truth), PanopticFile(predictions)
    if not known.categories:
        raise DataError(f"COCO file lists no categories: {truth}; add them")
    if not known.image_ids:
        raise DataError(f"no images to score: {truth} has no annotations; give others")
    true_class = {category.id: index for index, category in enumerate(known.categories)}
    found_class = _classes_of(found, known.categories)
    found_image = _images_of(found, known)
    if lost := [image for image in known.image_ids if image not in found_image]:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise DataError(f"no predicted segments of image {_named(known, lost[0])}{more}: {predictions}; add them")
    if extra := len(found.image_ids) - len(known.image_ids):
        reporter.say(f"left out, predictions of images without truth: {extra} in {predictions}")
    known.check(known.image_ids, true_class)
    found.check(found_image.values(), found_class)
    counts = PanopticCounts(len(known.categories))
    with reporter.bar("scoring", len(known.image_ids)) as advance:
        for image in known.image_ids:
            true, guess = known.read(image, true_class), found.read(found_image[image], found_class)
            if true.ids.shape != guess.ids.shape:
                (height, width), (guessed_height, guessed_width) = true.ids.shape, guess.ids.shape
                raise DataError(
                    f"predicted segments are {guessed_width} x {guessed_height}, the true ones {width} x {height}: "
                    f"{found.png(found_image[image])}; resize them (nearest)"
                )
            counts.update(true.ids, true.segments, guess.ids, [part[:2] for part in guess.segments])
            advance("")
    names, things = _names(known.categories), [category.thing for category in known.categories]
    return {"task": "panoptic", "images": len(known.image_ids), **panoptic_scores(counts, names, things)}


def _named(file: PanopticFile, image: ImageId) -> str:
    return f"{image} ({file.images[image].file_name})" if image in file.images else str(image)


def _names(categories: Iterable[Category]) -> list[str]:
    """The names of categories; of those that share one, each gets its id behind it."""
    categories = list(categories)
    names = [category.name for category in categories]
    return [f"{each.name} ({each.id})" if names.count(each.name) > 1 else each.name for each in categories]


def _classes_of(found: PanopticFile, categories: tuple[Category, ...]) -> dict[int, int]:
    """The class of each category id of predictions: by name, if they bring names, else ids are those of the truth."""
    places = {category.id: index for index, category in enumerate(categories)}
    known = {(category.id, category.name) for category in categories}
    if all((category.id, category.name) in known for category in found.categories):
        return places
    by_name: dict[str, int] = {}
    for index, category in enumerate(categories):
        if by_name.setdefault(category.name.casefold(), index) != index:
            raise DataError(
                f"two categories of the truth are called '{category.name}', and the predictions number theirs "
                f"otherwise: {found.path}; write the ids of the truth"
            )
    spelled = {category.id: category.name.casefold() for category in found.categories}
    classes = {number: by_name[name] for number, name in spelled.items() if name in by_name}
    if not classes:
        first = found.categories[0].name
        raise DataError(
            f"no category of the predictions is one of the truth, first '{first}': {found.path}; use its names"
            f"{did_you_mean(first, by_name)}"
        )
    return classes


def _images_of(found: PanopticFile, known: PanopticFile) -> dict[ImageId, ImageId]:
    """The image of the predictions for each image of the truth: by id, or by file name where ids are others."""
    wanted = set(known.image_ids)
    there = {image: image for image in found.image_ids if image in wanted}
    alike = all(_stem(found.images, image) in (None, _stem(known.images, image)) for image in there)
    if not found.images or (there and alike):
        return there
    by_stem: dict[str | None, ImageId] = {}
    for image in found.image_ids:
        stem = _stem(found.images, image)
        if stem is not None and by_stem.setdefault(stem, image) != image:
            raise DataError(f"two predicted images are called '{stem}': {found.path}; write the ids of the truth")
    stems = {image: _stem(known.images, image) for image in known.image_ids}
    return {image: by_stem[stem] for image, stem in stems.items() if stem in by_stem}


def _stem(images: Mapping[ImageId, ListedImage], image: ImageId) -> str | None:
    return Path(images[image].file_name).stem if image in images else None


def _instances(predictions: Path, truth: Path, reporter: Reporter) -> dict[str, Any]:
    coco_library()
    known = read_objects(truth)
    if not known.images:
        raise DataError(f"no images to score: {truth} lists none; give others")
    found, boxes = read_found_objects(predictions, known.images, known.categories)
    if boxes:
        reporter.say(f"boxes are not looked at: {predictions}; the area of an object is that of its mask")
    numbers = {image: number for number, image in enumerate(known.images)}
    places = {category.id: index for index, category in enumerate(known.categories)}
    precision = mask_ap(
        {numbers[image.id]: image.size or (0, 0) for image in known.images.values()},
        (TrueObject(numbers[e.image], places[e.category], e.region, e.area, e.crowd) for e in known.objects),
        (FoundObject(numbers[e.image], places[e.category], e.region, e.score) for e in found),
        len(places),
    )
    return {"task": "instance", "images": len(numbers), **instance_scores(precision, _names(known.categories))}


def _classes_by_name(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report of fractions in percent, with its classes by name."""
    rows = [dict(row) for row in report["per_class"]]
    named: dict[str, Any] = in_percent({**report, "per_class": {row.pop("name"): row for row in rows}})
    return named
