"""The receipt of a run, from its segmentor before and after freezing."""

from __future__ import annotations

from pathlib import Path

import pytest

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.clip.prefix import modules_until
from opentrans_cli.frameworks.base import BACKBONE
from opentrans_cli.steps.finetune.cost import count_segmentor, run_cost
from opentrans_cli.steps.finetune.freezing import choose_frozen
from opentrans_cli.steps.finetune.options import FinetuneOptions
from opentrans_cli.steps.segmentors.built import build_segmentor
from opentrans_cli.steps.sources import bundle_tower
from opentrans_cli.training.costs.receipt import dense, sparse, total

CLASS_INDICES = (0, 0, 1, 2)
SMALL = {"queries": 4, "width": 32, "encoder_layers": 1, "decoder_layers": 1}


def counted(bundle, framework, options, *, freeze=True):
    """A segmentor around the bundle's tower, counted before and after freezing."""
    built = build_segmentor(
        bundle_tower(open_bundle(bundle)), framework, options={} if framework == "deeplabv3" else SMALL
    )
    full = count_segmentor(built, crop=64, class_indices=CLASS_INDICES, checked=True)
    choice = choose_frozen(built, options, measured_now=False)
    if freeze:
        choice.apply(built.module)
    return built, choice, full, count_segmentor(built, crop=64, class_indices=CLASS_INDICES, checked=True)


@pytest.mark.parametrize("framework", ["deeplabv3", "han"])
def test_torch_counts_the_run_and_its_full_twin_as_the_formulas_do(tiny_bundle: Path, framework: str) -> None:
    options = FinetuneOptions(steps=6, batch_size=2, warmup_steps=2)
    _, choice, full, frozen = counted(tiny_bundle, framework, options)
    document = {**run_cost(full, frozen, options, crop=64).to_json(), "frozen_layers": list(choice.layers)}
    check_document(document, "cost_receipt")
    assert document["counter"]["run"]["ratio"] == document["counter"]["full"]["ratio"] == 1.0
    assert document["counter"]["run"]["counter"] < document["counter"]["full"]["counter"]
    assert [phase["images"] for phase in document["phases"]] == [4, 8]
    saved = document["saved"]
    assert min(saved["dense"], saved["sparse"]) > 0 and max(saved["dense"], saved["sparse"]) < saved["all"] < 1


def test_without_warm_up_the_receipt_is_that_of_the_frozen_layers(tiny_bundle: Path) -> None:
    options = FinetuneOptions(steps=6, batch_size=2)
    _, _, full, frozen = counted(tiny_bundle, "deeplabv3", options)
    cost = run_cost(full, frozen, options, crop=64)
    assert [cost.run(price) for price in (sparse, dense)] == [
        total(frozen.layers, price).times(12) for price in (sparse, dense)
    ]
    assert cost.control(dense) == total(full.layers, dense).times(12)


def test_kept_shares_are_those_of_the_masks_of_layers_the_segmentor_has(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    built = build_segmentor(bundle_tower(bundle), "han", options=SMALL)
    kept = {f"{BACKBONE}{layer.name}": layer.kept / layer.total for layer in bundle.manifest.layers}
    assert built.kept_shares() == kept and min(kept.values()) < 1


def test_a_framework_that_never_trains_the_trunk_is_its_own_full_twin(tiny_bundle: Path) -> None:
    options = FinetuneOptions(steps=6, batch_size=2, warmup_steps=3)
    _, _, full, frozen = counted(tiny_bundle, "fcclip", options)
    assert full == frozen
    cost = run_cost(full, frozen, options, crop=64)
    assert cost.saved["dense"] == cost.saved["sparse"] == 0 < cost.saved["all"]


def test_a_prefix_costs_nothing_backward_and_a_cached_one_one_pass_a_view(tiny_bundle: Path) -> None:
    options = FinetuneOptions(steps=6, batch_size=2, prefix_end="layer2.0", freeze="none")
    built, choice, full, frozen = counted(tiny_bundle, "deeplabv3", options)
    prefix = {f"{BACKBONE}{name}" for name in modules_until(built.tower.visual, "layer2.0")}
    inside = [layer for layer in frozen.layers if layer.name in prefix]
    assert inside and all(layer.input_gradient == layer.weight_gradient == 0 for layer in inside)
    assert {layer.name for layer in inside} == set(choice.layers)
    plain = run_cost(full, frozen, options, crop=64)
    cached = run_cost(full, frozen, options, crop=64, cached=prefix, views=5)
    assert plain.run(dense).total - cached.run(dense).total == (12 - 5) * sum(layer.forward for layer in inside)
    assert plain.control() == cached.control()


def test_counting_changes_nothing(tiny_bundle: Path) -> None:
    options = FinetuneOptions(steps=1, freeze="none")
    _, choice, full, frozen = counted(tiny_bundle, "han", options, freeze=False)
    assert choice.layers == () and full == frozen
