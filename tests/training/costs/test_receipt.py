"""The receipt of a run: phases, a cached prefix, two columns, and full training as the control, as laws."""

from __future__ import annotations

import pytest

from opentrans_cli.training.costs.macs import LayerCost
from opentrans_cli.training.costs.receipt import Columns, CounterCheck, RunCost, dense, phases_of, sparse, total

FULL = (
    LayerCost("backbone.conv1", 100, 0, 100, 0.5),
    LayerCost("backbone.conv2", 40, 40, 40, 0.1),
    LayerCost("decoder.out", 7, 7, 7),
)
FROZEN = (
    LayerCost("backbone.conv1", 100, 0, 0, 0.5),
    LayerCost("backbone.conv2", 40, 0, 40, 0.1),
    LayerCost("decoder.out", 7, 7, 7),
)


def run(*, steps=10, warmup_steps=0, cached=(), views=0, counter=None):
    phases = phases_of(FULL, FROZEN, steps=steps, warmup_steps=warmup_steps, batch_size=4, cached=cached, views=views)
    return RunCost(phases, FULL, (64, 96), counter)


def test_the_columns_differ_by_the_kept_share_of_forward_passes_and_weight_gradients():
    assert dense(FULL[1]) == Columns(40, 40, 40)
    assert sparse(FULL[1]) == Columns(4, 40, 4)


def test_masks_save_forward_and_weight_gradients_but_no_input_gradient():
    layers = [
        LayerCost("a", 100, 100, 100, 0.1),
        LayerCost("frozen", 100, 100, 0, 0.1),
        LayerCost("b", 10, 10, 10),
    ]
    assert total(layers, sparse).times(3) == Columns(90, 630, 60) and Columns(90, 630, 60).total == 780
    assert total(layers, dense).times(3).total == 3 * 530


def test_without_warm_up_and_cache_the_run_costs_what_its_images_cost():
    document = run().to_json()
    columns = {field: document[field] for field in ("forward", "input_gradient", "weight_gradient", "total")}
    assert columns == total(FROZEN, sparse).times(40).to_json()
    assert document["unmasked_total"] == total(FROZEN, dense).times(40).total
    assert document["dense_total"] == total(FULL, dense).times(40).total
    assert document["unit"] == "MACs"
    assert (document["images"], document["resolution"]) == (40, [64, 96])
    assert [phase["name"] for phase in document["phases"]] == ["training"]


def test_steps_of_the_warm_up_cost_as_much_as_those_of_the_full_twin():
    cost = run(warmup_steps=3)
    first, second = cost.phases
    assert (first.name, first.images, second.images) == ("warm-up", 12, 28)
    assert first.columns(dense) == Columns(147, 47, 147).times(12)
    assert cost.run(dense) == first.columns(dense) + Columns(147, 7, 47).times(28)
    assert cost.control(dense) == Columns(147, 47, 147).times(40)
    assert run(warmup_steps=10).saved == {"dense": 0.0, "sparse": 0.0, "all": pytest.approx(1 - 169 / 341)}


def test_a_cached_layer_runs_once_for_each_view_and_its_full_twin_in_every_step():
    cost = run(warmup_steps=5, cached=["backbone.conv1", "backbone.bn1"], views=6)
    second = cost.phases[1]
    assert second.columns(dense).forward == 100 * 6 + 47 * 20
    assert second.columns(sparse).forward == 50 * 6 + (4 + 7) * 20
    assert second.to_json()["cached_views"] == 6 and cost.phases[0].to_json()["cached_views"] is None
    assert cost.control() == run().control()


def test_the_parts_add_up_to_the_whole():
    cost = run(warmup_steps=2, cached=["backbone.conv1"], views=6, counter=CounterCheck(run=201, full=341))
    document = cost.to_json()
    for who in ("run", "full"):
        for column in ("dense", "sparse"):
            for figure, whole in document[who][column].items():
                assert whole == sum(part[who][column][figure] for part in document["parts"])
    for column in ("dense", "sparse"):
        for figure, whole in document["run"][column].items():
            assert whole == sum(phase[column][figure] for phase in document["phases"])
    assert [part["name"] for part in document["parts"]] == ["trunk", "head"]


def test_shares_saved_are_of_the_twin_in_the_same_column_and_of_dense_training():
    cost = run()
    assert cost.saved["dense"] == pytest.approx(1 - (147 + 7 + 47) / 341)
    assert cost.saved["sparse"] == pytest.approx(1 - (61 + 7 + 11) / (61 + 47 + 61))
    assert cost.saved["all"] == pytest.approx(1 - (61 + 7 + 11) / 341)


def test_torch_counts_one_image_beside_the_formulas():
    document = run(counter=CounterCheck(run=201, full=682)).to_json()["counter"]
    assert document == {
        "run": {"counter": 201, "formula": 201, "ratio": 1.0},
        "full": {"counter": 682, "formula": 341, "ratio": 2.0},
    }
    assert run().to_json()["counter"] is None


def test_a_run_of_no_steps_saves_nothing():
    assert run(steps=0).saved == {"dense": 0.0, "sparse": 0.0, "all": 0.0}
