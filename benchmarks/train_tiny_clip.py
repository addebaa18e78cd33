"""Train the embedded tiny CLIP on `shapes` and write it as an asset of the package.

    python benchmarks/train_tiny_clip.py --steps 6000 --out opentrans_cli/assets

Contrastive training of image and text tower together (CLIP, Radford et al. 2021) on scenes rendered on the fly. Scenes
share captions ("a red star" is true of many), so every caption that is true of an image counts as a positive. The run
depends on --seed alone, up to the order of sums in threaded kernels. Zero-shot figures go to stdout as one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from opentrans_cli.assets import ROW_IDS, ROWS
from opentrans_cli.clip.text import text_embeddings
from opentrans_cli.datasets.scenes import CLASSES, GROUNDS, OBJECTS, caption, render_scene, with_article
from opentrans_cli.datasets.streams import Stream
from opentrans_cli.files.tensorfile import write_tensors

MODEL_CFG: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
TRAIN_SEED, HELD_OUT_SEED = 20_000_000, 30_000_000  # disjoint from the seeds of the data set's own splits


class Batches(IterableDataset[tuple[Tensor, list[str], Tensor, Tensor]]):
    """Batches of rendered scenes: images uint8 (B, 3, 64, 64), captions, and what is true and what is said.

    The two bool tensors are (B, classes): classes visible in the image, classes named by the caption.
    """

    def __init__(self, *, seed: int, batch: int, steps: int) -> None:
        self.seed, self.batch, self.steps = seed, batch, steps

    def __iter__(self) -> Iterator[tuple[Tensor, list[str], Tensor, Tensor]]:
        for step in range(self.steps):
            streams = [Stream(TRAIN_SEED + self.seed, step * self.batch + i) for i in range(self.batch)]
            scenes = [render_scene(stream, size=64, objects=(1, 3)) for stream in streams]
            true, said = torch.zeros(2, self.batch, len(CLASSES), dtype=torch.bool)
            captions = []
            for row, (scene, stream) in enumerate(zip(scenes, streams, strict=True)):
                true[row, [*scene.objects, scene.ground]] = True
                text, named = spoken(scene.objects, scene.ground, stream)
                captions.append(text)
                said[row, list(named)] = True
            images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2)
            yield images, captions, true, said


def spoken(objects: tuple[int, ...], ground: int, stream: Stream) -> tuple[str, tuple[int, ...]]:
    """A caption that says all, some or one thing about a scene, and the classes it names."""
    style = stream.one()
    shuffled = tuple(sorted(objects, key=lambda _: stream.one()))
    named: tuple[int, ...]
    if style < 0.08 or not objects:
        named, text = (ground,), GROUNDS[ground - len(OBJECTS)]
    elif style < 0.55:
        named = shuffled[:1]
        name = OBJECTS[named[0]]
        text = (name, f"the {name}", with_article(name))[stream.below(3)]
    else:
        kept = shuffled if stream.one() < 0.7 else shuffled[:2]
        with_ground = stream.one() < 0.7
        named = (*kept, ground) if with_ground else kept
        text = caption(tuple(OBJECTS[i] for i in kept), GROUNDS[ground - len(OBJECTS)] if with_ground else None)
    return ("{}", "{}", "a photo of {}", "a picture of {}")[stream.below(4)].format(text), named


def multi_positive_loss(logits: Tensor, true: Tensor) -> Tensor:
    """Cross-entropy of images (B, B rows) against all captions true of them, and the other way round."""
    target = true.float()
    rows = target / target.sum(1, keepdim=True)
    columns = target / target.sum(0, keepdim=True)
    by_image = -(rows * logits.log_softmax(1)).sum(1).mean()
    by_text = -(columns * logits.log_softmax(0)).sum(0).mean()
    return (by_image + by_text) / 2


def normalise(images: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) to CLIP's normalised floats."""
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
    return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def zero_shot(model: Any, tokenizer: Any, *, count: int) -> dict[str, float]:
    """Top-1 on held-out scenes: the object of single-object scenes over 64 classes, and the ground over 6."""
    model.eval()
    text = text_embeddings(model, tokenizer, CLASSES)
    scenes = [render_scene(Stream(HELD_OUT_SEED, i), size=64, objects=(1, 1)) for i in range(count)]
    scenes = [scene for scene in scenes if scene.objects]
    images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2)
    features = torch.cat([model.encode_image(normalise(part), normalize=True) for part in images.split(256)])
    scores = features @ text.T
    objects = scores[:, : len(OBJECTS)].argmax(1) == torch.tensor([scene.objects[0] for scene in scenes])
    grounds = scores[:, len(OBJECTS) :].argmax(1) + len(OBJECTS) == torch.tensor([scene.ground for scene in scenes])
    model.train()
    return {"object_top1": objects.float().mean().item(), "ground_top1": grounds.float().mean().item()}


def train(args: argparse.Namespace) -> tuple[Any, Tensor, dict[str, Any]]:
    """Returns the model, which tokens it read (bool (vocabulary,)), and its zero-shot figures."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    model = open_clip.model.CLIP(**MODEL_CFG).to(memory_format=torch.channels_last)
    tokenizer = open_clip.SimpleTokenizer(context_length=MODEL_CFG["text_cfg"]["context_length"])
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))
    loader = DataLoader(Batches(seed=args.seed, batch=args.batch, steps=args.steps), batch_size=None, num_workers=1)
    started, used_tokens = time.perf_counter(), torch.zeros(49408, dtype=torch.bool)
    for step, (images, captions, true, said) in enumerate(loader):
        rate = min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * rate
        tokens = tokenizer(captions)
        used_tokens[tokens.unique()] = True
        holds = said.sum(1)[None] - 0.5 <= (said.float() @ true.float().T).T  # (image, caption)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            image_features = model.encode_image(normalise(images), normalize=True)
            text_features = model.encode_text(tokens, normalize=True)
        loss = multi_positive_loss(model.logit_scale.exp() * image_features.float() @ text_features.float().T, holds)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        if step % 500 == 0 or step + 1 == args.steps:
            figures = zero_shot(model, tokenizer, count=512)
            print(
                json.dumps({"step": step, "loss": loss.item(), "s": time.perf_counter() - started, **figures}),
                flush=True,
            )
    figures = {"minutes": (time.perf_counter() - started) / 60, **zero_shot(model, tokenizer, count=4096)}
    return model, used_tokens, figures


def write_asset(folder: Path, model: Any, used_tokens: Tensor) -> None:
    """The files `opentrans_cli.assets` reads: of the token table only the rows that training read."""
    state = {
        name: value.detach().float().contiguous() for name, value in model.state_dict().items() if name != "attn_mask"
    }
    table, ids = state.pop("token_embedding.weight"), used_tokens.nonzero().flatten()
    state |= {ROWS: table[ids].contiguous(), ROW_IDS: ids.int()}
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "tiny_clip.safetensors", {name: value.numpy() for name, value in state.items()})
    (folder / "tiny_clip.json").write_text(json.dumps({"model_cfg": MODEL_CFG}, indent=2, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model, used_tokens, figures = train(args)
    write_asset(args.out, model, used_tokens)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
