"""Every kind of file is read by every command that takes a checkpoint, and gives the same tower."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from torch import Tensor

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.checkpoints.reader import open_checkpoint
from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.frameworks import FRAMEWORKS

SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
WRITE_BACK = {"safetensors": "safetensors", "torch": "pth", "old torch": "pth", "TorchScript": "pt", "strangers": "pth"}
"""Kinds that `transfer --checkpoint` copies in their own format."""


@pytest.fixture(scope="module")
def clip() -> dict[str, Tensor]:
    """A CLIP whose residual branches are alive, by open_clip's names."""
    torch.manual_seed(0)
    model = build_clip(SMALL)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    state["visual.layer1.0.conv1.weight"][:8] = 0  # so that something is pruned
    return state


@pytest.fixture(scope="module")
def segmentor(clip: dict[str, Tensor]) -> dict[str, Tensor]:
    """A DeepLabV3 around its tower."""
    model: Any = build_clip(SMALL)
    model.load_state_dict(clip)
    built = FRAMEWORKS.load("deeplabv3").build(model.visual, {"width": 16}).eval()
    torch.nn.init.normal_(built.embedding.weight)
    return {name: tensor.detach() for name, tensor in built.state_dict().items()}


@pytest.fixture(scope="module")
def desk(clip: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory, run_cli: Any) -> Path:
    """Beside the files: a folder of the CLIP, a bundle of it, words with embeddings and a picture."""
    desk = tmp_path_factory.mktemp("desk")
    (desk / "base").mkdir()
    torch.save(clip, desk / "base" / "open_clip_pytorch_model.bin")
    (desk / "base" / "open_clip_config.json").write_text(json.dumps({"model_cfg": SMALL}))
    for out, more in (("subnet", ()), ("masks", ("--mask-only",))):
        assert run_cli("prune", desk / "base", "--sparsity", 0.5, *more, "--out", desk / out).exit_code == 0
    classes = [{"name": name, "synonyms": [], "seen": True} for name in ("grass", "sky")]
    words = {"embeddings": np.random.default_rng(0).standard_normal((2, 16)).astype(np.float16)}
    save_file(words, desk / "words.safetensors", metadata={"opentrans": json.dumps({"classes": classes})})
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(desk / "picture.png")
    return desk


Say = Callable[..., str]
Command = Callable[[Path, Path, Say], Any]


def tower_of(bundle: Path) -> dict[str, bytes]:
    opened = open_bundle(bundle)
    return {name: value.tobytes() for name, value in opened.tower().items()} | {"base": opened.manifest.base.digest}


def pruned(file: Path, desk: Path, say: Say) -> Any:
    say("prune", file, "--sparsity", 0.5, "--out", file.with_name("bundle"))
    return tower_of(file.with_name("bundle"))


def analysed(file: Path, desk: Path, say: Say) -> Any:
    report = json.loads(say("analyze", file, "--bootstrap", 0, "--against", file, "--json"))
    return [(layer["name"], layer["alpha"], layer["against_alpha"]) for layer in report["layers"]]


def imported(file: Path, desk: Path, say: Say) -> Any:
    say("import", file, "--base", desk / "base", "--include", "conv1", "--out", file.with_name("bundle"))
    return tower_of(file.with_name("bundle"))


def completed(file: Path, desk: Path, say: Say) -> Any:
    """A bundle of masks alone takes its values from the file."""
    say("transfer", desk / "masks", "--to", "maskclip", "--base", file, "--out", file.with_name("whole"))
    return tower_of(file.with_name("whole"))


def written(file: Path, desk: Path, say: Say) -> Any:
    """The subnet in a copy of the file, which is a safetensors file; the rest is as it was."""
    out = file.with_name("out.safetensors")
    say("transfer", desk / "subnet", "--checkpoint", file, "--out", out)
    before, after = open_checkpoint(file), open_checkpoint(out)
    assert {t.key: t.shape for t in before.tensors.values()} == {t.key: t.shape for t in after.tensors.values()}
    inside = {name.partition("visual.")[2]: name for name in after.tensors if "visual." in name}
    same = [n for n in before.tensors if n not in inside.values()]
    assert all(torch.equal(before.read(name), after.read(name)) for name in same)
    return {own: after.read(name).numpy().tobytes() for own, name in sorted(inside.items())}


CLIP_COMMANDS: dict[str, Command] = {
    "prune": pruned,
    "analyze": analysed,
    "import": imported,
    "transfer --base": completed,
    "transfer --checkpoint": written,
}
FRAMEWORK = ("--framework", "deeplabv3", "--checkpoint")


def segmented(file: Path, desk: Path, say: Say) -> Any:
    line = ("segment", *FRAMEWORK, file, "--vocabulary", desk / "words.safetensors", "--no-resize")
    say(*line, "--save-scores", file.with_name("scores.npy"), desk / "picture.png")
    return np.load(file.with_name("scores.npy")).tobytes()


