"""transfer: the receipt as JSON, the dry run, and options of frameworks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.clip.source import load_clip
from opentrans_cli.frameworks import FRAMEWORKS

every_framework = pytest.mark.parametrize("to", FRAMEWORKS.names())


@every_framework
def test_json_is_the_receipt_of_the_contract_with_nothing_unmatched(
    to: str, run_cli: Any, desk: Path, tiny_bundle: Path
) -> None:
    document = json.loads(run_cli("transfer", tiny_bundle, "--to", to, "-o", desk / "t", "--json").stdout)
    check_document(document, "transfer_receipt")
    assert document["framework"] == to and document["unmatched"] == []
    kept = {layer.name: layer.kept for layer in open_bundle(tiny_bundle).manifest.layers}
    told = {key["source"]: key["kept"] for key in document["keys"] if key["kept"] is not None}
    assert told == {f"{layer}.weight": count for layer, count in kept.items()}
    assert json.loads(open_bundle(desk / "t").read("reports/transfer.json")) == document


@every_framework
def test_a_dry_run_gives_the_same_receipt_and_writes_nothing(
    to: str, run_cli: Any, desk: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    dry = run_cli("transfer", bundle, "--to", to, "--dry-run", "--json")
    assert dry.exit_code == 0 and not list(desk.iterdir())
    assert before == {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    assert run_cli("transfer", bundle, "--to", to, "-o", desk / "t", "--json").stdout == dry.stdout


def test_options_of_the_framework_are_resolved_and_recorded(run_cli: Any, desk: Path, tiny_bundle: Path) -> None:
    result = run_cli("transfer", tiny_bundle, "-o", desk / "t", "--option", "output_stride=8", "--option", "width=32")
    assert result.exit_code == 0
    segmentor = open_bundle(desk / "t").manifest.segmentor
    assert segmentor is not None
    assert (segmentor.options["output_stride"], segmentor.options["width"]) == (8, 32)


def test_out_and_dry_run_exclude_each_other(run_cli: Any, desk: Path, tiny_bundle: Path) -> None:
    for line in (("-o", desk / "t", "--dry-run"), ()):
        result = run_cli("transfer", tiny_bundle, *line)
        assert (result.exit_code, result.stdout) == (2, "") and "give exactly one" in result.stderr
    assert not list(desk.iterdir())


def test_an_open_clip_folder_is_written_with_its_receipt_and_is_a_source_itself(
    run_cli: Any, desk: Path, tiny_bundle: Path
) -> None:
    document = json.loads(run_cli("transfer", tiny_bundle, "--to", "open-clip", "-o", desk / "clip", "--json").stdout)
    check_document(document, "transfer_receipt")
    assert document == json.loads((desk / "clip" / "transfer.json").read_text())
    assert (document["framework"], document["unmatched"], document["compact"]) == ("open-clip", [], None)
    piped = run_cli("transfer", tiny_bundle, "--to", "open-clip", "-o", desk / "again")
    assert piped.stdout == f"{desk / 'again'}\n"
    assert load_clip(str(desk / "clip")).model_cfg == load_clip("tiny").model_cfg


def test_a_dry_run_to_open_clip_writes_nothing(run_cli: Any, desk: Path, tiny_bundle: Path) -> None:
    dry = json.loads(run_cli("transfer", tiny_bundle, "--to", "open-clip", "--dry-run", "--json").stdout)
    assert not list(desk.iterdir())
    wet = json.loads(run_cli("transfer", tiny_bundle, "--to", "open-clip", "-o", desk / "clip", "--json").stdout)
    assert dry == wet


def test_options_of_another_target_are_wrong_usage(refused: Any, desk: Path, tiny_bundle: Path) -> None:
    file = ("--checkpoint", desk / "c.safetensors")
    for given, option, told in (
        (("--to", "maskclip"), ("--compact",), "of --to open-clip alone: --compact; leave it out"),
        (("--to", "onnx", "-w", "a"), ("--compact",), "of --to open-clip alone: --compact; leave it out"),
        (("--to", "open-clip"), ("--option", "a=8"), "transfer --to open-clip has no such option: a; it has compact"),
        ((), ("--what", "mask"), "of --checkpoint alone: --what; leave it out"),
        ((), ("--under", "a."), "of --checkpoint alone: --under; leave it out"),
        ((), ("--allow-missing", "conv2"), "of --checkpoint alone: --allow-missing; leave it out"),
        ((), ("--words", "a,b"), "of --to onnx alone: --words; leave it out"),
        (file, ("--option", "a=8"), "transfer --checkpoint has no such option: a; it has what, under, allow_missing"),
        (file, ("--compact",), "of --to open-clip alone: --compact; leave it out"),
        (file, ("--resolution", 64), "of --to onnx alone: --resolution; leave it out"),
    ):
        assert refused("transfer", tiny_bundle, *given, *option, "-o", desk / "t", code=2) == told


def test_only_a_bundle_pruned_by_channels_can_be_compact(refused: Any, desk: Path, tiny_bundle: Path) -> None:
    message = refused("transfer", tiny_bundle, "--to", "open-clip", "--compact", "-o", desk / "t")
    assert message.startswith("only whole channels can be left out: ") and "prune with --pattern channel" in message


def test_an_earlier_round_is_transferred_with_its_own_counts(
    run_cli: Any, desk: Path, nested_bundle: Callable[[str], Path]
) -> None:
    line = ("transfer", nested_bundle("trained"), "--to", "maskclip", "--at-sparsity", 0.5, "-o", desk / "t")
    document = json.loads(run_cli(*line, "--json").stdout)
    manifest = open_bundle(desk / "t").manifest
    assert manifest.target_sparsity == 0.5 and abs(manifest.achieved_sparsity - 0.5) < 1e-3
    assert sum(key["kept"] for key in document["keys"] if key["kept"] is not None) == manifest.kept
    assert manifest.steps[-1].options["at_sparsity"] == 0.5


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of the tiny tower under detectron2's names, with other values."""
    import torch
    from safetensors.torch import save_file

    from opentrans_cli.clip.key_tables import find_table

    layout, path = find_table("detectron2").layout, tmp_path / "in.safetensors"
    torch.manual_seed(0)
    tower = load_clip("tiny").model.visual.state_dict()
    places = {name: layout.places(name) for name in tower}
    state = {f"backbone.{place[0].key}": torch.rand(tower[name].shape) for name, place in places.items() if place}
    save_file(state | {"head.weight": torch.rand(2, 3)}, path)
    return path


