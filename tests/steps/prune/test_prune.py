"""prune: exact counts, masks equal to torch's, and bundles that depend on nothing but the options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import prune as torch_prune

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.clip.source import load_clip
from opentrans_cli.errors import OptionError, TrainingError
from opentrans_cli.sparsity.schedule import imp_sparsities
from opentrans_cli.steps.look.verify import verify
from opentrans_cli.steps.prune.options import PruneOptions
from opentrans_cli.steps.prune.prune import prune

Options = Callable[..., PruneOptions]
Content = Callable[[Path], dict[str, bytes]]


def one_shot(sparsity: float, **changes: Any) -> PruneOptions:
    return PruneOptions(source="tiny", sparsity=sparsity, **changes)


def dense_tower() -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in load_clip("tiny").model.visual.state_dict().items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, distilled: Options) -> Path:
    """A distilled run that recorded its rounds."""
    out = tmp_path_factory.mktemp("prune") / "run"
    return prune(**vars(distilled(keep_rounds="masks")), out=out, device="cpu").path


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9, 0.9999])
def test_exactly_the_asked_share_is_removed(sparsity: float, tmp_path: Path) -> None:
    result = prune(**vars(one_shot(sparsity)), out=tmp_path / "b", device="cpu")
    masks = open_bundle(result.path).masks()
    assert result.total == sum(mask.size for mask in masks.values())
    assert result.total - result.kept == round(sparsity * result.total) == sum(int((~m).sum()) for m in masks.values())
    assert result.sparsity == pytest.approx(sparsity, abs=1 / result.total)
    assert verify(result.path).ok


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.95])
def test_masks_equal_torch_s_global_unstructured(sparsity: float, tmp_path: Path) -> None:
    visual = load_clip("tiny").model.visual
    layers = {name: m for name, m in visual.named_modules() if isinstance(m, torch.nn.Conv2d) and name != "conv1"}
    chosen = [(layer, "weight") for layer in layers.values()]
    torch_prune.global_unstructured(chosen, pruning_method=torch_prune.L1Unstructured, amount=sparsity)
    masks = open_bundle(prune(**vars(one_shot(sparsity)), out=tmp_path / "b", device="cpu").path).masks()
    assert masks.keys() == layers.keys()
    for name, layer in layers.items():
        assert np.array_equal(masks[name], layer.weight_mask.numpy().astype(bool)), name


def test_without_images_the_rest_of_the_tower_stays_bit_for_bit(tmp_path: Path) -> None:
    bundle = open_bundle(prune(**vars(one_shot(0.5)), out=tmp_path / "b", device="cpu").path)
    dense, pruned, masks = dense_tower(), bundle.tower(), bundle.masks()
    assert dense.keys() == pruned.keys()
    for name, value in dense.items():
        mask = masks.get(name.removesuffix(".weight"), np.ones_like(value, dtype=bool))
        assert np.array_equal(pruned[name], np.where(mask, value, 0).astype(value.dtype)), name


def test_distillation_trains_kept_weights_and_leaves_removed_ones_at_zero(run: Path) -> None:
    bundle = open_bundle(run)
    dense, pruned, masks = dense_tower(), bundle.tower(), bundle.masks()
    for layer, mask in masks.items():
        weight = pruned[f"{layer}.weight"]
        assert not weight[~mask].any()
        assert (weight[mask] != dense[f"{layer}.weight"][mask]).mean() > 0.5, layer
    assert "conv1" not in masks
    assert verify(run).ok


def test_every_round_keeps_what_the_schedule_says_and_rounds_are_nested(run: Path) -> None:
    bundle = open_bundle(run)
    rounds, manifest = bundle.rounds(), bundle.manifest
    assert rounds is not None
    schedule = imp_sparsities(0.3)
    assert len(schedule) == 4
    by_round = manifest.steps[-1].metrics["kept_by_round"]
    for number, sparsity in enumerate(schedule, start=1):
        # Round r keeps what is never pruned (0) and what is pruned later.
        kept = {layer: int(((array == 0) | (array > number)).sum()) for layer, array in rounds.items()}
        assert sum(kept.values()) == manifest.total - round(sparsity * manifest.total)
        assert kept == {layer: counts[number - 1] for layer, counts in by_round.items()}


def test_the_same_options_give_the_same_bytes(run: Path, tmp_path: Path, distilled: Options, content: Content) -> None:
    again = prune(**vars(distilled(keep_rounds="masks")), out=tmp_path / "elsewhere", device="cpu")
    assert content(again.path) == content(run)


def test_another_seed_gives_another_subnet_with_the_same_counts(run: Path, tmp_path: Path, distilled: Options) -> None:
    other = open_bundle(prune(**vars(distilled(seed=1)), out=tmp_path / "b", device="cpu").path)
    assert other.digest != open_bundle(run).digest
    assert other.manifest.kept == open_bundle(run).manifest.kept


def test_without_rounds_asked_for_none_are_stored(run: Path, tmp_path: Path, distilled: Options) -> None:
    plain = open_bundle(prune(**vars(distilled()), out=tmp_path / "b", device="cpu").path)
    assert plain.rounds() is None
    for name, value in open_bundle(run).tower().items():
        assert np.array_equal(value, plain.tower()[name])


def test_a_bundle_is_pruned_further_inside_its_mask(tiny_bundle: Path, tmp_path: Path, distilled: Options) -> None:
    options = distilled(source=str(tiny_bundle), sparsity=0.6, rate=0.3, keep_rounds="masks")
    parent, child = open_bundle(tiny_bundle), open_bundle(prune(**vars(options), out=tmp_path / "b", device="cpu").path)
    for layer, mask in child.masks().items():
        assert not (mask & ~parent.masks()[layer]).any()
    assert child.manifest.total - child.manifest.kept == round(0.6 * child.manifest.total)
    assert child.manifest.base == parent.manifest.base
    assert [step.verb for step in child.manifest.steps] == ["prune", "prune"]
    assert child.manifest.steps[-1].parent == parent.digest
    assert verify(child.path).ok


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_narrower_dtype_rounds_kept_values_and_nothing_else(dtype: str, tiny_bundle: Path, tmp_path: Path) -> None:
    path = prune(**vars(one_shot(0.5, dtype=dtype)), out=tmp_path / "b", device="cpu").path
    wide, narrow = open_bundle(tiny_bundle), open_bundle(path)
    layers = wide.masks()
    for name, value in wide.tower().items():
        expected = torch.from_numpy(value)
        if name.removesuffix(".weight") in layers:
            expected = expected.to(getattr(torch, dtype)).float()
        assert torch.equal(torch.from_numpy(narrow.tower()[name]), expected), name
    assert narrow.size_bytes < wide.size_bytes and verify(path).ok


def test_a_loss_that_is_not_finite_leaves_no_bundle(tmp_path: Path, distilled: Options) -> None:
    with pytest.raises(TrainingError, match="is not finite: step"):
        prune(**vars(distilled(lr=1e9, steps_per_round=6)), out=tmp_path / "b", device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["b.log.jsonl"]


def test_a_bundle_cannot_be_pruned_less(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="source is sparser than the target"):
        prune(str(tiny_bundle), sparsity=0.2, out=tmp_path / "b", device="cpu")
    same = prune(str(tiny_bundle), sparsity=0.5, out=tmp_path / "same", device="cpu")
    assert open_bundle(same.path).digest == open_bundle(tiny_bundle).digest
