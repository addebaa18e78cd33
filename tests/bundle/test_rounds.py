"""Rounds that can be taken out: what is listed, what is found, and what a forged record cannot do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opentrans_cli.bundle.manifest import Step
from opentrans_cli.bundle.nested import masks_after
from opentrans_cli.bundle.rounds import (
    KEPT_BY_ROUND,
    at_round,
    available,
    find_round,
    recorded_counts,
    subnet_bytes,
    untrained,
    with_base,
)
from opentrans_cli.bundle.store import Bundle, open_bundle, write_bundle
from opentrans_cli.errors import BundleError, OptionError
from opentrans_cli.files.records import json_bytes
from opentrans_cli.files.tensorfile import read_tensors

Make = Callable[..., Any]
Nested = Callable[[str], Path]


@pytest.mark.parametrize(
    ("kind", "weights"),
    [
        ("trained", ["bundle", "bundle", "bundle"]),
        ("masks", [None, None, "bundle"]),
        ("untrained", ["base", "base", "bundle"]),
        ("bare", ["base", "base", "base"]),
    ],
)
def test_every_round_is_listed_with_exact_counts_and_the_place_of_its_weights(
    nested_bundle: Nested, kind: str, weights: list[str | None]
) -> None:
    bundle = open_bundle(nested_bundle(kind))
    rounds = bundle.rounds()
    assert rounds is not None
    found = available(bundle)
    assert [info.weights for info in found] == weights
    assert [info.last for info in found] == [False, False, True]
    for info in found:
        kept = sum(int(mask.sum()) for mask in masks_after(rounds, info.round).values())
        assert (info.kept, info.total) == (kept, bundle.manifest.total)
        assert info.sparsity == 1 - kept / info.total
    assert [round(info.sparsity, 3) for info in found] == [0.2, 0.5, 0.8]


def test_rounds_are_listed_without_reading_a_tensor(nested_bundle: Nested, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(nested_bundle("trained"), tmp_path / "b"))
    path = copy / "rounds.safetensors"
    path.write_bytes(b"x" * path.stat().st_size)
    assert available(open_bundle(copy)) == available(open_bundle(nested_bundle("trained")))


def test_rounds_nobody_recorded_are_counted(bundle: Bundle) -> None:
    """The tiny bundle's prune step has no counts."""
    rounds = bundle.rounds() or {}
    found = available(bundle)
    assert [info.kept for info in found] == [
        sum(int(mask.sum()) for mask in masks_after(rounds, number).values()) for number in (1, 2, 3)
    ]
    assert found[-1].kept == bundle.manifest.kept and found[-1].last


def test_a_bundle_without_rounds_has_its_own_sparsity_alone(tmp_path: Path, contents: Make) -> None:
    bundle = write_bundle(tmp_path / "b", contents(rounds=None))
    (info,) = available(bundle)
    assert info.last and info.kept == bundle.manifest.kept and info.weights == "bundle"
    with pytest.raises(OptionError, match=r"no round has this sparsity: 0\.1 .* alone, prune with --keep-rounds"):
        find_round(bundle, 0.1)


