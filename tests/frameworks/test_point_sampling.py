"""Points belong to their crop, labels at them are those of masks written out, and the uncertain ones are taken."""

from __future__ import annotations

import pytest
import torch

from opentrans_cli.frameworks.mask_loss import (
    draw_points,
    mask_values,
    sample_labels,
    sample_masks,
    seeded,
    uncertain_points,
)

IGNORE = -1
CPU = torch.device("cpu")


def points_of(*draws: int, layer: int = 0, purpose: str = "loss") -> torch.Tensor:
    return draw_points(draws, [2] * len(draws), 7, layer=layer, purpose=purpose, device=CPU)


def test_an_image_has_the_same_points_in_whatever_company() -> None:
    alone, together = points_of(5), points_of(3, 5, 8)
    assert torch.equal(together[2:4], alone)
    assert alone.min() >= 0 and alone.max() < 1


@pytest.mark.parametrize("other", [{"layer": 1}, {"purpose": "match"}])
def test_layers_and_purposes_have_points_of_their_own(other: dict[str, object]) -> None:
    assert not torch.equal(points_of(5), points_of(5, **other))  # type: ignore[arg-type]
    assert not torch.equal(points_of(5), points_of(6))


def test_a_generator_leaves_torchs_own_alone() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    torch.rand(3, generator=seeded(1, layer=0, purpose="loss", device=CPU))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_labels_at_points_are_those_of_masks_written_out() -> None:
    torch.manual_seed(0)
    label_maps = torch.randint(-1, 3, (2, 6, 9))
    # Corners, edges and the places halfway between two pixels are where a formula goes wrong.
    edges = torch.tensor([[0, 0], [1 - 2**-24, 1 - 2**-24], [0, 0.5], [2 / 9, 3 / 6]])
    points = torch.cat([torch.rand(5, 40, 2), edges.expand(5, -1, -1)], 1)
    image_of, classes = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 1, 2, 0, 2])
    masks = (label_maps[image_of] == classes[:, None, None]).float()
    found = mask_values(sample_labels(label_maps, image_of, points, ignore=IGNORE), classes[:, None])
    torch.testing.assert_close(found, sample_masks(masks[:, None], points)[:, 0])


def test_the_most_uncertain_points_are_taken_and_some_others() -> None:
    torch.manual_seed(0)
    masks, drawn = torch.randn(3, 8, 8), torch.rand(3, 30 + 3, 2)
    taken = uncertain_points(masks, drawn, points=10, importance=0.7)
    assert torch.equal(taken[:, 7:], drawn[:, 30:])
    doubt = sample_masks(masks[:, None], drawn[:, :30])[:, 0].abs().sort(dim=1).values[:, :7]
    found = sample_masks(masks[:, None], taken[:, :7])[:, 0].abs().sort(dim=1).values
    torch.testing.assert_close(found, doubt)


@pytest.mark.parametrize(("importance", "fixed"), [(0.0, 10), (1.0, 0)])
def test_all_points_or_none_can_be_taken_for_being_uncertain(importance: float, fixed: int) -> None:
    drawn = torch.rand(2, 30 + fixed, 2)
    taken = uncertain_points(torch.randn(2, 4, 4), drawn, points=10, importance=importance)
    assert taken.shape == (2, 10, 2)
    assert torch.equal(taken[:, 10 - fixed :], drawn[:, 30:])
