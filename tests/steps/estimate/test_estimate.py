"""What a run would cost: the paper's figures from what is packaged, and a bundle's receipt before it is trained."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.errors import OptionError, SourceError
from opentrans_cli.steps.estimate.estimate import PUBLISHED_LIST, estimate
from opentrans_cli.steps.finetune.finetune import finetune
from opentrans_cli.steps.finetune.freezing import NOTHING_RANKED
from opentrans_cli.steps.finetune.options import FinetuneOptions, finetune_options
from opentrans_cli.training.costs.paper import FROZEN_LAYERS, MEDIAN_LAYER, PUBLISHED_PMACS

FOUR_SCENES = DatasetOptions(limit=4)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_given: Any, **_named: Any) -> None:
        raise AssertionError("an estimate asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def paper(**changes: Any) -> dict[str, Any]:
    document = estimate(None, finetune_options("han", changes), accounting="paper").to_json()
    check_document(document, "finetune_estimate")
    return document


def test_the_papers_costs_follow_from_its_recipe_alone() -> None:
    document = paper()
    for setting, pmacs in document["pmacs"].items():
        assert pmacs == pytest.approx(PUBLISHED_PMACS[setting], rel=0.003), setting
        assert document["macs"][setting] == round(pmacs * 1e15)
    assert list(document["pmacs"]) == ["full", "alpha", "alpha_opposite", "alpha_subnet"]
    assert (document["images"], document["classes"], document["crop"]) == (40_000 * 28, 133, 512)
    assert document["frozen_layers"] == list(FROZEN_LAYERS)
    assert all("published" in given["source"] for given in document["inputs"][:2])


def test_the_papers_costs_are_of_the_steps_after_the_warm_up() -> None:
    half = paper(steps=20_000, warmup_steps=0, batch_size=28)
    assert half["pmacs"]["full"] == pytest.approx(PUBLISHED_PMACS["full"] / 2, rel=0.003)


@pytest.mark.parametrize("changes", [{"crop": 256}, {"recipe": "deeplabv3"}])
def test_where_nothing_is_published_the_inputs_are_counted_and_say_so(changes: dict[str, Any]) -> None:
    recipe = changes.pop("recipe", "han")
    document = estimate(None, finetune_options(recipe, changes), accounting="paper").to_json()
    assert [given["source"] for given in document["inputs"]] == ["counted here", "counted here", "the paper"]
    trunk, head, kept = (given["value"] for given in document["inputs"])
    images, macs = document["images"], document["macs"]
    assert macs["full"] == 3 * (trunk + head) * images
    assert kept == pytest.approx(0.1)
    assert macs["alpha_subnet"] == pytest.approx(macs["alpha"] - 0.9 * (macs["alpha"] - (trunk + 3 * head) * images))


def test_the_paper_counts_no_frozen_tower() -> None:
    with pytest.raises(OptionError, match="counts no training around a frozen tower: fcclip"):
        estimate(None, finetune_options("fcclip", {"crop": 64}), accounting="paper")


def test_the_exact_estimate_has_phases_parts_and_torchs_counter() -> None:
    counted = estimate(None, finetune_options("deeplabv3", {"crop": 64}))
    document = counted.to_json()
    check_document(document, "finetune_estimate")
    cost = document["cost"]
    assert [(phase["name"], phase["steps"]) for phase in cost["phases"]] == [("warm-up", 10_000), ("training", 40_000)]
    assert cost["counter"]["run"]["ratio"] == cost["counter"]["full"]["ratio"] == 1.0
    assert 0 < cost["saved"]["dense"] == cost["saved"]["sparse"] == cost["saved"]["all"] < 1


def frozen(base: str | None = None, **changes: Any) -> tuple[str, ...]:
    """The layers that would be frozen; counting by the paper is the quicker one."""
    options = finetune_options("deeplabv3", {"crop": 32, **changes})
    return estimate(None, options, accounting="paper", base=base).frozen.layers


def test_light_freezes_the_complement_without_the_median_layer() -> None:
    layers = {name.removeprefix("backbone.") for name in frozen(freeze="light")}
    assert len(layers) == 27 and not layers & {*FROZEN_LAYERS, MEDIAN_LAYER}


@pytest.mark.parametrize(("freeze", "origin"), [("heavy", PUBLISHED_LIST), ("none", NOTHING_RANKED)])
def test_an_estimate_names_the_published_list_where_it_was_used_alone(freeze: str, origin: str) -> None:
    options = finetune_options("deeplabv3", {"crop": 32, "freeze": freeze})
    assert estimate(None, options, accounting="paper").frozen.origin.endswith(f"; {origin}")


def test_random_freezes_as_many_by_the_seed() -> None:
    one, again, other = (frozen(freeze="random", seed=seed) for seed in (1, 1, 2))
    assert one == again != other and len(one) == len(other) == 27


@pytest.mark.parametrize(
    ("changes", "unknown"),
    [
        ({"freeze_ratio": 0.25}, "a share of 0.25"),
        ({"freeze_scope": "model"}, "the head's layers"),
        ({"base": "RN101"}, "the layers of RN101"),
    ],
)
def test_what_the_published_list_cannot_say_needs_a_bundle(changes: dict[str, Any], unknown: str) -> None:
    base = changes.pop("base", None)
    with pytest.raises(OptionError, match=f"no alphas without weights: {unknown}; give a bundle"):
        estimate(None, finetune_options("deeplabv3", {"crop": 32, **changes}), base=base)
    options = finetune_options("deeplabv3", {"crop": 32, "freeze": "random", **changes})
    assert len(estimate(None, options, base=base).frozen.layers) > 10


def test_a_cached_prefix_runs_once_for_every_view() -> None:
    given = {"crop": 32, "freeze": "none", "prefix_end": "layer3.5", "views": 2, "warmup_steps": 0}
    options = finetune_options("deeplabv3", given)
    plain, cached = (estimate(None, options, cached=cached) for cached in (False, True))
    assert plain.cost is not None and cached.cost is not None
    assert cached.cost.run().total < plain.cost.run().total
    assert cached.cost.control() == plain.cost.control()
    assert cached.cost.phases[-1].to_json()["cached_views"] == 2 * 118_287
    with pytest.raises(OptionError, match="a cache of features needs fixed crops"):
        estimate(None, finetune_options("deeplabv3", {**given, "views": 0}), cached=True)
    with pytest.raises(OptionError, match="a cache of features needs a frozen prefix"):
        estimate(None, finetune_options("deeplabv3", {**given, "prefix_end": None}), cached=True)


@pytest.mark.parametrize("changes", [{}, {"warmup_steps": 1, "freeze": "random"}, {"prefix_end": "layer1.0"}])
def test_the_estimate_for_a_bundle_is_the_receipt_of_its_run(
    tiny_bundle: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    options = FinetuneOptions(steps=3, batch_size=2, crop=64, **changes)
    document = estimate(tiny_bundle, options, dataset="shapes", data=FOUR_SCENES).to_json()
    check_document(document, "finetune_estimate")
    receipt = finetune(tiny_bundle, out=tmp_path / "out", **vars(options), **vars(FOUR_SCENES), device="cpu").cost
    assert {name: receipt[name] for name in document["cost"]} == {**document["cost"], "counter": None}


def test_the_papers_costs_of_a_bundle_are_by_its_own_alphas_and_masks(tiny_bundle: Path) -> None:
    options = FinetuneOptions(steps=3, batch_size=2, crop=64, framework="deeplabv3")
    document = estimate(tiny_bundle, options, accounting="paper", dataset="shapes", data=FOUR_SCENES).to_json()
    check_document(document, "finetune_estimate")
    assert document["inputs"][2]["source"] == "the bundle" and 0.1 < document["inputs"][2]["value"] < 1
    macs = document["macs"]
    assert macs["alpha_subnet"] < macs["alpha"] < macs["full"] and macs["alpha_opposite"] < macs["full"]
    assert document["classes"] > 1 and document["dataset"] == "shapes"


def test_an_estimate_downloads_nothing() -> None:
    with pytest.raises(SourceError, match="an estimate downloads nothing"):
        estimate(None, FinetuneOptions(crop=32), base="hf://org/name")


def test_an_unknown_accounting_is_refused() -> None:
    with pytest.raises(OptionError, match="unknown accounting: 'guess'"):
        estimate(None, FinetuneOptions(), accounting="guess")


def test_another_framework_than_the_bundles_is_refused(tiny_segmentor: Path) -> None:
    with pytest.raises(OptionError, match="the bundle's segmentor is deeplabv3, not han"):
        estimate(tiny_segmentor, FinetuneOptions(framework="han"))
