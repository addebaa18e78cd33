"""Single objects of the pictures that are scored: found, counted, and written in COCO's formats."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.base import PanopticDataset, PanopticTruth, SegDataset, panoptic_dataset
from opentrans_cli.errors import DataError, OptionError
from opentrans_cli.files.atomic import write_file
from opentrans_cli.files.targets import check_folder_target, other_than, prepare_parent
from opentrans_cli.metrics.mask_ap import FoundObject, MaskPrecision, TrueObject, coco_library, mask_ap, packed_region
from opentrans_cli.metrics.panoptic import PanopticCounts, Quality
from opentrans_cli.steps.eval.options import TaskOptions
from opentrans_cli.steps.eval.pieces import Pieces
from opentrans_cli.steps.run_files import kept_states
from opentrans_cli.steps.segmentors.built import BuiltSegmentor
from opentrans_cli.steps.segmentors.predictor import Queries
from opentrans_cli.steps.segmentors.segments import object_masks, segment_facts, segment_map, write_segment_ids
from opentrans_cli.steps.segmentors.tally import Tally
from opentrans_cli.training.processes.distributed import World

PANOPTIC_FILE = "panoptic.json"
"""Predicted segments in a folder that `segment --task panoptic` or `eval --save-predictions` wrote."""

RESULTS_FILE = "instances.json"
"""Found objects in a folder that `eval --save-predictions` wrote."""

_COUNTS = "segments"


@dataclass(frozen=True)
class ObjectTask:
    """What is to be found and scored besides label maps."""

    task: str  # "panoptic" or "instance"
    save: Path | None  # folder for the predictions

    @classmethod
    def of(cls, options: TaskOptions, *, force: bool) -> ObjectTask | None:
        """The task of the options; None if it is label maps alone.

        Raises OptionError if a package for it is missing, and OutputError if the folder cannot be written.
        """
        if options.task == "semantic":
            return None
        if options.task == "instance":
            coco_library()
        if options.save_predictions is not None:
            ours = other_than(PANOPTIC_FILE, RESULTS_FILE, Path(PANOPTIC_FILE).stem)
            check_folder_target(options.save_predictions, force=force, foreign=ours, option="--save-predictions")
            prepare_parent(options.save_predictions)
        return cls(options.task, options.save_predictions)

    def check_samples(self, dataset: str, samples: SegDataset) -> None:
        """Raises DataError for a data set that does not know single objects."""
        if panoptic_dataset(samples) is None:
            raise DataError(
                f"the data set tells no objects apart: {dataset}, for --task {self.task}; it needs COCO's panoptic "
                "format, as `coco` and --dataset panoptic have it"
            )

    def check_framework(self, built: BuiltSegmentor) -> None:
        """Raises OptionError for a segmentor that finds no objects."""
        if not built.framework.masks:
            raise OptionError(f"{built.framework.name} finds no objects: --task {self.task}; use a framework of masks")

    def scoring(
        self, samples: SegDataset, built: BuiltSegmentor, target: Path, world: World, *, resume: bool
    ) -> ObjectScoring:
        """What scores the pictures; target: that of the report. Call it in all processes."""
        known, pieces = panoptic_dataset(samples), None
        assert known is not None
        if self.save is not None or self.task == "instance":
            place = Path(os.path.abspath(target if self.save is None else self.save))
            pieces = Pieces(place.with_name(f".{place.name}.predictions"))
            if world.is_main and not resume:
                pieces.discard()
            world.barrier()
        return ObjectScoring(self.task, known, framework=built.framework.name, pieces=pieces)


class ObjectScoring:
    """Compares segments or objects with the true ones, picture by picture, beside the scoring of label maps.

    `counts` of pictures can be added. What cannot, since AP and COCO's files need every prediction, goes into `pieces`.
    """

    def __init__(self, task: str, samples: PanopticDataset, *, framework: str, pieces: Pieces | None) -> None:
        self.task, self._samples, self._framework, self._pieces = task, samples, framework, pieces
        self._names: Sequence[str] = ()
        self._rows: Sequence[int] = ()
        self._quality = PanopticCounts(len(samples.things))

    def start_from(self, tally: Tally) -> None:
        """Go on from what was found on other rows."""
        if _COUNTS in tally.counts:
            self._quality.counts[:] = tally.counts[_COUNTS]

    def counts(self) -> dict[str, NDArray[np.int64]]:
        """What was counted until now, by name."""
        return {_COUNTS: self._quality.counts} if self.task == "panoptic" else {}

    def truth(self, row: int) -> PanopticTruth:
        """The true segments of a sample. Any thread may read them."""
        return self._samples.panoptic(row)

    def take(self, row: int, truth: PanopticTruth, queries: Queries) -> None:
        """Score what is found in the queries of a sample, whose picture has the size of `truth`."""
        shape = (truth.ids.shape[0], truth.ids.shape[1])
        if self.task == "panoptic":
            self._take_segments(row, truth, queries, shape)
        else:
            self._take_objects(row, truth, queries, shape)

    def _take_segments(self, row: int, truth: PanopticTruth, queries: Queries, shape: tuple[int, int]) -> None:
        ids, segments = segment_map(queries, shape, self._samples.things, framework=self._framework)
        found = [(segment.id, segment.class_index) for segment in segments]
        self._quality.update(truth.ids, truth.segments, ids, found)
        if self._pieces is None:
            return
        name, numbers, picture = f"{self._samples.name(row)}.png", self._samples.category_ids, io.BytesIO()
        write_segment_ids(picture, ids)
        self._pieces.put_picture(f"{Path(PANOPTIC_FILE).stem}/{name}", picture.getvalue())
        parts = [
            {"id": number, "category_id": numbers[index], "iscrowd": 0, **segment_facts(ids, number)}
            for number, index in found
        ]
        entry = {"image_id": self._samples.image_id(row), "file_name": name, "segments_info": parts}
        self._pieces.put(row, {"size": shape, "entry": entry})

    def _take_objects(self, row: int, truth: PanopticTruth, queries: Queries, shape: tuple[int, int]) -> None:
        assert self._pieces is not None
        found = [
            (index, packed_region(region), score)
            for index, score, region in object_masks(queries, shape, self._samples.things)
        ]
        self._pieces.put(row, {"size": shape, "true": list(_true_objects(truth, self._samples.things)), "found": found})

    def report(self, tally: Tally, names: Sequence[str]) -> dict[str, Any]:
        """The part of the eval report about objects; tally: of all pictures, by all processes."""
        self._names, self._rows = names, sorted(tally.seconds)
        if self.task == "panoptic":
            total = PanopticCounts(len(names))
            total.counts[:] = tally.counts[_COUNTS]
            return {"panoptic": panoptic_scores(total, names, self._samples.things)}
        assert self._pieces is not None
        pieces = {row: self._pieces.get(row) for row in self._rows}
        precision = mask_ap(
            {row: (piece["size"][0], piece["size"][1]) for row, piece in pieces.items()},
            (TrueObject(row, *each) for row, piece in pieces.items() for each in piece["true"]),
            (FoundObject(row, *each) for row, piece in pieces.items() for each in piece["found"]),
            len(names),
        )
        return {"instance": instance_scores(precision, names)}

    def finish(self, save: Path | None) -> None:
        """Let the predictions for all pictures of the report become the folder `save`, in COCO's formats."""
        if self._pieces is None:
            return
        if save is None:
            self._pieces.discard()
            return
        panoptic = self.task == "panoptic"
        path = self._pieces.folder / (PANOPTIC_FILE if panoptic else RESULTS_FILE)
        write_file(path, self._panoptic_document() if panoptic else self._results())
        self._pieces.become(save)

    def give_up(self, target: Path) -> None:
        """Remove predictions that no state of a run with this target needs any more."""
        if self._pieces is not None and not kept_states(target):
            self._pieces.discard()

    def _panoptic_document(self) -> Iterator[bytes]:
        pieces, samples, rows = self._pieces, self._samples, self._rows
        assert pieces is not None
        kinds = zip(samples.category_ids, self._names, samples.things, strict=True)
        categories = [{"id": number, "name": name, "isthing": int(thing)} for number, name, thing in kinds]
        yield b'{"categories": ' + json.dumps(categories).encode()
        yield from _listed(b', "images": ', (self._image(row, pieces.get(row)["size"]) for row in rows))
        yield from _listed(b', "annotations": ', (pieces.get(row)["entry"] for row in rows))
        yield b"}\n"

    def _image(self, row: int, size: Sequence[int]) -> dict[str, Any]:
        name = f"{self._samples.name(row)}.png"
        return {"id": self._samples.image_id(row), "file_name": name, "height": size[0], "width": size[1]}

    def _results(self) -> Iterator[bytes]:
        assert self._pieces is not None
        numbers = self._samples.category_ids
        found = (
            {
                "image_id": self._samples.image_id(row),
                "category_id": numbers[index],
                "segmentation": region,
                "score": score,
            }
            for row in self._rows
            for index, region, score in self._pieces.get(row)["found"]
        )
        yield from _listed(b"", found)
        yield b"\n"


