"""A label map is the largest of all scores, however many are held at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from opentrans_cli.frameworks import score_chunks
from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.reporter import SILENT
from opentrans_cli.steps.segmentors.built import build_segmentor
from opentrans_cli.steps.segmentors.certainty import Certainty, Unsure
from opentrans_cli.steps.segmentors.opened import open_source
from opentrans_cli.steps.segmentors.predictor import Labelling, Labels, Predictor
from opentrans_cli.steps.segmentors.windows import Windows
from opentrans_cli.steps.sources import load_tower


def test_label_maps_and_scores_do_not_depend_on_the_size_of_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    embeddings = torch.nn.functional.normalize(torch.randn(9, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    text = ClassText(embeddings, class_indices=(0, 3, 1, 2, 0, 4, 3, 0, 1), seen=(True,) * 5)
    predictor = Predictor(open_source("tiny").built, text, device=torch.device("cpu"))
    whole = predictor.scores(image)
    for most in (1, 5000, 10**6):
        monkeypatch.setattr(score_chunks, "MOST", most)
        torch.testing.assert_close(predictor.scores(image), whole)
        assert np.array_equal(predictor.label_map(image), whole.argmax(0))
        assert np.array_equal(predictor.label_map(predictor.prepared(image)), whole.argmax(0))


@pytest.mark.parametrize(("framework", "texts"), [("maskclip", 9), ("maskclip", 70), ("fcclip", 9)])
def test_scores_in_windows_are_the_weighted_means_of_those_of_each_window(framework: str, texts: int) -> None:
    """70 texts are more than the 64 channels of the grid, which is kept in their place."""
    image = np.random.default_rng(0).integers(0, 255, (70, 101, 3), dtype=np.uint8)
    embeddings = torch.nn.functional.normalize(
        torch.randn(texts, 64, generator=torch.Generator().manual_seed(0)), dim=1
    )
    text = ClassText(embeddings, tuple(place * 7 % 5 for place in range(texts)), seen=(True,) * 5)
    built = build_segmentor(load_tower("tiny", SILENT), framework)
    cpu, windows = torch.device("cpu"), Windows(64, 0.25)
    whole, parted = Predictor(built, text, device=cpu), Predictor(built, text, device=cpu, windows=windows)
    tops, lefts = (0, 6), (0, 37)  # so far apart as fits, with at least 16 pixels in common
    assert windows.along(70) == (tops, 64) and windows.along(101) == (lefts, 64)
    down, across = (
        [min(1.0, (place + 0.5) / shared, (64 - place - 0.5) / shared) for place in range(64)] for shared in (58, 27)
    )
    weights = torch.tensor(down)[:, None] * torch.tensor(across)
    total, sums = torch.zeros(5, 70, 101), torch.zeros(70, 101)
    for top in tops:
        for left in lefts:
            part = image[top : top + 64, left : left + 64]
            total[:, top : top + 64, left : left + 64] += weights * whole.scores(part)
            sums[top : top + 64, left : left + 64] += weights
    scores = parted.scores(image)
    torch.testing.assert_close(scores, total / sums)
    assert np.array_equal(parted.label_map(image), scores.argmax(0))
    assert np.array_equal(parted.label_map(parted.prepared(image)), scores.argmax(0))


def test_a_picture_is_normalised_ahead_of_the_model_to_the_same_bits() -> None:
    preprocess = load_tower("tiny", SILENT).preprocess
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    expected = preprocess.normalise(torch.from_numpy(image)[None])[0].permute(1, 2, 0)
    assert np.array_equal(preprocess.normalised(image), expected.numpy())


def test_one_window_over_the_whole_picture_changes_no_bit() -> None:
    image = np.random.default_rng(0).integers(0, 255, (70, 101, 3), dtype=np.uint8)
    text = ClassText.one_each(torch.nn.functional.normalize(torch.randn(3, 64), dim=1))
    built, cpu = open_source("tiny").built, torch.device("cpu")
    whole, one = (Predictor(built, text, device=cpu, windows=windows) for windows in (None, Windows(101, 0.5)))
    assert torch.equal(whole.scores(image), one.scores(image))
    assert np.array_equal(whole.label_map(image), one.label_map(image))


def test_a_pixel_is_unsure_where_the_softmax_of_its_best_class_is_below_the_threshold() -> None:
    scores = 3 * torch.randn(7, 20, 30, generator=torch.Generator().manual_seed(0))
    probability, best = scores.softmax(0).max(0)
    labels = Labelling(Unsure(0.6, 7), logits=True)
    for part in scores.split([1, 4, 2]):
        labels.add(part)
    assert 0.2 < (probability < 0.6).float().mean() < 0.8
    assert np.array_equal(labels.map(), torch.where(probability < 0.6, 7, best))
    shares = Certainty(logits=False)
    shares.add(scores)
    assert torch.equal(shares.map(), scores.amax(0))


@pytest.mark.parametrize("classes", [1, 2, 256, 257])
def test_the_largest_score_is_found_in_any_layout_and_the_first_of_equal_ones(classes: int) -> None:
    scores = torch.randint(0, 40, (classes, 190, 180), generator=torch.Generator().manual_seed(0)).float()
    for layout in (scores, scores[None].to(memory_format=torch.channels_last)[0], scores.repeat(1, 1, 2)[..., ::2]):
        labels = Labels()
        labels.add(layout)
        parted = Labels()
        for part in layout.split(100):
            parted.add(part)
        for found in (labels.map(), parted.map()):
            assert found.dtype == (np.uint8 if classes <= 256 else np.uint16)
            assert np.array_equal(found, layout.numpy().argmax(0))


def test_of_equal_scores_the_first_class_wins() -> None:
    labels = Labels()
    for part in ([[1.0, 2.0, 0.0]], [[1.0, 3.0, 0.0], [2.0, 3.0, 0.0]]):
        labels.add(torch.tensor(part)[:, None])
    assert labels.map().tolist() == [[2, 1, 0]]