def test_a_checkpoint_gets_the_subnet_and_the_receipt_lies_beside_it(
    run_cli: Any, desk: Path, tiny_bundle: Path, checkpoint: Path
) -> None:
    line = ("transfer", tiny_bundle, "--checkpoint", checkpoint, "-o")
    document = json.loads(run_cli(*line, desk / "a.safetensors", "--json").stdout)
    check_document(document, "transfer_receipt")
    assert document == json.loads((desk / "a.safetensors.receipt.json").read_text())
    assert (document["framework"], document["prefix"], document["what"]) == ("detectron2", "backbone.", "mask")
    piped = run_cli(*line, desk / "b.safetensors", "--what", "weights", "--to", "detectron2")
    assert piped.stdout == f"{desk / 'b.safetensors'}\n"
    assert "parity: the trunk's features differ by at most " in piped.stderr
    assert "read again: " in piped.stderr and "bit for bit" in piped.stderr


def test_a_dry_run_prints_every_key_and_fails_where_a_layer_has_no_place(
    run_cli: Any, desk: Path, tiny_bundle: Path, checkpoint: Path
) -> None:
    from safetensors.torch import load_file, save_file

    line = ("transfer", tiny_bundle, "--checkpoint", checkpoint, "--dry-run")
    whole = run_cli(*line)
    assert whole.exit_code == 0 and "none unmatched" in whole.stdout
    assert all(f"{layer.name}.weight" in whole.stdout for layer in open_bundle(tiny_bundle).manifest.layers)
    state = load_file(checkpoint)
    del state["backbone.stem.conv2.weight"]
    save_file(state, checkpoint)
    lacking = run_cli(*line, "--json")
    assert lacking.exit_code == 1 and json.loads(lacking.stdout)["unmatched"] == ["conv2"]
    assert lacking.stderr.splitlines()[-1].startswith(
        "opentrans: error: layers without a place in the checkpoint: 'conv2'; "
    )
    assert run_cli(*line, "--allow-missing", "conv2").exit_code == 0
    assert not list(desk.iterdir())


def test_into_a_pipe_no_key_is_broken_however_long_the_names_are(
    run_cli: Any, desk: Path, tiny_bundle: Path, checkpoint: Path
) -> None:
    from safetensors.torch import load_file, save_file

    state = {f"model.module.backbone.clip_model.visual.{key}": tensor for key, tensor in load_file(checkpoint).items()}
    save_file(state, checkpoint)
    told = run_cli("transfer", tiny_bundle, "--checkpoint", checkpoint, "--dry-run").stdout
    document = json.loads(run_cli("transfer", tiny_bundle, "--checkpoint", checkpoint, "--dry-run", "--json").stdout)
    targets = {key["target"] for key in document["keys"] if key["target"]}
    assert targets and targets <= set(told.split())


def test_a_layer_without_a_place_stops_the_transfer_in_one_line(
    refused: Any, desk: Path, tiny_bundle: Path, checkpoint: Path
) -> None:
    line = ("transfer", tiny_bundle, "--checkpoint", checkpoint)
    message = refused(*line, "--to", "timm", "-o", desk / "o.safetensors")
    assert message.startswith("the bundle's tower is not in the checkpoint: no layer is there by the names of timm")
    message = refused(*line, "--to", "caffe", "-o", desk / "o.safetensors", code=2)
    assert message.startswith("unknown key table: 'caffe'; choose one of fcclip, ")
    message = refused(*line, "--under", "student.", "-o", desk / "o.safetensors")
    assert "no layer is there under 'student.'" in message
    assert refused(*line, "-o", desk / "o.pth").startswith("no pickle is written: .pth from ")
