"""The price of freezing: equal to what torch itself counts, for every share, every list and every kind of tower."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.features import stage_features
from opentrans_cli.clip.layers import batchnorm_of, candidates, convolutions
from opentrans_cli.errors import OptionError, SourceError, TrainingError
from opentrans_cli.spectral.selection import Selection
from opentrans_cli.steps.analyze.frontier import RATIOS, FrontierPoint, TowerPrices
from opentrans_cli.training.costs.macs import LayerCost
from opentrans_cli.training.freezing import freeze_layers

TEXT = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1}
TIMM = {"timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear", "timm_drop": 0.0, "timm_drop_path": 0.0}
VISION: dict[str, dict[str, Any]] = {
    "resnet": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "patch_size": None},
    "vit": {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "convnext": {"timm_model_name": "convnext_atto", "image_size": 32, **TIMM},
    "RN50": {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64, "patch_size": None},
}
ATTENTION = "transformer.resblocks.0.attn"
PROJECTIONS = [f"{ATTENTION}.{part}" for part in ("q_proj", "k_proj", "v_proj")]


def config(kind: str) -> dict[str, Any]:
    return {"embed_dim": 16, "vision_cfg": VISION[kind], "text_cfg": TEXT}


def tower_costs(kind: str, **options: Any) -> dict[str, LayerCost]:
    return {layer.name: layer for layer in TowerPrices(config(kind), **options).layers}


def cost_of(kind: str, frozen: Sequence[str], **options: Any) -> FrontierPoint:
    return TowerPrices(config(kind), **options).of(frozen)


def tower(kind: str) -> Any:
    torch.manual_seed(0)
    visual: Any = build_clip(config(kind)).visual
    for module in visual.modules():
        if isinstance(module, nn.BatchNorm2d):  # open_clip starts with zeros in bn3: no gradient gets through
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return visual


def alphas_of(names: Any) -> dict[str, float]:
    names = list(names)
    order = random.Random(1).sample(range(len(names)), len(names))
    return {name: 2 + rank / 10 for name, rank in zip(names, order, strict=True)}


def measured(visual: nn.Module, images: torch.Tensor, *, backward: bool = True) -> float:
    """MACs of a forward and a backward pass by torch's counter: plain kernels, two operations per MAC."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        result = stage_features(visual, images)["layer4"] if hasattr(visual, "layer4") else visual(images)
        if backward and result.requires_grad:
            result.square().mean().backward()
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("mode", ["heavy", "light", "random"])
def test_every_point_costs_what_torch_counts(mode: Any) -> None:
    names = convolutions(tower("resnet"))
    alphas = alphas_of(names)
    for point in TowerPrices(config("resnet")).frontier(alphas, mode=mode, ratios=(0, 0.3, 0.5, 0.9, 1), seed=4):
        visual = tower("resnet")
        frozen = Selection(mode, ratio=point.ratio, seed=4).choose(alphas)
        freeze_layers(visual, frozen, batchnorm_of={name: batchnorm_of(visual, name) for name in frozen})
        assert point.frozen == len(frozen)
        assert point.total == measured(visual, torch.randn(1, 3, 64, 64))
        assert point.total == point.forward + point.input_gradient + point.weight_gradient


def test_a_frozen_beginning_needs_no_input_gradients_but_in_the_paper_s_accounting() -> None:
    names = convolutions(tower("resnet"))
    beginning = cost_of("resnet", names[:6])
    everything = cost_of("resnet", names)
    costs = tower_costs("resnet")
    whole = sum(cost.forward for cost in costs.values())
    frozen = sum(costs[name].forward for name in names[:6])
    assert everything.input_gradient == everything.weight_gradient == 0
    assert everything.total == whole
    assert beginning.input_gradient < whole - frozen + costs[names[6]].forward
    assert beginning.saved_paper == pytest.approx(frozen / (3 * whole))
    assert beginning.saved > 1.5 * beginning.saved_paper
    assert everything.saved_paper == pytest.approx(1 / 3)


def test_costs_by_layer_are_those_of_training_everything() -> None:
    costs = tower_costs("resnet", resolution=(64, 96))
    visual = tower("resnet")
    assert list(costs) == [name for name in costs if name in convolutions(visual)]
    assert set(costs) == set(convolutions(visual))
    assert costs["conv1"].input_gradient == 0
    total = sum(cost.forward + cost.input_gradient + cost.weight_gradient for cost in costs.values())
    assert total == measured(visual, torch.randn(1, 3, 64, 96))


@pytest.mark.parametrize("kind", ["vit", "convnext"])
def test_every_layer_of_other_towers_has_a_cost_too(kind: str) -> None:
    costs, visual = tower_costs(kind), tower(kind)
    assert {candidate.name for candidate in candidates(visual)} <= set(costs)
    size = VISION[kind]["image_size"]
    forward = measured(visual, torch.randn(1, 3, size, size), backward=False)
    assert sum(cost.forward for cost in costs.values()) == forward


