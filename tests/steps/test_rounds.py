"""Earlier rounds through the steps: the tower, and where it goes from there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from opentrans_cli.bundle.rounds import available
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.clip.source import load_clip
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.errors import OptionError, SourceError
from opentrans_cli.files.records import json_bytes
from opentrans_cli.reporter import SILENT
from opentrans_cli.steps.eval.evaluate import evaluate
from opentrans_cli.steps.look.verify import verify
from opentrans_cli.steps.sources import load_tower, tower_at_sparsity
from opentrans_cli.steps.transfer.open_clip import export_open_clip
from opentrans_cli.steps.transfer.transfer import transfer

Nested = Callable[[str], Path]
DATA = DatasetOptions(split="val", limit=1)


def moved(bundle: Path, base: Any) -> Path:
    """The bundle says that its base lies at `base`."""
    manifest = open_bundle(bundle).manifest
    changed = replace(manifest, base=replace(manifest.base, source=str(base)))
    (bundle / "manifest.json").write_bytes(json_bytes(changed.to_json()))
    return bundle


@pytest.mark.parametrize("sparsity", [0.2, 0.5])
def test_the_tower_of_a_trained_round_is_the_snapshot(nested_bundle: Nested, sparsity: float) -> None:
    bundle = open_bundle(nested_bundle("trained"))
    number = {0.2: 1, 0.5: 2}[sparsity]
    tower = tower_at_sparsity(bundle, sparsity)
    expected = bundle.round_tower(number)
    state = tower.visual.state_dict()
    assert set(state) == set(expected)
    assert all(state[name].numpy().tobytes() == array.tobytes() for name, array in expected.items())
    dense = load_clip("tiny").model.visual.state_dict()
    for layer, mask in tower.masks.items():
        weight = torch.where(torch.from_numpy(mask), dense[f"{layer}.weight"] * (1 + 0.02 * number), 0)
        torch.testing.assert_close(state[f"{layer}.weight"], weight, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["untrained", "bare"])
def test_without_training_an_earlier_round_has_the_values_of_the_base(nested_bundle: Nested, kind: str) -> None:
    tower = tower_at_sparsity(open_bundle(nested_bundle(kind)), 0.5)
    dense, state = load_clip("tiny").model.visual.state_dict(), tower.visual.state_dict()
    for layer, mask in tower.masks.items():
        assert torch.equal(state[f"{layer}.weight"], torch.where(torch.from_numpy(mask), dense[f"{layer}.weight"], 0))
    kept = sum(int(mask.sum()) for mask in tower.masks.values())
    assert round(1 - kept / sum(mask.size for mask in tower.masks.values()), 3) == 0.5


def test_weights_that_were_trained_on_and_not_kept_are_not_made_up(nested_bundle: Nested) -> None:
    with pytest.raises(OptionError, match=r"only the masks of this round are there.*--keep-rounds weights") as caught:
        tower_at_sparsity(open_bundle(nested_bundle("masks")), 0.5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["trained", "masks", "untrained", "bare"])
def test_the_last_sparsity_is_the_bundle_itself(nested_bundle: Nested, kind: str) -> None:
    path = nested_bundle(kind)
    last, own = tower_at_sparsity(open_bundle(path), 0.8), load_tower(str(path), SILENT)
    for name, tensor in own.visual.state_dict().items():
        assert torch.equal(tensor, last.visual.state_dict()[name])
    assert own.bundle is not None and own.bundle.manifest.target_sparsity == 0.8


def test_a_bundle_of_masks_alone_is_the_base_under_its_masks(nested_bundle: Nested) -> None:
    full, bare = (load_tower(str(nested_bundle(kind)), SILENT) for kind in ("untrained", "bare"))
    for name, tensor in full.visual.state_dict().items():
        assert torch.equal(tensor, bare.visual.state_dict()[name])
    assert full.masks.keys() == bare.masks.keys()


def test_a_base_that_moved_or_is_another_one_is_told(nested_bundle: Nested, tmp_path: Path) -> None:
    gone = moved(shutil.copytree(nested_bundle("bare"), tmp_path / "gone"), tmp_path / "nowhere.safetensors")
    with pytest.raises(SourceError, match=r"nowhere.safetensors; .*gone needs the weights of its base.*--base"):
        load_tower(str(gone), SILENT)
    assert load_tower(str(gone), SILENT, base="tiny").masks
    clip = load_clip("tiny")
    state = {
        name: tensor + 1 if name == "visual.conv1.weight" else tensor
        for name, tensor in clip.model.state_dict().items()
    }
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(SourceError, match="not the CLIP this bundle was cut from") as caught:
        load_tower(str(gone), SILENT, base=str(tmp_path / "other.pt"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "sparsity"), [("trained", 0.5), ("untrained", 0.2), ("bare", 0.8), ("bare", 0.5)])
def test_transfer_writes_a_bundle_of_that_round(
    nested_bundle: Nested, tmp_path: Path, kind: str, sparsity: float
) -> None:
    parent = open_bundle(nested_bundle(kind))
    out = transfer(parent.path, to="deeplabv3", out=tmp_path / "t", at_sparsity=sparsity).path
    assert out is not None and verify(out).ok
    bundle = open_bundle(out)
    expected = tower_at_sparsity(parent, sparsity)
    assert expected.bundle is not None
    assert bundle.manifest.target_sparsity == sparsity
    assert bundle.manifest.layers == expected.bundle.manifest.layers
    assert all(np.array_equal(mask, expected.masks[layer]) for layer, mask in bundle.masks().items())
    written = bundle.tower()
    for name, array in expected.bundle.tower().items():
        assert written[name].tobytes() == array.tobytes()
    assert bundle.manifest.steps[-1].options["at_sparsity"] == sparsity
    assert bundle.manifest.steps[-1].parent == parent.digest
    there = [info for info in available(parent) if info.sparsity < sparsity + 1e-3]
    assert [(info.round, info.kept) for info in available(bundle)] == [(info.round, info.kept) for info in there]
    assert bundle.saved_rounds() == ()


def test_a_base_that_transfer_does_not_need_is_refused(nested_bundle: Nested, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="leave --base out"):
        transfer(nested_bundle("trained"), to="maskclip", out=tmp_path / "t", base="tiny")
    assert not (tmp_path / "t").exists()


def test_an_export_at_a_sparsity_holds_the_tower_of_that_round(nested_bundle: Nested, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    bundle = open_bundle(nested_bundle("trained"))
    export_open_clip(bundle.path, out=tmp_path / "o", at_sparsity=0.5)
    written = load_file(tmp_path / "o" / "open_clip_model.safetensors")
    for name, array in bundle.round_tower(2).items():
        assert np.array_equal(written[f"visual.{name}"], array)


def test_a_round_scores_as_the_bundle_transferred_at_it(nested_bundle: Nested, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(nested_bundle("trained"), tmp_path / "b"))
    transfer(bundle, to="maskclip", out=tmp_path / "t", at_sparsity=0.5)
    before = evaluate(str(bundle), **vars(DATA), at_sparsity=0.5, device="cpu").report
    after = evaluate(str(tmp_path / "t"), **vars(DATA), device="cpu").report
    same = ("miou", "pixel_accuracy", "per_class", "params_kept", "macs_kept")
    assert {name: before[name] for name in same} == {name: after[name] for name in same}
    stored = open_bundle(bundle)
    assert json.loads(stored.read("reports/eval-shapes-at-0.5000.json")) == before
    assert not stored.has("reports/eval-shapes.json")
    assert stored.manifest.steps[-1].options["at_sparsity"] == 0.5
    assert verify(bundle).ok


def test_only_a_bundle_has_earlier_rounds() -> None:
    with pytest.raises(OptionError, match="only a bundle has earlier rounds: tiny"):
        evaluate("tiny", **vars(DATA), at_sparsity=0.5, device="cpu")
