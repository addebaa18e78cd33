"""The images of a distillation: opened from every kind of place, shown once, and what was skipped is said."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opentrans_cli.datasets.shapes import ShapesDataset
from opentrans_cli.datasets.views import Views
from opentrans_cli.errors import DataError, OptionError
from opentrans_cli.reporter import SILENT, Advance, Reporter
from opentrans_cli.steps.prune.loader import open_views


class Recorder:
    """A reporter that remembers what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.bars: list[tuple[str, int]] = []
        self.advanced = 0

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def bar(self, title: str, total: int, *, done: int = 0) -> Iterator[Advance]:
        self.bars.append((title, total))

        def advance(status: str) -> None:
            self.advanced += 1

        yield advance


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve photos of random pixels."""
    rng = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (40, 32, 3), dtype=np.uint8)).save(tmp_path / f"{number:02d}.png")
    return tmp_path


def views_of(where: object, *, limit: int = 100, skip_bad: bool = False, reporter: Reporter = SILENT) -> Views:
    return open_views(str(where), size=32, limit=limit, seed=0, skip_bad=skip_bad, reporter=reporter)


def test_the_embedded_scenes_are_the_training_scenes() -> None:
    recorder = Recorder()
    with views_of("shapes", limit=3, reporter=recorder) as views:
        scenes = ShapesDataset("train", size=32, count=3)
        assert np.array_equal(views.fetch(np.arange(3)), [scenes[index].image for index in range(3)])
    assert recorder.bars == [("rendering scenes", 3)] and recorder.advanced == 3 and recorder.said == []


def test_every_view_is_shown_once_in_order_while_the_bar_advances(photos: Path) -> None:
    recorder, seen = Recorder(), list[np.ndarray]()
    with open_views(
        str(photos), size=32, limit=9, seed=0, in_memory=0, on_batch=seen.append, reporter=recorder
    ) as views:
        assert views.streamed and len(views) == 9
        assert np.array_equal(np.concatenate(seen), views.fetch(np.arange(9)))
    assert recorder.bars == [("reading images", 9)] and recorder.advanced == 9


def test_the_first_eight_skipped_pictures_are_named_and_the_rest_is_counted(photos: Path) -> None:
    for number in range(10):
        (photos / f"{number:02d}.png").write_text("no picture")
        recorder = Recorder()
        with views_of(photos, skip_bad=True, reporter=recorder) as views:
            assert len(views) == 2 * (11 - number)
        named = [f"skipped: image cannot be read: {photos}/{index:02d}.png" for index in range(min(number + 1, 8))]
        more = [f"skipped: {number - 7} more, {number + 1} altogether"] if number > 7 else []
        assert recorder.said == named + more


def test_what_cannot_be_opened_is_told(photos: Path) -> None:
    with pytest.raises(DataError, match=r"images not found: .*none; give a folder"):
        views_of(photos / "none")
    with pytest.raises(OptionError, match="--image-limit must be at least 1: 0"):
        views_of(photos, limit=0)
    (photos / "03.png").write_text("no picture")
    with pytest.raises(DataError, match=r"03\.png; .* or skip it and others with --skip-bad"):
        views_of(photos)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_no_worker_is_left_when_the_pass_is_broken_off(photos: Path, error: type[BaseException]) -> None:
    def interrupted(pixels: np.ndarray) -> None:
        assert multiprocessing.active_children()
        raise error

    with pytest.raises(error):
        open_views(str(photos), size=32, limit=24, seed=0, workers=1, on_batch=interrupted, reporter=SILENT)
    assert multiprocessing.active_children() == []
