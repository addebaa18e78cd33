"""The published modules of FC-CLIP and Han et al. at full size: their outputs, from a checkpoint by their names."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from opentrans_cli.clip.features import stage_maps
from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.frameworks.original import build_original, load_original, original_preprocess

CLOSE = 1e-4
FILES = {"fcclip": "fcclip_r50", "han": "han_r50"}
LISTS = {"fcclip": "fcclip_r50_full.json", "han": "han_r50_eval.json"}
TEXT = ("text_encoder.", "backbone.clip_model.t", "backbone.clip_model.ln_final", "backbone.clip_model.positional")


def difference(ours, theirs):
    """Largest difference, as a part of the largest value."""
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


def checkpoint(framework, reference, seed):
    """The tensors that the vectors were made with; without the text tower, whose place the vectors take."""
    spec = importlib.util.spec_from_file_location("weights", reference / "parity" / "weights.py")
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    shapes = json.loads((reference / LISTS[framework]).read_text())
    return {
        key: torch.from_numpy(np.asarray(weights.fill(key, tuple(shape), seed)))
        for key, shape in shapes.items()
        if not key.startswith((*TEXT, "criterion."))
    }


@pytest.mark.parametrize("framework", FILES)
def test_outputs_are_those_of_the_published_module(framework, reference: Path):
    with np.load(reference / "parity" / f"{FILES[framework]}_a.npz") as vectors:
        compare(framework, reference, vectors)


def compare(framework, reference, vectors):
    original = load_original(framework, checkpoint(framework, reference, int(vectors["seed"])))
    segmentor = build_original(original)
    assert not original.unneeded
    embeddings = torch.from_numpy(vectors["text_embeddings"])
    counts = vectors["synonym_counts"].tolist() if "synonym_counts" in vectors else [1] * len(embeddings)
    seen = vectors["seen"].tolist() if "seen" in vectors else [1] * len(counts)
    class_indices = tuple(owner for owner, count in enumerate(counts) for _ in range(count))
    text = ClassText(embeddings, class_indices, tuple(map(bool, seen)))
    images = original_preprocess(original).normalise(torch.from_numpy(vectors["image"]).permute(1, 2, 0)[None])
    heard = {}
    segmentor.classifier.register_forward_hook(lambda _module, _inputs, result: heard.update(logits=result.logits))
    segmentor.classifier.class_embed.register_forward_hook(lambda _module, _inputs, result: heard.update(embed=result))
    with torch.no_grad():
        scores, found = segmentor(images, text), segmentor.queries(images, text)
        maps = stage_maps(segmentor.backbone, images)
    assert difference(scores[0], vectors["sem_seg"]) < CLOSE
    logits = vectors["pred_logits"] if framework == "fcclip" else vectors["class_logits"]
    assert difference(heard["logits"][0], logits) < CLOSE
    step = len(logits) // 10
    assert difference(found.mask_logits[0, ::step], vectors["pred_masks_stride4"]) < CLOSE
    if "query_embed" in vectors:
        assert difference(heard["embed"][0], vectors["query_embed"]) < CLOSE
    for name, features in zip(("res2", "res3", "res4", "res5"), maps, strict=True):
        statistics = torch.stack([features.mean(), features.std(), features.abs().max()])
        assert (np.abs(statistics.numpy() / vectors[f"stat_{name}"] - 1) < CLOSE).all()


@pytest.mark.parametrize(
    ("framework", "listed", "unneeded"),
    [
        ("fcclip", "fcclip_r50_full.json", {"weights of the loss"}),
        ("han", "han_r50_eval.json", {"weights of the loss"}),
        (
            "han",
            "han_r50_train_kd.json",
            {
                "weights of the loss",
                "classifiers of earlier layers",
                "teacher",
                "projections to the teacher",
                "scale of the caption loss",
            },
        ),
    ],
)
def test_every_tensor_of_a_published_checkpoint_is_accounted_for(framework, listed, unneeded, reference: Path):
    shapes = json.loads((reference / listed).read_text())
    original = load_original(framework, {key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    segmentor = build_original(original)
    assert original.unneeded.keys() == unneeded
    packed = 9  # tensors of queries' self-attention that are three each with us, weight and bias
    left = sum(len(keys) for keys in original.unneeded.values())
    assert len(original.tensors) + len(original.text) + left == len(shapes) + 2 * 2 * packed
    assert original.tensors.keys() == segmentor.state_dict().keys()
