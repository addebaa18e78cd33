"""The random control: other places, the same counts in every layer and round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from opentrans_cli.bundle.rounds import KEPT_BY_ROUND
from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.errors import OptionError
from opentrans_cli.sparsity.patterns.base import pattern_for
from opentrans_cli.steps.look.verify import verify
from opentrans_cli.steps.prune.options import PruneOptions
from opentrans_cli.steps.prune.prune import prune
from opentrans_cli.steps.sources import bundle_tower

Options = Callable[..., PruneOptions]


def kept(bundle: Bundle) -> dict[str, int]:
    return {layer.name: layer.kept for layer in bundle.manifest.layers}


def kept_by_round(bundle: Bundle) -> dict[str, list[int]]:
    counts: dict[str, list[int]] = bundle.manifest.steps[-1].metrics[KEPT_BY_ROUND]
    return counts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, distilled: Options) -> Bundle:
    return open_bundle(prune(**vars(distilled()), out=tmp_path_factory.mktemp("model") / "b", device="cpu").path)


def test_a_twin_copies_the_counts_of_its_model_in_every_round(
    model: Bundle, tmp_path: Path, distilled: Options
) -> None:
    options = distilled(random=True, like=str(model.path), keep_rounds="masks")
    twin = open_bundle(prune(**vars(options), out=tmp_path / "twin", device="cpu").path)
    assert kept_by_round(twin) == kept_by_round(model)
    assert kept(twin) == kept(model) and twin.digest != model.digest
    rounds = twin.rounds()
    assert rounds is not None
    for layer, counts in kept_by_round(model).items():
        assert counts == [int(((rounds[layer] == 0) | (rounds[layer] > number)).sum()) for number in range(1, 5)]
    assert verify(twin.path).ok


def test_a_twin_s_places_are_chance(model: Bundle, tmp_path: Path, distilled: Options) -> None:
    """In a large layer the share of the twin's kept weights that the model keeps too is the layer's density."""
    options = distilled(random=True, like=str(model.path))
    twin = open_bundle(prune(**vars(options), out=tmp_path / "twin", device="cpu").path)
    layer = max(model.manifest.layers, key=lambda layer: layer.total)
    ours, theirs = model.masks()[layer.name], twin.masks()[layer.name]
    density = layer.kept / layer.total
    assert (ours & theirs).sum() / layer.kept == pytest.approx(
        density, abs=5 * (density * (1 - density) / layer.kept) ** 0.5
    )


def test_without_a_model_the_counts_are_those_of_one_shot_magnitude(tiny_bundle: Path, tmp_path: Path) -> None:
    twins = [
        open_bundle(prune("tiny", sparsity=0.5, random=True, seed=seed, out=tmp_path / str(seed), device="cpu").path)
        for seed in (0, 1)
    ]
    model = open_bundle(tiny_bundle)
    assert kept(twins[0]) == kept(twins[1]) == kept(model)
    assert len({bundle.digest for bundle in (*twins, model)}) == 3


def test_a_twin_of_one_shot_keeps_the_dense_values_at_its_own_places(tiny_bundle: Path, tmp_path: Path) -> None:
    options = PruneOptions(source="tiny", sparsity=0.5, random=True, like=str(tiny_bundle))
    twin = open_bundle(prune(**vars(options), out=tmp_path / "twin", device="cpu").path)
    model = open_bundle(tiny_bundle)
    for layer, mask in twin.masks().items():
        both = mask & model.masks()[layer]
        assert np.array_equal(twin.tower()[f"{layer}.weight"][both], model.tower()[f"{layer}.weight"][both])


@pytest.mark.parametrize("pattern", ["channel", "2:4", "layerwise"])
def test_a_twin_has_the_form_of_its_model_s_pattern(pattern: str, tmp_path: Path) -> None:
    options = PruneOptions(source="tiny", sparsity=0.5, pattern=pattern)
    model = open_bundle(prune(**vars(options), out=tmp_path / "model", device="cpu").path)
    like = replace(options, random=True, like=str(model.path))
    twin = open_bundle(prune(**vars(like), out=tmp_path / "twin", device="cpu").path)
    assert kept(twin) == kept(model) and twin.manifest.pattern == pattern
    tower = bundle_tower(twin)
    chosen = pattern_for(pattern, tower.base.model_cfg)
    again = chosen.masks({layer: mask.astype(np.float32) for layer, mask in tower.masks.items()}, 0.5)
    assert all(bool((again[layer] == mask).all()) for layer, mask in tower.masks.items())


@pytest.mark.parametrize("change", [{"sparsity": 0.25}, {"rate": 0.2}, {"images": None}])
def test_a_model_of_another_schedule_is_refused(
    change: dict[str, object], model: Bundle, tmp_path: Path, distilled: Options
) -> None:
    options = distilled(**{"random": True, "like": str(model.path), **change})
    with pytest.raises(OptionError, match="not the run this control is of"):
        prune(**vars(options), out=tmp_path / "twin", device="cpu")
    assert list(tmp_path.iterdir()) == []
