"""A label map is the largest of all scores, however many are held at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from opentrans_cli.frameworks import score_chunks
from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.steps.segmentors.opened import open_source
from opentrans_cli.steps.segmentors.predictor import Labels, Predictor


def test_label_maps_and_scores_do_not_depend_on_the_size_of_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    embeddings = torch.nn.functional.normalize(torch.randn(9, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    text = ClassText(embeddings, class_indices=(0, 3, 1, 2, 0, 4, 3, 0, 1), seen=(True,) * 5)
    predictor = Predictor(open_source("tiny").built, text, device=torch.device("cpu"))
    whole = predictor.scores(image)
    for most in (1, 5000, 10**6):
        monkeypatch.setattr(score_chunks, "MOST", most)
        torch.testing.assert_close(predictor.scores(image), whole)
        assert torch.equal(predictor.label_map(image), whole.argmax(0))


def test_of_equal_scores_the_first_class_wins() -> None:
    labels = Labels()
    for part in ([[1.0, 2.0, 0.0]], [[1.0, 3.0, 0.0], [2.0, 3.0, 0.0]]):
        labels.add(torch.tensor(part)[:, None])
    assert labels.map().tolist() == [[2, 1, 0]]
