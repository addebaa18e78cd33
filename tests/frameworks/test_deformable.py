"""Looking up rows gives what sampling grids gives, inside and outside of the levels."""

from __future__ import annotations

import torch
from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

from opentrans_cli.frameworks.deformable import weighted_samples

SHAPES = [(2, 3), (4, 6), (7, 5)]
CELLS = sum(height * width for height, width in SHAPES)


def test_weighted_samples_are_those_of_transformers():
    sides = torch.tensor([(width, height) for height, width in SHAPES])[:, None]
    for batch, spread in ((1, 0.5), (3, 1.1), (3, 20.0)):
        generator = torch.Generator().manual_seed(batch)
        values = torch.randn(batch, CELLS, 4, 8, generator=generator)
        places = 0.5 + spread * (torch.rand(batch, 11, 4, 3, 5, 2, generator=generator) - 0.5)
        weights = torch.rand(batch, 11, 4, 3, 5, generator=generator)
        expected = multi_scale_deformable_attention(values, SHAPES, places, weights)
        actual = weighted_samples(values, SHAPES, places * sides - 0.5, weights)
        torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-5)


def test_a_point_on_a_cell_is_that_cell_and_one_beyond_the_edge_fades():
    values = torch.arange(6.0).view(1, 6, 1, 1)
    cells = torch.tensor([[1.0, 1.0], [2.0, 1.5], [2.0, 2.0], [-1.0, 0.0], [3.5, 0.0]])
    actual = weighted_samples(values, [(2, 3)], cells.view(1, 5, 1, 1, 1, 2), torch.ones(1, 5, 1, 1, 1))
    assert actual.flatten().tolist() == [4.0, 2.5, 0.0, 0.0, 0.0]
