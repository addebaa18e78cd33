"""The fixed square images distillation looks at: where they come from, read once with a progress bar."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.picture_source import list_pictures
from opentrans_cli.datasets.view_sets import PhotoViews, SceneViews, ViewSet
from opentrans_cli.datasets.views import IN_MEMORY, Views
from opentrans_cli.steps.reporter import Reporter

EMBEDDED = "shapes"

NAMED = 8
"""So many skipped pictures are named; the rest is counted."""


def open_views(
    where: str,
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
    """The views of `where` ("shapes" for the embedded scenes, else see `list_pictures`), gone through once.

    Of every picture the whole view and one random crop, `size` x `size` pixels, at most `limit` views altogether; of
    each embedded scene one. `on_batch` sees all views (B, S, S, 3) once, in order, so that the teacher need not read
    them again. Close the result. Raises DataError for what cannot be read (pictures: unless `skip_bad`) and OptionError
    for a limit below 1 or a negative number of workers.
    """
    views = Views(
        _view_set(where, size=size, limit=limit, seed=seed), workers=workers, skip_bad=skip_bad, in_memory=in_memory
    )
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
    for text in views.bad[:NAMED]:
        reporter.say(f"skipped: {text}")
    if len(views.bad) > NAMED:
        reporter.say(f"skipped: {len(views.bad) - NAMED} more, {len(views.bad)} altogether")
    return views


def _view_set(where: str, *, size: int, limit: int, seed: int) -> ViewSet:
    if where == EMBEDDED:
        return SceneViews(size=size, limit=limit)
    return PhotoViews(list_pictures(where), size=size, limit=limit, seed=seed)
