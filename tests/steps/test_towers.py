"""Towers of every kind go through prune and come back: ResNet, ViT with packed attention, ConvNeXt by timm."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.layers import layer_weights, split_packed
from opentrans_cli.clip.source import load_clip
from opentrans_cli.reporter import SILENT
from opentrans_cli.steps.look.verify import verify
from opentrans_cli.steps.prune.options import PruneOptions
from opentrans_cli.steps.prune.prune import prune
from opentrans_cli.steps.sources import load_tower

Options = Callable[..., PruneOptions]

TEXT = {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1}
TIMM = {"timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear", "timm_drop": 0.0, "timm_drop_path": 0.0}
TOWERS: dict[str, dict[str, Any]] = {
    "resnet": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
    "vit": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "convnext": {"timm_model_name": "convnext_atto", "image_size": 32, **TIMM},
}
every_tower = pytest.mark.parametrize("kind", TOWERS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The source of a CLIP of one kind with random weights: a folder in open_clip's layout."""
    root = tmp_path_factory.mktemp("towers")

    def make(kind: str) -> str:
        target = root / kind
        if not target.exists():
            target.mkdir()
            config = {"embed_dim": 32, "vision_cfg": TOWERS[kind], "text_cfg": TEXT}
            torch.manual_seed(0)
            model = build_clip(config)
            for name, parameter in model.named_parameters():
                if name.endswith("bn3.weight"):  # open_clip starts them at 0, which would cut the branches off
                    torch.nn.init.uniform_(parameter, 0.5, 1.5)
            state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
            save_file(state, target / "open_clip_model.safetensors")
            (target / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
        return str(target)

    return make


@every_tower
def test_one_shot_keeps_exact_counts_and_every_other_tensor(kind: str, folder: Any, tmp_path: Path) -> None:
    options = PruneOptions(source=folder(kind), sparsity=0.7)
    bundle = open_bundle(prune(**vars(options), out=tmp_path / "b", device="cpu").path)
    assert verify(bundle.path).ok
    assert bundle.manifest.total - bundle.manifest.kept == round(0.7 * bundle.manifest.total)
    dense = split_packed(load_clip(folder(kind)).model.visual.state_dict())
    masks, pruned = bundle.masks(), bundle.tower()
    assert dense.keys() == pruned.keys()
    for name, tensor in dense.items():
        mask = masks.get(name.removesuffix(".weight"))
        expected = tensor.numpy() if mask is None else np.where(mask, tensor.numpy(), 0)
        assert np.array_equal(pruned[name], expected), name


@every_tower
def test_the_bundle_s_tower_is_the_masked_tower(kind: str, folder: Any, tmp_path: Path) -> None:
    prune(folder(kind), sparsity=0.7, out=tmp_path / "b", device="cpu")
    tower, masked = load_tower(str(tmp_path / "b"), SILENT), load_clip(folder(kind)).model.visual
    for layer, weight in layer_weights(masked, tower.masks).items():
        weight.masked_fill_(torch.from_numpy(~tower.masks[layer]), 0.0)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(tower.visual(images), masked(images))


@every_tower
@pytest.mark.parametrize("criterion", ["fisher", "taylor", "wanda"])
def test_rounds_with_distillation_hold_the_masks(
    kind: str, criterion: str, folder: Any, tmp_path: Path, distilled: Options
) -> None:
    options = distilled(source=folder(kind), criterion=criterion, schedule="linear", rounds=2, score_images=8)
    result = prune(**vars(options), out=tmp_path / "b", device="cpu")
    assert verify(result.path).ok and result.rounds == 2
    bundle = open_bundle(result.path)
    for layer, mask in bundle.masks().items():
        assert not bundle.tower()[f"{layer}.weight"][~mask].any()


@pytest.mark.parametrize(("kind", "pattern"), [("vit", "2:4"), ("vit", "channel"), ("convnext", "2:4")])
def test_patterns_work_on_towers_without_resnet_stages(
    kind: str, pattern: str, folder: Any, tmp_path: Path, distilled: Options
) -> None:
    options = distilled(source=folder(kind), pattern=pattern, sparsity=0.5)
    result = prune(**vars(options), out=tmp_path / "b", device="cpu")
    assert result.sparsity == pytest.approx(0.5, abs=0.05) and verify(result.path).ok
    if pattern == "2:4":
        for mask in open_bundle(result.path).masks().values():
            groups = np.moveaxis(mask, 1, -1).reshape(-1, 4)
            assert (groups.sum(1) == 2).all()