def test_a_sparsity_finds_the_round_within_half_a_thousandth_or_is_told_those_there_are(nested_bundle: Nested) -> None:
    bundle = open_bundle(nested_bundle("trained"))
    for asked, number in ((0.2, 1), (0.5004, 2), (0.4996, 2), (0.8, 3)):
        assert find_round(bundle, asked).round == number
    for asked in (0.501, 0.0, 1.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(OptionError, match=r"choose one of 0\.2, 0\.5, 0\.8") as caught:
            find_round(bundle, asked)
        assert "\n" not in str(caught.value)


def test_a_bundle_at_a_round_is_what_writing_that_round_would_give(
    tmp_path: Path, nested_bundle: Nested, contents: Make
) -> None:
    bundle = open_bundle(nested_bundle("trained"))
    info = find_round(bundle, 0.5)
    view = at_round(bundle, info, target=0.5)
    whole = contents(
        base=view.manifest.base,
        target_sparsity=0.5,
        masks=view.masks(),
        tower=view.tower(),
        steps=view.manifest.steps,
        rounds=view.rounds(),
        head=None,
        segmentor=None,
        alpha=None,
        reports={},
    )
    written = write_bundle(tmp_path / "b", whole)
    assert written.manifest.layers == view.manifest.layers
    assert written.manifest.achieved_sparsity == view.manifest.achieved_sparsity == info.sparsity
    assert view.digest == bundle.digest != written.digest
    again = available(written)
    assert [(i.round, i.kept, i.last) for i in again] == [(1, available(bundle)[0].kept, False), (2, info.kept, True)]
    stored = read_tensors(written.path / "weights.safetensors")
    masks = read_tensors(written.path / "mask.safetensors")
    assert subnet_bytes(bundle, info) == sum(a.nbytes for a in (*stored.values(), *masks.values()))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_values_from_the_base_are_those_the_bundle_would_have_stored(
    tmp_path: Path, contents: Make, dtype: str
) -> None:
    given = contents(dtype=dtype, round_weights={})
    rng = np.random.default_rng(3)
    dense = {
        name: rng.standard_normal(array.shape).astype(np.float32) if name.endswith("weight") else array
        for name, array in given.tower.items()
    }
    tower = {
        **dense,
        **{f"{layer}.weight": np.where(m, dense[f"{layer}.weight"], 0) for layer, m in given.masks.items()},
    }
    full = write_bundle(tmp_path / "full", replace(given, tower=tower))
    bare = write_bundle(tmp_path / "bare", replace(given, tower={}))
    completed = with_base(bare, dense)
    assert completed.has("weights.safetensors") and not bare.has("weights.safetensors")
    expected = full.tower()
    for name, array in completed.tower().items():
        assert array.tobytes() == expected[name].tobytes() and array.dtype == expected[name].dtype
    with pytest.raises(BundleError, match="is not in the base"):
        with_base(bare, {}).tower()


def _step(verb: str, **options: Any) -> Step:
    return Step(verb, options, None, {}, None, "sha256:" + "0" * 64, {})


def test_only_pruning_without_distillation_leaves_the_weights_of_the_base() -> None:
    plain = _step("prune", images=None)
    assert untrained((plain, _step("transfer"), _step("analyze"), _step("eval")))
    assert untrained((_step("prune", images="shapes", distill="none"),))
    assert not untrained(())
    for other in (_step("prune", images="shapes"), _step("prune"), _step("finetune"), _step("later-verb")):
        assert not untrained((plain, other))


FORGED: dict[str, Callable[[dict[str, list[int]]], Any]] = {
    "no counts": lambda metric: None,
    "text": lambda metric: "many",
    "a layer less": lambda metric: dict(list(metric.items())[1:]),
    "other lengths": lambda metric: {**metric, next(iter(metric)): [1]},
    "no list": lambda metric: {**metric, next(iter(metric)): 7},
    "fractions": lambda metric: {layer: [count + 0.5 for count in counts] for layer, counts in metric.items()},
    "growing": lambda metric: {layer: [0, *counts] for layer, counts in metric.items()},
    "another end": lambda metric: {layer: [count + 1 for count in counts] for layer, counts in metric.items()},
}


def test_a_record_that_does_not_fit_is_not_believed(nested_bundle: Nested, tmp_path: Path) -> None:
    bundle = open_bundle(shutil.copytree(nested_bundle("trained"), tmp_path / "b"))
    (step,) = bundle.manifest.steps
    sound = available(bundle)
    for name, forge in FORGED.items():
        forged = replace(step, metrics={KEPT_BY_ROUND: forge(step.metrics[KEPT_BY_ROUND])})
        (bundle.path / "manifest.json").write_bytes(json_bytes(replace(bundle.manifest, steps=(forged,)).to_json()))
        found = open_bundle(bundle.path)
        assert recorded_counts(found.manifest) is None and available(found) == sound, name


def test_counts_that_the_rounds_deny_are_told_when_they_are_used(nested_bundle: Nested, tmp_path: Path) -> None:
    bundle = open_bundle(shutil.copytree(nested_bundle("trained"), tmp_path / "b"))
    (step,) = bundle.manifest.steps
    counts = {layer: [kept[0], kept[2], kept[2]] for layer, kept in step.metrics[KEPT_BY_ROUND].items()}
    counts[next(iter(counts))][1] += 1
    forged = replace(step, metrics={KEPT_BY_ROUND: counts})
    (bundle.path / "manifest.json").write_bytes(json_bytes(replace(bundle.manifest, steps=(forged,)).to_json()))
    found = open_bundle(bundle.path)
    with pytest.raises(BundleError, match="rounds and manifest disagree: round 2"):
        at_round(found, available(found)[1])