def test_a_packed_projection_saves_nothing_until_all_three_parts_are_frozen() -> None:
    costs = tower_costs("vit")
    nothing, two, three = (cost_of("vit", frozen) for frozen in ([], PROJECTIONS[:2], PROJECTIONS))
    assert two.total == nothing.total and two.saved == 0
    assert three.total == nothing.total - sum(costs[name].weight_gradient for name in PROJECTIONS)
    assert two.saved_paper == pytest.approx(three.saved_paper * 2 / 3)
    visual = tower("vit")
    attention = visual.transformer.resblocks[0].attn
    attention.in_proj_weight.requires_grad_(False)
    attention.in_proj_bias.requires_grad_(False)
    assert three.total == measured(visual, torch.randn(1, 3, 16, 16))


def test_kept_fractions_save_forward_and_weight_gradients() -> None:
    names = convolutions(tower("resnet"))
    dense = cost_of("resnet", [])
    half = cost_of("resnet", [], kept=dict.fromkeys(names, 0.5))
    assert dense.saved == dense.saved_paper == 0
    assert half.forward == dense.forward / 2 and half.weight_gradient == dense.weight_gradient / 2
    assert half.input_gradient == dense.input_gradient
    assert half.saved == pytest.approx(1 - half.total / dense.total)
    assert half.saved_paper == pytest.approx(1 / 3)


def test_the_chosen_list_is_the_last_point() -> None:
    names = convolutions(tower("resnet"))
    alphas = alphas_of(names)
    chosen = Selection("heavy").choose(alphas)
    points = TowerPrices(config("resnet")).frontier(alphas, chosen=chosen)
    assert [point.ratio for point in points[:-1]] == list(RATIOS)
    assert [point.chosen for point in points] == [False] * 11 + [True]
    assert points[-1] == cost_of("resnet", chosen)
    assert points[-1].ratio == len(chosen) / len(names)


def test_more_frozen_layers_never_cost_more() -> None:
    points = TowerPrices(config("resnet")).frontier(alphas_of(convolutions(tower("resnet"))))
    totals = [point.total for point in points]
    assert totals == sorted(totals, reverse=True) and totals[0] > totals[-1]
    assert points[0].saved == points[0].saved_paper == 0
    assert points[-1].saved > points[-1].saved_paper


def test_layers_the_trunk_does_not_run_cost_nothing_frozen_or_not() -> None:
    pool = ["attnpool.q_proj", "attnpool.c_proj"]
    assert cost_of("resnet", pool).saved == cost_of("resnet", pool).saved_paper == 0
    alphas = {**alphas_of(convolutions(tower("resnet"))), "attnpool.q_proj": 1.1}
    assert TowerPrices(config("resnet")).frontier(alphas, ratios=[1 / len(alphas)])[0].saved == 0


def test_bad_questions_are_refused_in_one_line() -> None:
    with pytest.raises(OptionError, match="resolution is too small: 16 pixels; a ResNet needs 32 or more"):
        tower_costs("resnet", resolution=16)
    with pytest.raises(OptionError, match="this tower has one resolution: 16 x 16, not 32 x 32; leave it out"):
        tower_costs("vit", resolution=32)
    with pytest.raises(OptionError, match=r"freeze ratio out of range: 1\.5"):
        TowerPrices(config("resnet")).frontier({"conv1": 2.0}, ratios=[1.5])
    with pytest.raises(TrainingError, match="no such layer to freeze: 'layer9'"):
        cost_of("resnet", ["layer9"])
    with pytest.raises(SourceError, match="check `model_cfg`"):
        TowerPrices({"embed_dim": 16})


def test_the_list_of_the_paper_is_priced_both_ways(reference: Path) -> None:
    rows = json.loads((reference / "clip_rn50_conv_layers.json").read_text())["layers"]
    frozen = [row["name"] for row in rows if row["frozen_in_official_commented_list"]]
    point = cost_of("RN50", frozen, resolution=512)
    costs = tower_costs("RN50", resolution=512)
    assert {name: cost.forward for name, cost in costs.items()} == {row["name"]: row["macs_512"] for row in rows}
    assert (point.frozen, point.ratio) == (27, 27 / 55)
    assert point.saved_paper == pytest.approx(0.69127 / 3, abs=1e-5)
    # Stem, conv1 and conv2 of the first block are frozen: nothing below its conv3 and its shortcut needs a gradient.
    beginning = [*list(costs)[:6], "layer1.0.downsample.0"]
    assert point.input_gradient == sum(cost.forward for name, cost in costs.items() if name not in beginning)
    assert point.weight_gradient == sum(cost.forward for name, cost in costs.items() if name not in frozen)
    assert point.saved > point.saved_paper
