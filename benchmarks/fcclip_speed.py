"""FC-CLIP R50 on one image, by part, beside transformers' Mask2Former at equal sizes.

    python benchmarks/fcclip_speed.py > benchmarks/results/DATE-fcclip-speed.md

Random weights, 250 queries, two threads, no gradients. transformers' contender is its pixel decoder and its transformer
module on the very features of our trunk, with the mask logits of its last layer and its linear class head: what
`Mask2FormerForUniversalSegmentation` does behind its backbone. Ours is everything behind the trunk, so also the learned
classes of pooled masks, CLIP's own classes and the scores of every pixel. Times are paired.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from rn50 import RN50
from torch import Tensor, nn

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.features import stage_maps
from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.frameworks.fcclip import FCCLIP
from opentrans_cli.frameworks.mask_inference import semantic_scores
from opentrans_cli.steps.step_record import environment

QUERIES, CLASSES, SYNONYMS = 250, 150, 400  # ADE20K-150 in FC-CLIP's class file
THREADS = 2


def segmentor() -> Any:
    """FC-CLIP around RN50 with live residual branches, in eval mode."""
    torch.manual_seed(0)
    visual: Any = build_clip(RN50).visual
    for module in visual.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return FCCLIP.build(visual, {"queries": QUERIES}).eval()


def rival() -> Any:
    """transformers' decoders of the same sizes, initialised as it does."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder

    config = Mask2FormerConfig(backbone_config=SwinConfig(depths=[1, 1, 1, 1]), num_queries=QUERIES)
    config.num_labels = CLASSES
    model = Mask2FormerForUniversalSegmentation(config)
    decoder = Mask2FormerPixelDecoder(config, feature_channels=[256, 512, 1024, 2048])
    decoder.apply(model._init_weights)

    class Behind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pixels, self.queries = decoder, model.model.transformer_module
            self.classes = model.class_predictor

        def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
            found = self.pixels(maps)
            decoded = self.queries(list(found.multi_scale_features), found.mask_features, output_hidden_states=True)
            states = decoded.intermediate_hidden_states[-1].transpose(0, 1)
            return self.classes(states), decoded.masks_queries_logits[-1]

    return Behind().eval()


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def parts(model: Any, images: Tensor, text: ClassText) -> dict[str, Callable[[], object]]:
    """Every part on what the parts before it gave."""
    maps = stage_maps(model.backbone, images)
    levels, features = model.decoder.decode_pixels(maps)
    found = model.decoder.decode_queries(levels, features, all_layers=False)
    states, masks = found.states[-1], found.mask_logits[-1]
    logits = model.classifier(states, features, masks, text).logits
    mixed = model._mixed(logits, masks, maps[-1], text)
    size = (images.shape[-2], images.shape[-1])
    return {
        "trunk": lambda: stage_maps(model.backbone, images),
        "pixel decoder": lambda: model.decoder.decode_pixels(maps),
        "query decoder": lambda: model.decoder.decode_queries(levels, features, all_layers=False),
        "learned classes": lambda: model.classifier(states, features, masks, text),
        "CLIP's classes, and the mixture": lambda: model._mixed(logits, masks, maps[-1], text),
        "scores of every pixel": lambda: semantic_scores(mixed, masks, size),
        "whole": lambda: model(images, text),
    }


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=640)
    parser.add_argument("--pairs", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    model, other = segmentor(), rival()
    images = torch.randn(1, 3, arguments.side, arguments.side)
    class_indices = tuple(math.floor(index * CLASSES / SYNONYMS) for index in range(SYNONYMS))
    text = ClassText(F.normalize(torch.randn(SYNONYMS, 1024), dim=1), class_indices, (True,) * CLASSES)
    maps = stage_maps(model.backbone, images)
    works = parts(model, images, text)
    works["transformers' decoders and classes"] = lambda: other(maps)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for pair in range(arguments.pairs):
        for name in works if pair % 2 else reversed(works):
            seconds[name].append(timed(works[name]))
    print(f"# FC-CLIP R50 at {arguments.side} x {arguments.side}, {time.strftime('%Y-%m-%d')}\n")
    print(f"{environment(torch.device('cpu'))}\n")
    print(f"{QUERIES} queries, {CLASSES} classes of {SYNONYMS} synonyms.\n")
    print("| part | seconds, median | every run |\n|---|---|---|")
    for name, values in seconds.items():
        print(f"| {name} | {median(values):.3f} | {' '.join(f'{value:.3f}' for value in values)} |")
    behind = [whole - trunk for whole, trunk in zip(seconds["whole"], seconds["trunk"], strict=True)]
    theirs = seconds["transformers' decoders and classes"]
    decoders = [a + b for a, b in zip(seconds["pixel decoder"], seconds["query decoder"], strict=True)]
    for label, ours in (("Both decoders", decoders), ("Everything behind the trunk", behind)):
        ratios = [mine / his for mine, his in zip(ours, theirs, strict=True)]
        print(
            f"\n{label}: {median(ours):.3f} s, {median(ratios):.2f} x transformers' (pairs {min(ratios):.2f} to ",
            end="",
        )
        print(f"{max(ratios):.2f}).")


if __name__ == "__main__":
    main()
