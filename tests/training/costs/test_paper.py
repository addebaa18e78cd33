"""The paper's accounting: its table as laws, and its published figures from its own list of frozen layers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opentrans_cli.training.costs.macs import LayerCost
from opentrans_cli.training.costs.paper import (
    BATCH_SIZE,
    CONVOLUTIONS,
    FROZEN_LAYERS,
    HEAD_MACS,
    ITERATIONS,
    MEDIAN_LAYER,
    PUBLISHED_PMACS,
    TRUNK_MACS,
    paper_costs,
    paper_settings,
)
from opentrans_cli.training.costs.receipt import Columns, dense, sparse, total

IMAGES = 40_000 * 28  # the last 40,000 of 50,000 iterations, 28 images each
LAYERS = {"a": 1000, "b": 200, "c": 30}


def paper(**changes):
    return total(paper_costs(LAYERS, **changes), sparse)


def test_a_dense_layer_costs_three_forward_passes():
    assert paper() == Columns(1230, 1230, 1230) == total(paper_costs(LAYERS), dense)


def test_a_frozen_layer_saves_its_weight_gradient_and_a_frozen_prefix_no_more():
    assert paper(frozen=["a", "b"]) == Columns(1230, 1230, 30)


def test_a_sparse_layer_saves_forward_and_weight_gradient_alone():
    assert paper(kept={"a": 0.1}) == Columns(330, 1230, 330)


def test_a_sparse_frozen_layer_saves_both_ways():
    assert paper(frozen=["a"], kept={"a": 0.1, "b": 0.5}) == Columns(230, 1230, 130)


def test_a_head_costs_three_forward_passes_whatever_is_frozen_or_pruned():
    without = paper(frozen=LAYERS, kept=dict.fromkeys(LAYERS, 0.0))
    with_head = paper(frozen=LAYERS, kept=dict.fromkeys(LAYERS, 0.0), head=500)
    assert with_head.total - without.total == paper(head=500).total - paper().total == 1500
    assert without.total == without.input_gradient == 1230


def test_costs_come_by_layer_for_one_image():
    assert paper_costs(LAYERS, frozen={"b"}, kept={"c": 0.5}, head=7) == (
        LayerCost("a", 1000, 1000, 1000),
        LayerCost("b", 200, 200, 0),
        LayerCost("c", 30, 30, 30, 0.5),
        LayerCost("head", 7, 7, 7),
    )


def test_images_multiply_everything():
    one, many = (paper_settings(LAYERS, frozen=["b"], opposite=["c"], kept={}, head=7, images=n) for n in (1, 1000))
    assert {name: columns.times(1000) for name, columns in one.items()} == many


def test_a_frozen_layer_that_is_not_counted_is_a_programming_mistake():
    with pytest.raises(ValueError, match="frozen, but not counted: d, e"):
        paper_costs(LAYERS, frozen=["e", "a", "d"])


def test_the_settings_differ_in_what_is_frozen_and_what_is_kept():
    settings = paper_settings(LAYERS, frozen=["a"], opposite=["c"], kept=dict.fromkeys(LAYERS, 0.5), images=1)
    assert {name: columns.total for name, columns in settings.items()} == {
        "full": 3 * 1230,
        "alpha": 3 * 1230 - 1000,
        "alpha_opposite": 3 * 1230 - 30,
        "alpha_subnet": 1230 // 2 + 1230 + 230 // 2,
    }


def test_the_published_training_costs_follow_from_the_published_list(reference: Path):
    rows = json.loads((reference / "clip_rn50_conv_layers.json").read_text())["layers"]
    figures = json.loads((reference / "cost_reference.json").read_text())["training_flops"]
    layers = {row["name"]: row["macs_512"] for row in rows}
    frozen = [row["name"] for row in rows if row["frozen_in_official_commented_list"]]
    assert len(frozen) == 27 and sum(layers.values()) == 28_041_019_392
    # Of the complement the median layer is trained; by the published cost it is one of three that cost the same.
    opposite = [name for name in layers if name not in frozen and name != "layer4.0.conv1"]
    assert len(opposite) == 27
    layers["other"] = round(figures["C_backbone_G"] * 1e9) - sum(layers.values())  # BatchNorm and pooling, by thop
    settings = paper_settings(
        layers,
        frozen=frozen,
        opposite=opposite,
        kept=dict.fromkeys(layers, 0.1),
        head=round(figures["C_head_G"] * 1e9),
        images=IMAGES,
    )
    published = figures["published_P"]
    for name, row in {
        "full": "dense",
        "alpha": "alpha",
        "alpha_opposite": "alpha_star",
        "alpha_subnet": "alpha_plus_pruning",
    }.items():
        assert settings[name].total / 1e15 == pytest.approx(published[row], rel=0.003), name
    assert settings["alpha"].total / 1e15 == pytest.approx(figures["alpha_P"], abs=0.001)
    assert settings["alpha_subnet"].total / 1e15 == pytest.approx(figures["alpha_plus_pruning_P_s0.1"], abs=0.001)


def test_the_packaged_list_is_the_published_one(reference: Path):
    rows = json.loads((reference / "clip_rn50_conv_layers.json").read_text())["layers"]
    assert tuple(row["name"] for row in rows if row["frozen_in_official_commented_list"]) == FROZEN_LAYERS
    assert len(rows) == CONVOLUTIONS
    # The complement and the median layer: as many light-tailed layers as heavy-tailed ones.
    assert MEDIAN_LAYER in {row["name"] for row in rows} - set(FROZEN_LAYERS)
    assert 2 * len(FROZEN_LAYERS) + 1 == CONVOLUTIONS


def test_the_packaged_figures_are_the_published_ones(reference: Path):
    figures = json.loads((reference / "cost_reference.json").read_text())["training_flops"]
    assert figures["images"] == ITERATIONS * BATCH_SIZE
    assert (figures["C_backbone_G"], figures["C_head_G"]) == (TRUNK_MACS / 1e9, HEAD_MACS / 1e9)
    published = figures["published_P"]
    assert {
        "full": published["dense"],
        "random": published["random"],
        "alpha_opposite": published["alpha_star"],
        "alpha": published["alpha"],
        "alpha_subnet": published["alpha_plus_pruning"],
    } == PUBLISHED_PMACS


def test_dense_training_costs_three_passes_of_every_image():
    counted = 3 * (TRUNK_MACS + HEAD_MACS) * ITERATIONS * BATCH_SIZE
    assert counted / 1e15 == pytest.approx(PUBLISHED_PMACS["full"], rel=0.003)
