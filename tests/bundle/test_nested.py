"""Earlier rounds: nested masks, towers that come back as they were given, and what a snapshot may not be."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opentrans_cli.bundle.nested import kept_after, last_round, masks_after, rounds_until, saved_rounds
from opentrans_cli.bundle.store import Bundle, BundleContents, open_bundle, write_bundle
from opentrans_cli.bundle.verify.verify import verify_bundle
from opentrans_cli.errors import BundleError, MaskError
from opentrans_cli.files.tensorfile import tensor_headers, to_bfloat16_bits

Make = Callable[..., Any]
FILE = "round_weights.safetensors"


def towers(given: BundleContents, *numbers: int, seed: int = 5) -> dict[int, dict[str, np.ndarray]]:
    """A tower for each round: all weights it kept are new, the BatchNorm moves, its counter stands still."""
    rng = np.random.default_rng(seed)
    made = {}
    for number in numbers:
        tower = {name: np.array(array) for name, array in given.tower.items()}
        for layer, mask in masks_after(given.rounds or {}, number).items():
            tower[f"{layer}.weight"] = np.where(mask, rng.standard_normal(mask.shape), 0).astype(np.float32)
        tower["bn1.running_var"] = np.float32(rng.random(3))
        made[number] = tower
    return made


@pytest.fixture
def nested(tmp_path: Path, contents: Make) -> Bundle:
    """A bundle of three rounds with the towers of the first two."""
    given = contents()
    return write_bundle(tmp_path / "nested", replace(given, round_weights=towers(given, 1, 2)))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=40))
def test_masks_are_nested_and_end_in_the_last_one(numbers: list[int]) -> None:
    rounds = {"layer": np.uint8(numbers)}
    masks = [masks_after(rounds, number)["layer"] for number in range(10)]
    assert masks[0].all()
    for before, after in pairwise(masks):
        assert not (after & ~before).any()
    end = last_round(rounds)
    assert np.array_equal(masks[end], rounds["layer"] == 0)
    assert kept_after(rounds, 9)["layer"] == [int(mask.sum()) for mask in masks[1:]]
    for number in range(1, 10):
        cut = rounds_until(rounds, number)
        assert np.array_equal(cut["layer"] == 0, masks[number])
        for earlier in range(1, number + 1):
            assert np.array_equal(masks_after(cut, earlier)["layer"], masks[earlier])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_tower_of_an_earlier_round_comes_back_in_the_bundles_dtype(
    tmp_path: Path, contents: Make, dtype: str
) -> None:
    given = contents(dtype=dtype)
    kept = towers(given, 1, 2)
    bundle = write_bundle(tmp_path / "b", replace(given, round_weights=kept))
    assert bundle.saved_rounds() == (1, 2)
    for number, tower in kept.items():
        found = bundle.round_tower(number)
        assert set(found) == set(tower)
        assert found["bn1.running_var"].tobytes() == tower["bn1.running_var"].tobytes()
        for layer in given.masks:
            weight = tower[f"{layer}.weight"]
            rounded = {
                "float32": weight,
                "float16": weight.astype(np.float16).astype(np.float32),
                "bfloat16": (to_bfloat16_bits(weight).astype(np.uint32) << 16).view(np.float32),
            }[dtype]
            assert np.array_equal(found[f"{layer}.weight"], rounded)
    stored = tensor_headers(bundle.path / FILE)
    assert {header.dtype for name, header in stored.items() if name.endswith("conv2.weight")} == {dtype}


def test_what_did_not_change_is_not_stored_again(nested: Bundle, contents: Make) -> None:
    stored = tensor_headers(nested.path / FILE)
    assert "1/bn1.num_batches_tracked" not in stored and "1/bn1.running_var" in stored
    assert nested.round_tower(1)["bn1.num_batches_tracked"] == contents().tower["bn1.num_batches_tracked"]


def test_a_zero_that_changed_its_sign_is_stored(tmp_path: Path, contents: Make) -> None:
    given = contents(tower={**contents().tower, "bn1.running_var": np.zeros(3, np.float32)})
    tower = {**towers(given, 2)[2], "bn1.running_var": np.float32([0, -0.0, 0])}
    bundle = write_bundle(tmp_path / "b", replace(given, round_weights={2: tower}))
    assert np.signbit(bundle.round_tower(2)["bn1.running_var"]).tolist() == [False, True, False]


def test_the_towers_of_earlier_rounds_are_part_of_what_a_bundle_is(
    tmp_path: Path, nested: Bundle, contents: Make
) -> None:
    given = contents()
    other = write_bundle(tmp_path / "o", replace(given, round_weights=towers(given, 1, 2, seed=6)))
    without = write_bundle(tmp_path / "w", given)
    assert len({nested.digest, other.digest, without.digest}) == 3
    assert without.saved_rounds() == ()
    with pytest.raises(BundleError, match="no weights of round 1"):
        without.round_tower(1)


def test_towers_made_on_demand_are_asked_for_once_each(tmp_path: Path, contents: Make) -> None:
    given, asked = contents(), []

    class Lazy(dict[int, Any]):
        def __getitem__(self, number: int) -> Any:
            asked.append(number)
            return towers(given, number)[number]

    write_bundle(tmp_path / "b", replace(given, round_weights=Lazy({2: None, 1: None})))
    assert asked == [1, 2]


def test_a_round_after_which_nothing_was_removed_has_the_masks_of_the_last_and_is_left_out(
    tmp_path: Path, contents: Make
) -> None:
    given = contents()
    kept = towers(given, 1, 2, 3, 4)
    bundle = write_bundle(tmp_path / "b", replace(given, round_weights=kept))
    assert bundle.saved_rounds() == (1, 2)
    alone = write_bundle(tmp_path / "alone", replace(given, round_weights={3: kept[3]}))
    assert not alone.has(FILE) and alone.digest == write_bundle(tmp_path / "none", given).digest


def test_names_of_rounds_run_from_1_to_254() -> None:
    good = ["1/a.weight", "9/a", "10/a", "99/a", "100/a", "199/a", "254/b"]
    assert saved_rounds([*good, "0/a", "255/a", "01/a", "a", "/a", "300/a", "1000/a", "3/"]) == (
        1,
        9,
        10,
        99,
        100,
        199,
        254,
    )


def _outside(tower: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**tower, "conv2.weight": np.ones((3, 3), np.float32)}


LAWS: dict[str, tuple[int, Callable[[dict[str, np.ndarray]], dict[str, Any]], type[Exception], str]] = {
    "no round": (0, lambda t: t, MaskError, "not a round: 0; rounds count from 1"),
    "weight outside": (2, _outside, MaskError, "in the tower of round 2, pruned weights are not zero: layer 'conv2'"),
    "NaN": (1, lambda t: {**t, "bn1.running_var": np.float32([np.nan] * 3)}, BundleError, "round 1, tensor holds NaN"),
    "less": (1, lambda t: {n: a for n, a in t.items() if "bn1" not in n}, MaskError, "have different tensors: 'bn1"),
    "more": (1, lambda t: {**t, "extra": np.ones(1)}, MaskError, "have different tensors: 'extra' after round 1"),
    "shape": (1, lambda t: {**t, "bn1.running_var": np.ones(4, np.float32)}, MaskError, "changed its shape or type"),
}


def test_a_snapshot_that_breaks_a_law_is_told_and_nothing_is_written(tmp_path: Path, contents: Make) -> None:
    given = contents(rounds=_three_rounds(contents()))
    for name, (number, change, kind, message) in LAWS.items():
        tower = change(towers(given, number or 2).popitem()[1])
        with pytest.raises(kind, match=message) as caught:
            write_bundle(tmp_path / "b", replace(given, round_weights={number: tower}))
        assert "\n" not in str(caught.value) and not list(tmp_path.iterdir()), name


def _three_rounds(given: BundleContents) -> dict[str, np.ndarray]:
    """Every layer loses weights in each of three rounds."""
    found = {}
    for layer, mask in given.masks.items():
        numbers = np.zeros(mask.shape, np.uint8)
        numbers[~mask] = np.arange(int((~mask).sum())) % 3 + 1
        found[layer] = numbers
    return found


def test_snapshots_without_the_rounds_or_the_last_tower_are_a_programming_mistake(
    tmp_path: Path, contents: Make
) -> None:
    given = contents()
    for changes in ({"rounds": None}, {"tower": {}}):
        with pytest.raises(ValueError, match="come with the rounds"):
            write_bundle(tmp_path / "b", replace(given, round_weights=towers(given, 1), **changes))


def test_a_manifest_that_declares_snapshots_alone_is_refused(nested: Bundle) -> None:
    path = nested.path / "manifest.json"
    text = path.read_text()
    for name in ("weights.safetensors", "rounds.safetensors"):
        document = json.loads(text)
        document["files"] = [entry for entry in document["files"] if entry["name"] != name]
        path.write_text(json.dumps(document))
        with pytest.raises(BundleError, match=f"'round_weights.safetensors' without '{name}'"):
            open_bundle(nested.path)


def test_a_sound_bundle_with_snapshots_passes_every_check(nested: Bundle) -> None:
    checks = {check.name: check for check in verify_bundle(nested.path)}
    assert all(check.ok for check in checks.values())
    assert checks["round weights"].detail.startswith("towers of 2 earlier rounds")
