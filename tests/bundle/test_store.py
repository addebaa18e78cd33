"""Bundles on disk: round trips, stored dtypes, targets, identity and measurements."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opentrans_cli.bundle.store import Bundle, BundleContents, add_file, add_files, open_bundle, write_bundle
from opentrans_cli.errors import BundleError, OutputError
from opentrans_cli.files.tensorfile import read_tensors, to_bfloat16_bits

Make = Callable[..., Any]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_everything_written_comes_back(bundle: Bundle, contents: Make) -> None:
    given: BundleContents = contents()
    for layer, mask in bundle.masks().items():
        assert np.array_equal(mask, given.masks[layer])
    tower = bundle.tower()
    assert set(tower) == set(given.tower)
    for name, array in tower.items():
        assert array.dtype == given.tower[name].dtype and array.tobytes() == given.tower[name].tobytes()
    rounds, head, alpha = bundle.rounds(), bundle.head(), bundle.alpha()
    assert rounds is not None and head is not None and alpha is not None
    assert all(np.array_equal(rounds[layer], given.rounds[layer]) for layer in given.masks)  # type: ignore[index]
    assert np.array_equal(head["decode.weight"], given.head["decode.weight"])  # type: ignore[index]
    assert alpha[0]["conv2"].tolist() == [0.5, 1.5] and alpha[1] == {"estimator": "xmin_peak"}
    assert bundle.read("reports/eval.json") == b'{"miou": 0.5}\n'
    assert bundle.manifest.base == given.base and bundle.manifest.steps == given.steps
    assert bundle.manifest.segmentor == given.segmentor


def test_a_kept_negative_zero_keeps_its_sign(bundle: Bundle) -> None:
    assert np.signbit(bundle.tower()["conv2.weight"][0, 0])


def test_negative_zeros_left_by_multiplying_with_the_mask_are_allowed(tmp_path: Path, contents: Make) -> None:
    given = contents()
    weight = np.where(given.masks["conv2"], given.tower["conv2.weight"], np.float32(-0.0))
    written = write_bundle(tmp_path / "b", replace(given, tower={**given.tower, "conv2.weight": weight}))
    assert np.array_equal(written.tower()["conv2.weight"], weight)


@pytest.mark.parametrize(("dtype", "bytes_per_value"), [("float32", 4), ("float16", 2), ("bfloat16", 2)])
def test_kept_values_are_stored_in_the_chosen_dtype_and_the_rest_as_it_is(
    tmp_path: Path, contents: Make, dtype: str, bytes_per_value: int
) -> None:
    given = contents(dtype=dtype)
    bundle = write_bundle(tmp_path / "b", given)
    tower = bundle.tower()
    stored = read_tensors(bundle.path / "weights.safetensors")
    assert stored["bn1.running_var"].tobytes() == given.tower["bn1.running_var"].tobytes()
    for layer, mask in given.masks.items():
        weight = given.tower[f"{layer}.weight"]
        rounded = {
            "float32": weight,
            "float16": weight.astype(np.float16).astype(np.float32),
            "bfloat16": (to_bfloat16_bits(weight).astype(np.uint32) << 16).view(np.float32),
        }[dtype]
        assert np.array_equal(tower[f"{layer}.weight"], rounded) and tower[f"{layer}.weight"].dtype == np.float32
        assert stored[f"{layer}.weight"].shape == (mask.sum(),)
    assert {entry.dtype for entry in bundle.manifest.layers} == {dtype}
    kept = bundle.manifest.kept * (4 - bytes_per_value)
    full = write_bundle(tmp_path / "full", contents())
    sizes = [b.path.joinpath("weights.safetensors").stat().st_size for b in (full, bundle)]
    assert abs(sizes[0] - sizes[1] - kept) <= 8  # the header is padded to eight bytes


def test_the_same_contents_give_the_same_bytes(tmp_path: Path, contents: Make) -> None:
    given = contents()
    turned = replace(
        given,
        masks=dict(reversed(given.masks.items())),
        tower={name: np.asarray(array, order="F") for name, array in reversed(given.tower.items())},
        reports=dict(reversed(given.reports.items())),
    )
    write_bundle(tmp_path / "one", given)
    write_bundle(tmp_path / "two", turned)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


def test_a_mask_only_bundle_says_where_its_weights_are(tmp_path: Path, contents: Make) -> None:
    bundle = write_bundle(tmp_path / "b", contents(tower={}, rounds=None, head=None, segmentor=None, alpha=None))
    assert not bundle.has("weights.safetensors")
    assert set(bundle.masks()) == {"conv2", "layer1.0.conv1"}
    assert bundle.rounds() is None and bundle.head() is None and bundle.alpha() is None
    with pytest.raises(BundleError, match=r"mask but no weights.*apply it to its base, 'tiny'"):
        bundle.tower()


@pytest.mark.parametrize("kept", [False, True])
def test_nothing_pruned_and_everything_pruned_are_bundles_too(tmp_path: Path, contents: Make, kept: bool) -> None:
    masks = {"fc": np.full((3, 3), kept)}
    tower = {"fc.weight": np.full((3, 3), 2.0 if kept else 0.0, np.float32)}
    bundle = write_bundle(tmp_path / "b", contents(masks=masks, tower=tower, rounds=None))
    assert bundle.manifest.achieved_sparsity == (0 if kept else 1)
    assert np.array_equal(bundle.tower()["fc.weight"], tower["fc.weight"])


# --- targets


def test_an_existing_target_is_refused_without_force_and_replaced_with_it(tmp_path: Path, contents: Make) -> None:
    target = tmp_path / "b"
    old = write_bundle(target, contents())
    with pytest.raises(OutputError, match=r"already exists.*--force"):
        write_bundle(target, contents(1))
    assert open_bundle(target).digest == old.digest
    new = write_bundle(target, contents(1, alpha=None), force=True)
    assert new.digest != old.digest and not (target / "alpha.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_force_replaces_a_damaged_bundle_and_an_empty_folder(tmp_path: Path, contents: Make) -> None:
    target = tmp_path / "b"
    target.mkdir()
    write_bundle(target, contents(), force=True)
    (target / "weights.safetensors").unlink()
    write_bundle(target, contents(), force=True)
    assert open_bundle(target).tower().keys() == contents().tower.keys()


def test_force_never_deletes_a_folder_that_is_no_bundle(tmp_path: Path, contents: Make) -> None:
    for name in ("thesis.txt", "manifest.json"):
        target = tmp_path / f"with {name}"
        target.mkdir()
        (target / name).write_text('{"manifest_version": 3}')
        with pytest.raises(OutputError, match="holds a file that this command did not write"):
            write_bundle(target, contents(), force=True)
        assert (target / name).exists()


def test_force_never_deletes_foreign_files_inside_a_bundle_nor_a_plain_file(bundle: Bundle, contents: Make) -> None:
    (bundle.path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds a file that this command did not write: .*notes.txt"):
        write_bundle(bundle.path, contents(1), force=True)
    with pytest.raises(OutputError, match="not a folder"):
        write_bundle(bundle.path / "notes.txt", contents(1), force=True)
    assert (bundle.path / "notes.txt").read_text() == "mine"


def test_a_link_to_a_folder_is_followed_and_stays_a_link(tmp_path: Path, bundle: Bundle, contents: Make) -> None:
    link = tmp_path / "link"
    link.symlink_to(bundle.path)
    write_bundle(link, contents(1), force=True)
    assert link.is_symlink() and open_bundle(bundle.path).digest == open_bundle(link).digest != bundle.digest


# --- identity and measuring


def test_measuring_keeps_the_digest_and_records_the_step_with_its_parent(bundle: Bundle, step: Make) -> None:
    measured = add_file(bundle, "reports/eval-2.json", b"{}", step=step("eval"))
    measured = add_file(measured, "alpha.safetensors", ({"a": np.float64([1])}, {"k": 1}), step=step("analyze"))
    assert measured.digest == bundle.digest
    assert [(s.verb, s.parent) for s in measured.manifest.steps] == [
        ("prune", None),
        ("eval", bundle.digest),
        ("analyze", bundle.digest),
    ]
    assert measured.alpha() is not None and measured.alpha()[1] == {"k": 1}  # type: ignore[index]
    assert open_bundle(bundle.path).manifest == measured.manifest


def test_several_files_are_one_measurement_and_all_or_none_are_added(bundle: Bundle, step: Make) -> None:
    before = snapshot(bundle.path)
    with pytest.raises(BundleError, match="not a PNG"):
        add_files(bundle, {"reports/c.json": b"{}", "reports/c.png": b"GIF89a"}, step=step("eval"))
    assert snapshot(bundle.path) == before
    files: dict[str, Any] = {"reports/c.json": b"{}", "reports/c.png": b"\x89PNG\r\n\x1a\n"}
    measured = add_files(bundle, files, step=step("eval"))
    assert {name: measured.read(name) for name in files} == files
    assert [s.verb for s in measured.manifest.steps] == ["prune", "eval"] and measured.digest == bundle.digest
    assert not list(bundle.path.rglob(".*"))


def test_every_change_of_the_tensors_changes_the_digest(tmp_path: Path, contents: Make) -> None:
    changes: list[dict[str, Any]] = [{}, {"dtype": "float16"}, {"rounds": None}, {"head": None}]
    assert len({write_bundle(tmp_path / str(i), contents(**c)).digest for i, c in enumerate(changes)}) == 4


def test_two_writers_at_once_lose_nothing(bundle: Bundle, step: Make) -> None:
    names = [f"reports/r{index}.json" for index in range(4)]
    writers = [
        threading.Thread(target=add_file, args=(bundle, name, b"{}"), kwargs={"step": step("eval")}) for name in names
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    final = open_bundle(bundle.path)
    assert all(final.has(name) for name in names) and len(final.manifest.steps) == 5


def test_only_measurements_can_be_added(bundle: Bundle, step: Make) -> None:
    before = snapshot(bundle.path)
    with pytest.raises(ValueError, match="other tensors make a new bundle"):
        add_file(bundle, "mask.safetensors", ({}, {}), step=step("eval"))
    for name in ("weights.safetensors", "alpha.safetensors", "manifest.json", "reports/x.json"):
        with pytest.raises(BundleError):
            add_file(bundle, name, b"nan?", step=step("eval"))
    assert snapshot(bundle.path) == before


def test_a_measurement_of_a_bundle_that_was_replaced_is_refused(bundle: Bundle, contents: Make, step: Make) -> None:
    write_bundle(bundle.path, contents(1), force=True)
    with pytest.raises(BundleError, match="replaced meanwhile"):
        add_file(bundle, "reports/x.json", b"{}", step=step("eval"))


def test_size_is_the_sum_of_all_files(bundle: Bundle) -> None:
    assert bundle.size_bytes == sum(len(data) for data in snapshot(bundle.path).values())
