"""What is shipped: size, assets, and what the embedded model can do."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

import opentrans_cli
from opentrans_cli.clip.source import load_clip
from opentrans_cli.clip.text import text_embeddings
from opentrans_cli.datasets.shapes.classes import CLASSES, OBJECTS
from opentrans_cli.datasets.shapes.noise import Stream
from opentrans_cli.datasets.shapes.scene import render_scene

PACKAGE = Path(opentrans_cli.__file__).parent


def test_the_package_is_at_most_12_megabytes() -> None:
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) <= 12e6


def test_token_rows_that_training_never_read_are_zero() -> None:
    table = load_clip("tiny").model.token_embedding.weight
    read = int((table.abs().sum(1) > 0).sum())
    assert table.shape == (49408, 64)
    assert 20 < read < 100


def test_zero_shot_recognition_on_held_out_scenes_is_far_above_chance() -> None:
    """Single objects among 64 classes and grounds among 6, scenes of seeds nothing was trained on."""
    clip = load_clip("tiny")
    text = text_embeddings(clip.model, clip.tokenizer, CLASSES)
    scenes = [render_scene(Stream(77_000_000, i), size=64, objects=(1, 1)) for i in range(128)]
    images = torch.from_numpy(np.stack([scene.image for scene in scenes]))
    with torch.no_grad():
        scores = clip.model.encode_image(clip.preprocess.normalise(images), normalize=True) @ text.T
    objects = scores[:, : len(OBJECTS)].argmax(1)
    right = [int(found) == scene.objects[0] for found, scene in zip(objects, scenes, strict=True)]
    assert np.mean(right) > 0.9  # chance 0.016
    grounds = scores[:, len(OBJECTS) :].argmax(1) + len(OBJECTS)
    assert np.mean([int(found) == scene.ground for found, scene in zip(grounds, scenes, strict=True)]) > 0.9


def test_the_weights_are_those_of_the_model_card() -> None:
    weights = PACKAGE / "assets" / "tiny_clip.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert f"sha256 {digest}" in (PACKAGE / "assets" / "MODEL_CARD.md").read_text()
