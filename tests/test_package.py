"""What is shipped: size, assets, and what the embedded model can do."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

import opentrans_cli
from opentrans_cli.clip.source import load_clip
from opentrans_cli.clip.text import text_embeddings, unread_words
from opentrans_cli.datasets.scenes import CLASSES, OBJECTS, render_scene
from opentrans_cli.datasets.streams import Stream

PACKAGE = Path(opentrans_cli.__file__).parent


def test_the_package_is_at_most_12_megabytes() -> None:
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) <= 12e6


def test_every_word_of_the_embedded_classes_was_read_and_few_others() -> None:
    clip = load_clip("tiny")
    assert clip.model.token_embedding.weight.shape == (49408, 64)
    assert clip.read_tokens is not None and 20 < len(clip.read_tokens) < 100
    assert unread_words(clip.tokenizer, [*CLASSES, "sofa"], read_tokens=clip.read_tokens) == ("sofa",)


def test_unread_words_differ_from_each_other() -> None:
    clip = load_clip("tiny")
    text = text_embeddings(clip.model, clip.tokenizer, ["road", "car", "tree", "sign"])
    cosines = text @ text.T - torch.eye(4)
    assert cosines.max() < 0.999  # the same vector for all would leave training nothing to tell them apart by


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
