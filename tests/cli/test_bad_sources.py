"""Sources and bundles that are missing, damaged or foreign: one line each, and nothing is written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from opentrans_cli.clip.source import load_clip
from opentrans_cli.files.tensorfile import read_tensors, write_tensors

SHORT = ("--steps", 1, "--batch-size", 2, "--crop", 64, "--limit", 2)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole CLIP as a safetensors file: the embedded one."""
    path = tmp_path_factory.mktemp("checkpoint") / "clip.safetensors"
    save_file({name: value.contiguous() for name, value in load_clip("tiny").model.state_dict().items()}, path)
    return path


# Sources.


@pytest.mark.parametrize("command", ["prune", "eval", "analyze"])
@pytest.mark.parametrize("source", ["weights/none.safetensors", "./no-folder", "RN51", "hf://nobody/nothing"])
def test_a_source_that_is_nowhere(command: str, source: str, refused: Any, desk: Path) -> None:
    message = refused(command, source, *(("-o", desk / "b") if command == "prune" else ()))
    assert Path(source).name in message
    # A local file is read as it is, whatever it holds, so the one next move is the path.
    local = command == "analyze" and "://" not in source and "/" in source
    assert ("check the path" if local else "use `tiny`, a bundle folder, a local checkpoint") in message


@pytest.mark.parametrize("command", ["transfer", "finetune", "inspect", "verify"])
def test_a_bundle_that_is_nowhere(command: str, refused: Any, desk: Path) -> None:
    message = refused(command, desk / "none", *(("-o", desk / "b") if command in ("transfer", "finetune") else ()))
    assert message == f"no such bundle: '{desk / 'none'}'; check the path, or make one with `opentrans prune`"


def test_a_folder_that_is_neither_bundle_nor_checkpoint(refused: Any, desk: Path) -> None:
    assert f"neither a bundle nor an open_clip folder: {desk}" in refused("prune", desk, "-o", desk / "b")


