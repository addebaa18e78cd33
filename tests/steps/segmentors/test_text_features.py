"""Words to scores: prompts and synonyms as in a slow literal computation; text features of real CLIPs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor, nn

from opentrans_cli.clip.features import dense_embedding, stage_features
from opentrans_cli.clip.source import load_clip
from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.frameworks.readout import MAX_SCALE, CosineClassifier
from opentrans_cli.frameworks.score_chunks import score_chunks
from opentrans_cli.steps.segmentors.built import any_segmentor
from opentrans_cli.steps.segmentors.opened import names_of, open_source
from opentrans_cli.steps.segmentors.predictor import Labels, Predictor
from opentrans_cli.steps.segmentors.words import Words, embed_vocabulary
from opentrans_cli.steps.sources import clip_tower

WORDS = Vocabulary((("background", "grass", "sand", "stripes", "sky"), ("red square", "red box"), ("blue square",)))
"""A background of many words, as VOC-21 has it, a class of two and a class of one."""


def literal_embedding(clip: Any, word: str, templates: tuple[str, ...]) -> Tensor:
    """One prompt at a time: brought to length 1, averaged, brought to length 1."""
    total = torch.zeros(clip.model.text_projection.shape[1], dtype=torch.float64)
    for template in templates:
        raw = clip.model.encode_text(clip.tokenizer([template.replace("{}", word)]))[0].double()
        total += raw / raw.square().sum().sqrt()
    mean = total / len(templates)
    return mean / mean.square().sum().sqrt()


@pytest.mark.parametrize("framework", ["maskclip", "fcclip"])
@torch.no_grad()
def test_prompts_are_averaged_as_one_would_write_it_down(framework: str) -> None:
    clip = load_clip("tiny")
    templates = FRAMEWORKS.load(framework).templates
    text = embed_vocabulary(clip, WORDS, templates=templates)
    words = [word for synonyms in WORDS.classes for word in synonyms]
    slow = torch.stack([literal_embedding(clip, word, templates) for word in words])
    assert text.class_indices == (0, 0, 0, 0, 0, 1, 1, 2)
    torch.testing.assert_close(text.embeddings.double(), slow, atol=1e-6, rtol=0)
    last = torch.stack([literal_embedding(clip, word, templates[-1:]) for word in words])
    assert (slow - last).abs().max() > 1e-3  # one prompt is something else


@torch.no_grad()
def test_the_training_free_readout_is_the_best_word_of_each_class_at_every_pixel(labelled_folder: Any) -> None:
    from PIL import Image

    picture = np.array(Image.open(labelled_folder.images / "0.png").convert("RGB"))[:48]
    opened = open_source("tiny")
    predictor = Predictor(opened.built, opened.embedded(Words(WORDS)), device=torch.device("cpu"))
    scores, label_map = predictor.scores(picture), predictor.label_map(picture)

    clip = load_clip("tiny")
    visual: Any = any_segmentor(clip_tower(clip)).module.backbone
    pixels = clip.preprocess.normalise(torch.from_numpy(picture)[None])
    cells = dense_embedding(visual, stage_features(visual, pixels)["layer4"])
    cells = cells / cells.square().sum(1, keepdim=True).sqrt()
    templates = FRAMEWORKS.load("maskclip").templates
    slow = []
    for synonyms in WORDS.classes:
        maps = []
        for word in synonyms:
            embedding = literal_embedding(load_clip("tiny"), word, templates).float()
            cosine = 100 * (cells * embedding[None, :, None, None]).sum(1, keepdim=True)
            maps.append(nn.functional.interpolate(cosine, size=(48, 64), mode="bilinear")[0, 0])
        slow.append(torch.stack(maps).max(0).values)
    torch.testing.assert_close(scores, torch.stack(slow), atol=2e-4, rtol=0)
    assert (label_map == torch.stack(slow).argmax(0).numpy()).mean() > 0.999  # ties may fall either way
    assert len(np.unique(label_map)) > 1


class Looking(nn.Module):
    """A segmentor for pictures that are embeddings already, so that only its scoring is left."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = CosineClassifier(scale=MAX_SCALE, learned=False)

    def embed(self, images: Tensor) -> Tensor:
        return images


def as_picture(rows: NDArray[Any]) -> Tensor:
    """Embeddings (N, D) as pixels, (1, D, 1, N)."""
    return torch.from_numpy(rows.astype(np.float32).T)[None, :, None]


def scored(rows: NDArray[Any], text: ClassText) -> Tensor:
    """Scores (C, N) of a picture whose pixels are `rows`, in parts of few classes."""
    parts = list(score_chunks(Looking(), as_picture(rows), text, most=40 * len(rows)))
    return torch.cat(parts, 1)[0, :, 0]


