"""The published facts that are packaged are those of the reference, and the published costs follow from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opentrans_cli.training.costs.paper import (
    BATCH_SIZE,
    CONVOLUTIONS,
    FROZEN_LAYERS,
    HEAD_MACS,
    ITERATIONS,
    MEDIAN_LAYER,
    PUBLISHED_PMACS,
    TRUNK_MACS,
)


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