def evaluated(file: Path, desk: Path, say: Say) -> Any:
    report = json.loads(say("eval", *FRAMEWORK, file, "--base", desk / "base", "--limit", 1, "--json"))
    return report["miou"], report["params_kept"], report["per_class"]


SEGMENTOR_COMMANDS: dict[str, Command] = {"segment --checkpoint": segmented, "eval --checkpoint": evaluated}


@pytest.mark.parametrize("command", [*CLIP_COMMANDS, *SEGMENTOR_COMMANDS])
def test_every_kind_of_file_gives_every_command_the_same_tower(
    command: str, kinds: Any, clip: Any, segmentor: Any, desk: Path, tmp_path: Path, run_cli: Any
) -> None:
    state = clip if command in CLIP_COMMANDS else segmentor
    run = (CLIP_COMMANDS | SEGMENTOR_COMMANDS)[command]
    results: dict[str, Any] = {}

    def say(*line: object) -> str:
        result = run_cli(*line)
        assert result.exit_code == 0, f"{kind}: {result.stderr}"
        return str(result.stdout)

    for number, (kind, write) in enumerate(kinds.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        write(state, folder / "file.pth")
        results[kind] = run(folder / "file.pth", desk, say)
    assert results["safetensors"]
    assert [kind for kind, result in results.items() if result != results["safetensors"]] == []


@pytest.mark.parametrize("kind", WRITE_BACK)
def test_a_copy_in_its_own_format_is_the_file_but_for_the_pruned_weights(
    kind: str, kinds: Any, clip: Any, desk: Path, tmp_path: Path, run_cli: Any
) -> None:
    kinds[kind](clip, tmp_path / "in")
    out = tmp_path / f"out.{WRITE_BACK[kind]}"
    assert run_cli("transfer", desk / "subnet", "--checkpoint", tmp_path / "in", "--out", out).exit_code == 0
    before, after = open_checkpoint(tmp_path / "in"), open_checkpoint(out)
    assert before.kind == after.kind and out.stat().st_size == (tmp_path / "in").stat().st_size
    masks = open_bundle(desk / "subnet").masks()
    for name in before.tensors:
        layer = name.partition("visual.")[2].removesuffix(".weight")
        wanted = before.read(name)
        if layer in masks:
            wanted = wanted.where(torch.from_numpy(masks[layer]), torch.zeros(()))
        assert torch.equal(after.read(name), wanted), name
    if kind == "TorchScript":
        with pytest.warns(FutureWarning):
            from_torch = torch.jit.load(out).state_dict()
        assert all(torch.equal(from_torch[name], after.read(name)) for name in after.tensors)
    elif kind == "old torch":
        from_torch = torch.load(out, weights_only=True)
        assert all(torch.equal(from_torch[name], after.read(name)) for name in after.tensors)


def test_a_framework_checkpoint_gives_the_clip_inside_it_to_prune(
    clip: dict[str, Tensor], desk: Path, tmp_path: Path, run_cli: Any
) -> None:
    saved = {f"backbone.clip_model.{name}": tensor for name, tensor in clip.items()} | {"head.x": torch.ones(2)}
    torch.save({"model": saved, "iteration": 3}, tmp_path / "fcclip.pth")
    result = run_cli("prune", tmp_path / "fcclip.pth", "--sparsity", 0.5, "--out", tmp_path / "b")
    assert result.exit_code == 0, result.stderr
    assert "the CLIP is below 'backbone.clip_model.', 1 tensors beside it are left" in result.stderr
    assert open_bundle(tmp_path / "b").manifest.base.digest == open_bundle(desk / "subnet").manifest.base.digest


def test_what_is_no_checkpoint_is_told_in_one_line_by_every_command(desk: Path, tmp_path: Path, run_cli: Any) -> None:
    (tmp_path / "page.pth").write_bytes(b"<!DOCTYPE html><html>")
    words = ("--vocabulary", desk / "words.safetensors", desk / "picture.png", "--out", tmp_path / "o")
    for line in (
        ("prune", tmp_path / "page.pth", "--sparsity", 0.5, "--out", tmp_path / "o"),
        ("prune", f"RN50:{tmp_path / 'page.pth'}", "--sparsity", 0.5, "--out", tmp_path / "o"),
        ("analyze", tmp_path / "page.pth"),
        ("analyze", desk / "base", "--against", tmp_path / "page.pth"),
        ("import", tmp_path / "page.pth", "--base", desk / "base", "--out", tmp_path / "o"),
        ("transfer", desk / "subnet", "--checkpoint", tmp_path / "page.pth", "--out", tmp_path / "o.pth"),
        ("segment", *FRAMEWORK, tmp_path / "page.pth", *words),
        ("eval", *FRAMEWORK, tmp_path / "page.pth", "--limit", 1),
    ):
        result = run_cli(*line)
        assert result.exit_code == 1, line
        message = f"not a checkpoint but a web page: {tmp_path / 'page.pth'}; download the file itself"
        assert message in result.stderr and "Traceback" not in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.pth"]
