"""Views of images as a tower needs them: normalised, on its device, in batches in order, or for a criterion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opentrans_cli.clip.preprocess import Preprocess
from opentrans_cli.datasets import DATASETS
from opentrans_cli.datasets.labelled import LabelledPairs
from opentrans_cli.datasets.listing import Say
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.datasets.picture_source import Picture, list_pictures
from opentrans_cli.datasets.sampling import batch_indices
from opentrans_cli.datasets.views import IN_MEMORY, PhotoViews, SceneViews, Views, ViewSet
from opentrans_cli.reporter import Reporter
from opentrans_cli.steps.prune.options import EMBEDDED, PruneOptions
from opentrans_cli.steps.samples import tell_skipped
from opentrans_cli.training.processes.distributed import World


def open_views(
    where: str | Sequence[Picture],
    *,
    size: int,
    limit: int,
    seed: int,
    workers: int = 0,
    skip_bad: bool = False,
    in_memory: int = IN_MEMORY,
    on_batch: Callable[[NDArray[np.uint8]], None] = lambda pixels: None,
    reporter: Reporter,
) -> Views:
    """The views of `where` (pictures, "shapes" for the embedded scenes, else see `list_pictures`), gone through once.

    Every picture gives the whole view and one random crop, each embedded scene gives one view; views have `size` x
    `size` pixels, and there are at most `limit` of them. `on_batch` gets all views (B, S, S, 3) once, in order, so that
    the teacher need not read them again. Close the result. Raises DataError for what cannot be read (pictures: unless
    `skip_bad`) and OptionError for a limit below 1 or a negative number of workers.
    """
    chosen = _view_set(where, size=size, limit=limit, seed=seed, say=reporter.say)
    views = Views(chosen, workers=workers, skip_bad=skip_bad, in_memory=in_memory)
    title = "rendering scenes" if where == EMBEDDED else "reading images"
    try:
        with reporter.bar(title, views.planned) as advance:
            for pixels in views.scan():
                on_batch(pixels)
                for _ in pixels:
                    advance("")
    except BaseException:
        views.close()
        raise
    tell_skipped(views.bad, chosen.pictures, reporter)
    return views


def _view_set(where: str | Sequence[Picture], *, size: int, limit: int, seed: int, say: Say) -> ViewSet:
    if where == EMBEDDED:
        return SceneViews(size=size, limit=limit)
    pictures = list_pictures(where, say=say) if isinstance(where, str) else where
    return PhotoViews(pictures, size=size, limit=limit, seed=seed)


SCORE_BATCH = 16
"""Images in a batch of a criterion: a batch is one draw of an estimate, so many small ones say more than few large."""

_SALT = 0x73636F7265  # makes the choice of scored images independent of the order of training


class ImageLoader:
    """The fixed images of a pruning run. Close it."""

    def __init__(self, views: Views, preprocess: Preprocess, *, world: World) -> None:
        self.views, self.preprocess, self.world = views, preprocess, world

    def __len__(self) -> int:
        return len(self.views)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the pixels and of the number of images."""
        return self.views.fingerprint

    def close(self) -> None:
        """Ends the worker processes."""
        self.views.close()

    def stream(self, batches: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """Normalised images (B, 3, S, S) for each array of rows in `batches`."""
        return (self._normalised(pixels) for pixels in self.views.stream(batches))

    def _normalised(self, pixels: np.ndarray) -> Tensor:
        return self.preprocess.normalise(torch.from_numpy(pixels).to(self.world.device))

    def map(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """The result of `function` for every image (batches of 3 x S x S -> rows of D), float32 (N, D) on the CPU.

        Each process computes a part of the rows; all processes get all rows.
        """
        parts = np.array_split(np.arange(len(self)), max(self.world.size, -(-len(self) // 256)))
        own = parts[self.world.rank :: self.world.size]
        values = [function(images).float().cpu() for images in self.stream(own)]
        result = torch.zeros(len(self), values[0].shape[1])
        for rows, part in zip(own, values, strict=True):
            result[torch.from_numpy(rows)] = part
        self.world.total(result)
        return result

    def scoring(self, count: int, *, seed: int) -> Iterator[tuple[int, Tensor]]:
        """This process's share of the batches that a criterion uses: (number, images), `count` images altogether.

        `seed` decides which images these are; each image comes at most once.
        """
        size = min(SCORE_BATCH, len(self))
        total = max(1, min(count, len(self)) // size)
        numbers = range(self.world.rank, total, self.world.size)
        rows = [batch_indices(number, count=len(self), batch_size=size, seed=seed ^ _SALT) for number in numbers]
        return zip(numbers, self.stream(rows), strict=True)


def open_loader(
    options: PruneOptions, preprocess: Preprocess, *, world: World, workers: int, reporter: Reporter
) -> ImageLoader | None:
    """The images of `options`; None if there are none."""
    if options.images is None:
        return None
    where: str | Sequence[Picture] = options.images
    if options.published is not None:
        samples: LabelledPairs = DATASETS.load(options.published)(published_options(options))
        for remark in samples.remarks:
            reporter.say(remark)
        where = samples.photos
    views = open_views(
        where,
        size=preprocess.size,
        limit=options.image_limit,
        seed=options.seed,
        workers=0 if options.images == EMBEDDED else workers,  # making scenes is faster than sending them
        skip_bad=options.skip_bad,
        reporter=reporter,
    )
    return ImageLoader(views, preprocess, world=world)


def published_options(options: PruneOptions) -> DatasetOptions:
    """The training images of the published data set that `images` names."""
    root = None if options.root is None else Path(options.root)
    limit = options.image_limit if options.distill == "text-guided" else None
    return DatasetOptions(root=root, limit=limit, skip_bad=options.skip_bad)