def test_weights_that_cannot_be_downloaded(
    refused: Any, desk: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """OpenAI's weights, the default source, on a machine without a network: the line names what works offline."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for line in (("prune", "RN50-quickgelu:openai"), ("prune",)):
        message = refused(*line, "-o", desk / "b")
        assert message.startswith("weights cannot be downloaded: RN50-quickgelu:openai")
        assert "`tiny`" in message and "a local checkpoint (FILE or NAME:FILE)" in message


def test_an_unknown_tag_is_answered_with_known_ones(refused: Any, desk: Path) -> None:
    message = refused("prune", "RN50-quickgelu:opnai", "-o", desk / "b")
    assert "no weights 'opnai' for RN50-quickgelu" in message and "openai" in message


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_a_checkpoint_file_that_cannot_be_read(damage: str, refused: Any, desk: Path, checkpoint: Path) -> None:
    path, data = desk / "clip.safetensors", checkpoint.read_bytes()
    path.write_bytes({"truncated": data[: len(data) // 2], "text": b"hello", "empty": b""}[damage])
    told = {"truncated": "cannot read the checkpoint", "text": "not a checkpoint but something else"}
    message = refused("prune", path, "-o", desk / "b")
    assert message.startswith(f"{told.get(damage, 'the checkpoint is empty')}: {path}")


def test_a_pickle_that_wants_to_run_code_is_not_run(refused: Any, desk: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(desk / "pwned"),)

    torch.save({"state_dict": Evil()}, desk / "evil.pt")
    assert "no tensors in the checkpoint" in refused("prune", desk / "evil.pt", "-o", desk / "b")
    assert not (desk / "pwned").exists()


def test_a_checkpoint_with_nan_weights(refused: Any, desk: Path, checkpoint: Path) -> None:
    state = load_file(checkpoint)
    state["visual.layer1.0.conv1.weight"][0, 0] = float("nan")
    save_file(state, desk / "nan.safetensors")
    for command in ("prune", "analyze", "eval"):
        message = refused(command, desk / "nan.safetensors", *(("-o", desk / "b") if command == "prune" else ()))
        if command == "analyze":  # reads layer by layer
            assert "NaN or infinite values: layer layer1.0.conv1" in message
        else:
            assert "NaN or infinite values: 'visual.layer1.0.conv1.weight'" in message
            assert str(desk / "nan.safetensors") in message


def test_a_checkpoint_of_another_architecture(refused: Any, desk: Path, checkpoint: Path) -> None:
    message = refused("prune", f"RN50:{checkpoint}", "-o", desk / "b")
    assert message.startswith(f"weights do not fit the architecture: {checkpoint}")
    assert len(message) < 600


def test_a_text_tower_that_does_not_belong(refused: Any, desk: Path, bundle: Path, checkpoint: Path) -> None:
    state = load_file(checkpoint)
    state["visual.conv1.weight"] *= 2
    save_file(state, desk / "other.safetensors")
    message = refused("eval", bundle, "--limit", 1, "--base", desk / "other.safetensors")
    assert message.startswith(f"not the CLIP this bundle was cut from: {desk / 'other.safetensors'}")
    assert "--base" in message


# Damaged bundles.


def truncate(folder: Path) -> str:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    return "weights.safetensors"


def flip_weight(folder: Path) -> str:
    path = folder / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    return "weights.safetensors does not match its hash"


def flip_mask(folder: Path) -> str:
    path = folder / "mask.safetensors"
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    return "mask.safetensors does not match its hash"


def nan_weight(folder: Path) -> str:
    """NaN behind a valid hash: only reading the values finds it."""
    path = folder / "weights.safetensors"
    tensors = dict(read_tensors(path))
    tensors["bn1.weight"] = np.full_like(tensors["bn1.weight"], np.nan)
    write_tensors(path, tensors)
    edit_manifest(folder, lambda manifest: manifest["files"].__setitem__(slice(None), redescribe(folder, manifest)))
    return "NaN or infinite values: 'bn1.weight'"


def redescribe(folder: Path, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    data = {entry["name"]: (folder / entry["name"]).read_bytes() for entry in manifest["files"]}
    return [{"name": name, "sha256": sha256(raw).hexdigest(), "bytes": len(raw)} for name, raw in data.items()]


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def newer_version(folder: Path) -> str:
    edit_manifest(folder, lambda manifest: manifest.update(version=2))
    return "bundle of version 2, this program reads 1"


def no_json(folder: Path) -> str:
    (folder / "manifest.json").write_text("{")
    return "not readable as JSON"


def missing_file(folder: Path) -> str:
    (folder / "mask.safetensors").unlink()
    return "file of the bundle is missing"


def foreign_pickle(folder: Path) -> str:
    (folder / "model.pkl").write_bytes(b"cos\nsystem\n")
    return "undeclared file in the bundle"


DAMAGES = [truncate, flip_weight, flip_mask, nan_weight, newer_version, no_json, missing_file, foreign_pickle]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_bundle_is_refused_by_every_command_that_reads_its_tensors(
    damage: Callable[[Path], str], refused: Any, desk: Path, bundle: Path
) -> None:
    expected = damage(bundle)
    for line in (
        ("prune", bundle, "-s", 0.9, "-o", desk / "b"),
        ("analyze", bundle),
        ("transfer", bundle, "-o", desk / "b"),
        ("finetune", bundle, *SHORT, "-o", desk / "b"),
        ("eval", bundle, "--limit", 1),
    ):
        assert expected in refused(*line)
    assert f"bundle is not valid: {bundle}" in refused("verify", bundle)


def test_a_framework_named_in_a_manifest_is_only_looked_up(refused: Any, desk: Path, segmentor: Path) -> None:
    edit_manifest(segmentor, lambda manifest: manifest["segmentor"].update(framework="os.system"))
    message = refused("eval", segmentor, "--limit", 1, code=2)
    assert message.startswith("unknown framework: 'os.system'; choose one of deeplabv3")
