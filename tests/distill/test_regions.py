"""Regions: what the teacher sees of them, which of them count, and their mean embeddings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opentrans_cli.datasets.images import resize_image
from opentrans_cli.distill.regions import GREY, find_regions, pool_regions, region_picture, region_pictures

LABELS = torch.tensor([[[5, 5, 2, 2], [5, 5, 2, 2], [5, 5, -1, 2], [5, 5, 2, 2]], [[-1] * 4] * 4, [[7] * 4] * 4])


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def unchanged(image, shape):
    assert shape == (8, 8)
    return image


def test_outside_of_a_region_everything_is_grey_and_its_box_is_cut_out():
    image, region = noise(20, 30), np.zeros((20, 30), bool)
    region[3, 4:9] = region[3:11, 8] = True
    picture = region_picture(image, region, size=8, resize=unchanged)
    assert picture.shape == (8, 5, 3)
    inside = region[3:11, 4:9]
    assert (picture[inside] == image[region]).all()
    assert (picture[~inside] == GREY).all()


def test_a_region_fills_its_square_whatever_its_proportions():
    image, region = noise(20, 30), np.zeros((20, 30), bool)
    region[2:4, 1:29] = True
    image[region] = (10, 200, 30)
    picture = region_picture(image, region, size=16, resize=resize_image)
    assert picture.shape == (16, 16, 3)
    assert (picture == (10, 200, 30)).all()


def test_the_picture_of_a_whole_image_is_the_image_resized():
    image = noise(20, 30)
    picture = region_picture(image, np.ones((20, 30), bool), size=16, resize=resize_image)
    assert (picture == resize_image(image, (16, 16), method="bicubic")).all()


def test_an_empty_region_has_no_picture():
    with pytest.raises(ValueError, match="at least one pixel"):
        region_picture(noise(4, 4), np.zeros((4, 4), bool), size=16, resize=resize_image)


def test_pictures_come_in_the_order_of_the_classes():
    image, label_map = noise(20, 20), np.arange(20)[:, None].repeat(20, 1) // 7
    pictures = region_pictures(image, label_map, np.array([2, 0]), size=16, resize=resize_image)
    for picture, index in zip(pictures, (2, 0), strict=True):
        assert (picture == region_picture(image, label_map == index, size=16, resize=resize_image)).all()
    assert region_pictures(image, label_map, np.array([], np.int64), size=16, resize=resize_image).shape[0] == 0


def test_there_is_one_region_for_each_class_of_each_image_and_none_for_ignored_pixels():
    image_of, class_of = find_regions(LABELS, grid=(4, 4), ignored=-1)
    assert image_of.tolist() == [0, 0, 2] and class_of.tolist() == [2, 5, 7]
    image_of, class_of = find_regions(LABELS, grid=(4, 4), ignored=5)
    assert class_of.tolist() == [-1, 2, -1, 7]


def test_regions_under_half_a_cell_vanish():
    labels = torch.zeros(1, 16, 16, dtype=torch.int64)
    labels[0, 0, :8] = 1  # half a cell of 4 x 4 pixels
    labels[0, 1, :7] = 2
    assert find_regions(labels, grid=(4, 4), ignored=-1)[1].tolist() == [0, 1]
    assert find_regions(labels, grid=(8, 8), ignored=-1)[1].tolist() == [0, 1, 2]
    assert find_regions(labels, grid=(2, 2), ignored=-1)[1].tolist() == [0]


def test_without_labels_there_is_no_region_and_no_embedding():
    image_of, class_of = find_regions(torch.full((2, 8, 8), -1), grid=(2, 2), ignored=-1)
    pooled = pool_regions(torch.randn(2, 3, 2, 2), torch.full((2, 8, 8), -1), image_of=image_of, class_of=class_of)
    assert len(image_of) == len(class_of) == 0
    assert pooled.shape == (0, 3)


def test_an_embedding_is_the_mean_over_cells_by_the_area_inside():
    embedding = torch.tensor([[[[1.0, 2.0], [4.0, 8.0]]]])
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    labels[0, :2, :2] = labels[0, 0, 2] = 1  # the first cell whole, a quarter of the second
    pooled = pool_regions(embedding, labels, image_of=torch.tensor([0, 0]), class_of=torch.tensor([0, 1]))
    torch.testing.assert_close(pooled[:, 0], torch.tensor([(0.75 * 2 + 4 + 8) / 2.75, (1 + 0.25 * 2) / 1.25]))


@settings(max_examples=25, deadline=None)
@given(
    cells=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.integers(1, 4),
    images=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_pooling_agrees_with_a_sum_over_pixels(cells, stride, images, seed):
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(images, 6, *cells, generator=generator, dtype=torch.float64)
    labels = torch.randint(-1, 4, (images, cells[0] * stride, cells[1] * stride), generator=generator)
    image_of, class_of = find_regions(labels, grid=cells, ignored=-1)
    pooled = pool_regions(embedding, labels, image_of=image_of, class_of=class_of)
    pixels = embedding.repeat_interleave(stride, 2).repeat_interleave(stride, 3)
    for row, image, index in zip(pooled, image_of, class_of, strict=True):
        torch.testing.assert_close(row, pixels[image][:, labels[image] == index].mean(1))


def test_only_cells_of_a_region_learn_from_it():
    embedding = torch.randn(2, 3, 4, 4, requires_grad=True)
    labels = torch.zeros(2, 8, 8, dtype=torch.int64)
    labels[1, :2, :2] = 1
    pool_regions(embedding, labels, image_of=torch.tensor([1]), class_of=torch.tensor([1])).sum().backward()
    assert embedding.grad[1, :, 0, 0].tolist() == [1, 1, 1]
    assert embedding.grad.count_nonzero() == 3