def words_of(path: Path) -> list[str]:
    return [line.strip().replace("_", " ") for line in path.read_text().splitlines() if line.strip()]


def text_of(folder: Path, names: list[list[str]], rows: NDArray[Any]) -> ClassText:
    """Rows as a vocabulary pack, read back; `names` by class."""
    path = folder / "pack.safetensors"
    classes = [{"name": texts[0], "synonyms": texts, "seen": True} for texts in names]
    save_file({"embeddings": rows}, path, metadata={"opentrans": json.dumps({"classes": classes})})
    words = Words.from_file(path)

    def no_clip() -> Any:
        raise AssertionError("a pack needs no text tower")

    seen = words.seen_by(())
    return words.embedded(no_clip, dimension=rows.shape[1], templates=(), seen=seen)


def test_the_published_answer_of_clip_comes_out_of_the_scoring(shared: Path, tmp_path: Path) -> None:
    golden = shared / "data" / "clip_vitb32_golden"
    image, rows = np.load(golden / "image_features.npy"), np.load(golden / "text_features.npy")
    assert np.linalg.norm(rows, axis=1).min() > 10  # not normalised: the pack does it
    text = text_of(tmp_path, [["a diagram"], ["a dog"], ["a cat"]], rows)
    shares = scored(image, text).softmax(0)[:, 0]
    assert [round(share, 5) for share in shares.tolist()] == [0.99279, 0.00421, 0.00300]


PAIRS = (
    ("openai_vitb16_coco_panoptic133", "openai_vitb16_cocostuff171_multiprompt", 116),
    ("openai_vitb16_voc20", "openai_vitb16_coco_panoptic133", 14),
    ("openai_vitb32_coco80", "openai_vitb32_lvis1203", 59),
    ("openai_rn50_coco80", "openai_rn50_lvis1230_v05", 57),
)
"""Two files of one encoder, and how many names they share."""


@pytest.mark.parametrize(("first", "second", "shared_names"), PAIRS)
def test_a_name_in_two_published_files_is_labelled_as_itself(
    shared: Path, tmp_path: Path, first: str, second: str, shared_names: int
) -> None:
    folder = shared / "data" / "clip_text_embeddings"
    features = [np.load(folder / f"{name}.npy") for name in (first, second)]
    names = [words_of(folder / f"{name.removesuffix('_multiprompt')}.txt") for name in (first, second)]
    both = [name for name in names[0] if name in names[1]]
    for one, other in ((0, 1), (1, 0)):
        text = text_of(tmp_path, [[name] for name in names[other]], features[other])
        labels = Labels()
        labels.add(scored(features[one], text)[:, None])
        found = [names[other][index] for index in labels.map()[0].tolist()]
        assert [found[names[one].index(name)] for name in both] == both
    assert len(both) == shared_names


def test_prompts_as_synonyms_score_as_the_better_one_of_the_two(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "clip_text_embeddings"
    kinds = ("single", "multi")
    single, multi = (np.load(folder / f"openai_vitb16_cocostuff171_{kind}prompt.npy") for kind in kinds)
    names = words_of(folder / "openai_vitb16_cocostuff171.txt")
    pixels = np.load(folder / "openai_vitb16_voc20.npy")
    rows = np.stack([single, multi], 1).reshape(2 * len(names), -1)
    scores = scored(pixels, text_of(tmp_path, [[name, f"{name}, many prompts"] for name in names], rows)).numpy()
    unit = [
        each.astype(np.float64) / np.linalg.norm(each.astype(np.float64), axis=1, keepdims=True)
        for each in (pixels, single, multi)
    ]
    each = [100 * other @ unit[0].T for other in unit[1:]]
    np.testing.assert_allclose(scores, np.maximum(*each), atol=1e-4)
    assert 0 < (each[0] > each[1]).mean() < 1  # neither of the two always wins
    # Averaging many prompts is not one of them, but means the same: each is the other's nearest.
    nearest = (unit[1] @ unit[2].T).argmax(1)
    assert nearest.tolist() == list(range(len(names))) and np.abs(unit[1] - unit[2]).max() > 0.01


SEEN = {"ade20k_150": 64, "ade20k_847": 101, "cityscapes": 17, "pascal_ctx_59": 51, "pascal_ctx_459": 85}
"""How many classes FC-CLIP's code counts as seen by its training on COCO, of each published class file."""


@pytest.mark.parametrize("name", SEEN)
def test_a_class_is_seen_by_any_of_its_words_as_in_the_published_code(shared: Path, name: str) -> None:
    folder = shared / "reference" / "class_names"
    words = Words.from_file(folder / f"{name}_with_prompt_eng.txt")
    trained_on = names_of(folder / "coco_panoptic_with_prompt_eng.txt")
    assert sum(words.seen_by(trained_on)) == SEEN[name] < len(words.vocabulary)
