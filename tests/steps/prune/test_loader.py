"""Images as a run reads them: in the order asked for, each process its share, none twice in a look."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from opentrans_cli.clip.preprocess import Preprocess
from opentrans_cli.datasets.views import SceneViews, Views
from opentrans_cli.steps.prune.loader import SCORE_BATCH, ImageLoader
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
