"""Images as a run reads them: in the order asked for, each process its share, none twice in a look."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from opentrans_cli.clip.preprocess import Preprocess
from opentrans_cli.datasets.shapes import ShapesDataset
from opentrans_cli.datasets.views import SceneViews, Views
from opentrans_cli.errors import DataError, OptionError
from opentrans_cli.reporter import SILENT, Advance, Reporter
from opentrans_cli.steps.prune.loader import SCORE_BATCH, ImageLoader, open_views
from opentrans_cli.training.processes.distributed import World


class Part(World):
    """One of several processes, as far as sharing goes."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__(torch.device("cpu"))
        self.rank, self.size = rank, size


def loader_of(views: Views, rank: int = 0, size: int = 1) -> ImageLoader:
    return ImageLoader(views, Preprocess(size=32), world=Part(rank, size))


@pytest.fixture(scope="module")
def views() -> Iterator[Views]:
    with Views(SceneViews(size=32, limit=200)) as made:
        for _ in made.scan():
            pass
        yield made


def test_images_come_normalised_in_the_order_of_the_rows(views: Views) -> None:
    rows = [np.array([3, 1]), np.array([199])]
    streamed = list(loader_of(views).stream(rows))
    for part, images in zip(rows, streamed, strict=True):
        expected = Preprocess(size=32).normalise(torch.from_numpy(views.fetch(part)))
        assert torch.equal(images, expected) and images.shape == (len(part), 3, 32, 32)


@pytest.mark.parametrize("size", [1, 3])
def test_the_processes_map_disjoint_parts_that_make_the_whole(size: int, views: Views) -> None:
    def means(images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))

    parts = [loader_of(views, rank, size).map(means) for rank in range(size)]
    whole = means(next(loader_of(views).stream([np.arange(200)])))
    torch.testing.assert_close(sum(parts), whole)
    assert (torch.stack([part.any(1) for part in parts]).sum(0) == 1).all()


@pytest.mark.parametrize("size", [1, 2])
def test_a_criterion_looks_at_every_image_once_whatever_the_processes(size: int, views: Views) -> None:
    alone = dict(loader_of(views).scoring(3 * SCORE_BATCH, seed=5))
    shared = [dict(loader_of(views, rank, size).scoring(3 * SCORE_BATCH, seed=5)) for rank in range(size)]
    assert sorted(number for part in shared for number in part) == sorted(alone) == [0, 1, 2]
    for part in shared:
        assert all(torch.equal(images, alone[number]) for number, images in part.items())
    pixels = torch.cat(list(alone.values())).flatten(1)
    assert len(pixels) == 3 * SCORE_BATCH == len(pixels.unique(dim=0))


def test_another_seed_looks_at_other_images(views: Views) -> None:
    one, two = (next(loader_of(views).scoring(64, seed=seed))[1] for seed in (0, 1))
    assert not torch.equal(one, two)


def test_fewer_images_than_a_batch_are_one_batch() -> None:
    with Views(SceneViews(size=32, limit=5)) as few:
        for _ in few.scan():
            pass
        assert [(number, len(images)) for number, images in loader_of(few).scoring(1000, seed=0)] == [(0, 5)]


class Recorder:
    """A reporter that remembers what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.bars: list[tuple[str, int]] = []
        self.advanced = 0

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def bar(self, title: str, total: int, *, done: int = 0, left: object = None) -> Iterator[Advance]:
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


def test_skipped_pictures_are_named_and_counted(photos: Path) -> None:
    for number in range(10):
        (photos / f"{number:02d}.png").write_text("no picture")
    recorder = Recorder()
    with views_of(photos, skip_bad=True, reporter=recorder) as views:
        assert len(views) == 4
    named = [f"skipped: image cannot be read: {photos}/{index:02d}.png" for index in range(10)]
    assert recorder.said == [*named, "skipped 10 of 12 pictures"]


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