def _listed(name: bytes, values: Iterable[Any]) -> Iterator[bytes]:
    """A JSON list, value after value, so that the whole need not be in memory."""
    yield name + b"["
    for number, value in enumerate(values):
        yield (b",\n" if number else b"\n") + json.dumps(value).encode()
    yield b"]"


def _true_objects(truth: PanopticTruth, things: Sequence[bool]) -> Iterator[tuple[int, Any, int, bool]]:
    """Class, region, area and whether it is a crowd, of each segment that is an object."""
    for segment in truth.segments:
        if things[segment.class_index]:
            region = truth.ids == segment.id
            yield segment.class_index, packed_region(region), int(region.sum()), segment.crowd


def panoptic_scores(counts: PanopticCounts, names: Sequence[str], things: Sequence[bool]) -> dict[str, Any]:
    """PQ, SQ and RQ of all classes, of things and of stuff, and of each class; fractions, None where there is none.

    things: by class, whether it consists of objects.
    """

    def mean(wanted: bool) -> dict[str, Any]:
        return asdict(counts.mean([index for index, thing in enumerate(things) if thing is wanted]))

    return {
        **asdict(counts.mean()),
        "things": mean(True),
        "stuff": mean(False),
        "per_class": [
            {"name": name, "thing": thing, **_of_class(counts.of_class(index))}
            for index, (name, thing) in enumerate(zip(names, things, strict=True))
        ],
    }


def _of_class(quality: Quality) -> dict[str, Any]:
    return {name: value for name, value in asdict(quality).items() if name != "classes"}


def instance_scores(precision: MaskPrecision, names: Sequence[str]) -> dict[str, Any]:
    """AP over all IoUs and sizes, its usual parts, and that of each class; fractions, None where there is none."""
    classes = zip(names, precision.per_class, strict=True)
    return {**precision.means, "per_class": [{"name": name, "ap": ap} for name, ap in classes]}
