"""Pictures out of queries, against references that go pixel by pixel."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from opentrans_cli.frameworks.mask_decoder import enlarge_masks
from opentrans_cli.frameworks.mask_inference import Segment, instances, panoptic, semantic_scores

SIZE = (75, 100)
CLASSES = 4


def queries(seed: int, count: int = 9, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Class logits (B, Q, C + 1) and blobs as mask logits (B, Q, 24, 32) of images padded to 96 x 128."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 4 * torch.randn(batch, count, 6, 8, generator=generator)
    masks = F.interpolate(coarse, size=(24, 32), mode="bilinear")
    return 2 * torch.randn(batch, count, CLASSES + 1, generator=generator), masks


def test_semantic_scores_sum_class_times_mask_over_queries_and_are_differentiable():
    classes, masks = (tensor.requires_grad_() for tensor in queries(0))
    whole = F.interpolate(masks, scale_factor=4, mode="bilinear", align_corners=False)
    expected = torch.einsum("bqc,bqhw->bchw", classes.softmax(-1)[..., :-1], whole.sigmoid())
    for height, width in (SIZE, (96, 128), (64, 97), (33, 128)):
        scores = semantic_scores(classes, masks, (height, width))
        torch.testing.assert_close(scores, expected[..., :height, :width])
    scores.mean().backward()
    assert classes.grad is not None and classes.grad.any() and masks.grad is not None and masks.grad.any()


def test_bands_do_not_depend_on_what_lies_beyond_their_neighbours():
    classes, masks = queries(1)
    changed = masks.clone()
    changed[:, :, 20:] += 100
    before, after = (semantic_scores(classes, m, (96, 128)) for m in (masks, changed))
    assert torch.equal(before[:, :, :78], after[:, :, :78])  # row 78 is the first that looks at cell 20
    assert not torch.equal(before[:, :, 78], after[:, :, 78])


def test_queries_for_no_object_leave_no_score():
    classes, masks = queries(2)
    classes[..., -1] = 1000
    assert not semantic_scores(classes, masks, SIZE).any()


def _reference_instances(classes, masks, top, things):
    probabilities = classes.softmax(-1)
    pairs = [(probabilities[q, c].item(), q, c) for q in range(len(classes)) for c in range(CLASSES)]
    found = []
    for score, query, label in sorted(pairs, reverse=True)[:top]:
        if things[label]:
            mask = masks[query] > 0
            area = mask.sum().item()
            sure = sum(1 / (1 + math.exp(-x)) for x in masks[query][mask].tolist()) / (area + 1e-6)
            found.append((score * sure, label, mask))
    return sorted(found, key=lambda entry: -entry[0])


def test_instances_are_the_surest_pairs_of_query_and_class():
    classes, masks = (tensor[0] for tensor in queries(4))
    for top, things in ((5, None), (100, None), (5, (True, False, True, False)), (100, (True, False, True, False))):
        found = instances(classes, masks, SIZE, top=top, things=things)
        expected = _reference_instances(classes, enlarge_masks(masks, SIZE), top, things or (True,) * CLASSES)
        assert found.classes.tolist() == [label for _, label, _ in expected]
        assert found.scores.tolist() == pytest.approx([score for score, _, _ in expected], rel=1e-4)
        assert torch.equal(found.masks, torch.stack([mask for _, _, mask in expected]))
    found = instances(classes, masks, SIZE, things=(False,) * CLASSES)
    assert found.masks.shape == (0, *SIZE) and not len(found.scores)


def _reference_panoptic(classes, masks, things, object_threshold, overlap_threshold):
    """The published procedure, written with plain loops over sets of pixels."""
    probabilities = classes.softmax(-1)
    sure = masks.sigmoid()
    kept = [
        (q, probabilities[q].argmax().item(), probabilities[q].max())
        for q in range(len(classes))
        if probabilities[q].argmax() < CLASSES and probabilities[q].max() > object_threshold
    ]
    ids, segments, stuff = torch.zeros(masks.shape[1:], dtype=torch.int32), [], {}
    best = torch.stack([score * sure[q] for q, _, score in kept]).argmax(0) if kept else ids
    for place, (query, label, _) in enumerate(kept):
        won, own = best == place, sure[query] >= 0.5
        region = won & own
        if not (won.any() and own.any() and region.any()) or won.sum() / own.sum() < overlap_threshold:
            continue
        if not things[label] and label in stuff:
            ids[region] = stuff[label]
            continue
        segments.append(Segment(len(segments) + 1, label, things[label]))
        stuff[label] = len(segments)
        ids[region] = len(segments)
    return ids, segments


def test_objects_and_segments_are_decided_at_the_size_that_the_picture_had():
    classes, masks = (tensor[0] for tensor in queries(4))
    things, picture = (True, False, True, False), (91, 70)
    at_picture = F.interpolate(enlarge_masks(masks, SIZE)[None], size=picture, mode="bilinear")[0]
    found = instances(classes, masks, SIZE, picture=picture, things=things)
    expected = _reference_instances(classes, at_picture, 100, things)
    assert torch.equal(found.masks, torch.stack([mask for _, _, mask in expected]))
    ids, segments = _reference_panoptic(classes, at_picture, things, 0.0, 0.5)
    segmented = panoptic(
        classes, masks, SIZE, picture=picture, things=things, object_threshold=0.0, overlap_threshold=0.5
    )
    assert torch.equal(segmented.ids, ids) and list(segmented.segments) == segments and segments
    nothing = torch.zeros(3, CLASSES + 1)
    nothing[:, -1] = 9
    assert panoptic(nothing, masks[:3], SIZE, picture=picture, things=things).ids.shape == picture


def test_panoptic_segments_follow_the_published_procedure():
    things = (True, False, True, False)
    for seed, (sure, overlap) in product(range(4), ((0.0, 0.8), (0.5, 0.5), (0.4, 0.2))):
        classes, masks = (tensor[0] for tensor in queries(10 + seed, count=14))
        found = panoptic(classes, masks, SIZE, things=things, object_threshold=sure, overlap_threshold=overlap)
        ids, segments = _reference_panoptic(classes, enlarge_masks(masks, SIZE), things, sure, overlap)
        assert torch.equal(found.ids, ids) and list(found.segments) == segments, (seed, sure, overlap)
        assert len(segments) > 1 or overlap != 0.2


def two_halves() -> tuple[torch.Tensor, torch.Tensor]:
    """Two queries of class 1, sure of the left and of the right half of a 32 x 64 image."""
    masks = torch.full((2, 8, 16), -9.0)
    masks[0, :, :8] = masks[1, :, 8:] = 9.0
    return torch.tensor([[0.0, 9.0, 0.0]] * 2), masks


def test_stuff_is_one_segment_and_things_are_many():
    classes, masks = two_halves()
    stuff = panoptic(classes, masks, (32, 64), things=(True, False))
    assert stuff.segments == (Segment(1, 1, False),)
    assert stuff.ids[:, 0].tolist() == stuff.ids[:, 63].tolist() == [1] * 32
    things = panoptic(classes, masks, (32, 64), things=(False, True))
    assert things.segments == (Segment(1, 1, True), Segment(2, 1, True))
    assert set(things.ids.unique().tolist()) <= {0, 1, 2}


def test_a_query_that_loses_most_of_its_mask_is_left_out():
    classes, masks = two_halves()
    masks[1, :, :] = 8.0  # everywhere, but less sure than the first in the left half
    assert [s.id for s in panoptic(classes, masks, (32, 64), things=(True, True)).segments] == [1]
    loose = panoptic(classes, masks, (32, 64), things=(True, True), overlap_threshold=0.4)
    assert [s.id for s in loose.segments] == [1, 2]


def test_without_sure_queries_every_pixel_is_in_no_segment():
    classes, masks = two_halves()
    found = panoptic(torch.zeros_like(classes), masks, (32, 64), things=(True, True))
    assert found.segments == () and not found.ids.any() and found.ids.shape == (32, 64)
