"""The public face: what `import opentrans_cli as ot` offers and what it costs; docs/python.md runs as it stands."""

from __future__ import annotations

import ast
import inspect
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import opentrans_cli as ot
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.clip.source import load_clip
from opentrans_cli.errors import OptionError, SourceError
from opentrans_cli.steps.prune.options import PruneOptions

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "python.md"
VERBS = ("prune", "analyze", "transfer", "finetune", "evaluate", "segment")


def test_everything_in_the_document_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(examples) >= 10
    shutil.copy(ROOT / "docs" / "scene.png", tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names: dict[str, Any] = {"torch": torch}
    for number, code in enumerate(examples):
        assert code.count("\n") <= 6, code
        exec(compile(code, f"{DOCUMENT.name}, example {number}", "exec"), names)
    assert "weights are left" in capsys.readouterr().out
    assert names["embedding"].shape == (1, names["subnet"].embed_dim)
    written = {path.name for path in tmp_path.iterdir()}
    assert {"subnet", "trained", "pictures", "segmentor", "clip", "ours.safetensors"} <= written


def test_the_document_names_everything_that_is_offered() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert [name for name in ot.__all__ if f"ot.{name}" not in text] == ["__version__", "attach"]


def test_the_readme_shows_the_same_first_example() -> None:
    first = re.search(r"^```python\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert first is not None and first[0] in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_import_loads_nothing_and_every_name_is_there_for_people_and_for_type_checkers() -> None:
    code = "import sys, opentrans_cli as ot; dir(ot); print(*[n for n in sys.modules if n.startswith('opentrans_cli')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"opentrans_cli", "opentrans_cli.version"}
    tree = ast.parse((ROOT / "opentrans_cli" / "__init__.py").read_text(encoding="utf-8"))
    (checking,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {alias.name for node in checking.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed | {"__version__"} == set(ot.__all__) <= set(dir(ot))
    assert all(inspect.getdoc(getattr(ot, name)) for name in ot.__all__)
    assert (ROOT / "opentrans_cli" / "py.typed").is_file() and ot.attach is ot.apply
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        ot.prun  # noqa: B018


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_are_called_alike_and_name_their_options(verb: str, tmp_path: Path) -> None:
    parameters = inspect.signature(getattr(ot, verb)).parameters
    first, *others = parameters.values()
    assert first.name == "source" and all(other.kind is other.KEYWORD_ONLY for other in others if other.name != "given")
    assert {"out", "device", "force", "reporter"} <= parameters.keys()
    assert (parameters["device"].default, parameters["force"].default, parameters["reporter"].default) == (
        "auto",
        False,
        None,
    )


def test_an_option_that_is_none_and_a_value_of_the_wrong_kind_are_told(tmp_path: Path, tiny_bundle: Path) -> None:
    for call, told in (
        (lambda: ot.prune("tiny", sparcity=0.5), "prune has no such option: sparcity; did you mean sparsity?"),
        (lambda: ot.finetune(tiny_bundle, out="x", step=5), "finetune has no such option: step; did you mean steps?"),
        (lambda: ot.transfer(tiny_bundle, compact=True), "of --to open-clip alone: --compact; leave it out"),
        (lambda: ot.prune("tiny", sparsity="much"), "wrong kind of value: sparsity='much'; it takes float"),
        (lambda: ot.prune("tiny", include="conv1"), "wrong kind of value: include='conv1'; it takes tuple[str, ...]"),
        (lambda: ot.prune("tiny", seed=True), "wrong kind of value: seed='True'; it takes int"),
        (lambda: ot.analyze("tiny", device="cuda"), "analyze computes on the processor: device 'cuda'; leave it out"),
    ):
        with pytest.raises(OptionError) as caught:
            call()
        assert str(caught.value) == told and isinstance(caught.value, ot.OpentransError)
    assert not list(tmp_path.iterdir())


def test_options_are_the_fields_by_their_names_whatever_kind_of_path_or_number_they_are(tmp_path: Path) -> None:
    listed = inspect.signature(ot.prune).parameters
    assert {name for name in vars(PruneOptions()) if name not in listed} == set()
    result = ot.prune("tiny", sparsity=np.float32(0.5), exclude=["conv1"], out=str(tmp_path / "b"), seed=np.int64(3))
    (step,) = open_bundle(result.path).manifest.steps
    assert (step.options["sparsity"], step.options["exclude"], step.seed) == (0.5, ["conv1"], 3)


def test_without_images_prune_says_that_nothing_is_distilled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "opentrans_cli"):
        ot.prune("tiny", sparsity=0.5, out=tmp_path / "b")
    assert "no images were given: weights are chosen by magnitude, and nothing is distilled" in caplog.messages


def test_load_gives_tensors_by_layer_and_an_encoder_that_runs(tiny_bundle: Path) -> None:
    subnet, bundle = ot.load(tiny_bundle), open_bundle(tiny_bundle)
    assert subnet.sparsity == bundle.manifest.achieved_sparsity and subnet.bundle.digest == bundle.digest
    for layer, mask in bundle.masks().items():
        assert np.array_equal(subnet.masks[layer].numpy(), mask) and subnet.masks[layer].dtype == torch.bool
        assert np.array_equal(subnet.weights[layer].detach().numpy(), bundle.tower()[f"{layer}.weight"])
    scene = Image.open(ROOT / "docs" / "scene.png").convert("RGB")
    pixels = subnet.preprocess(scene)
    assert pixels.shape == (3, subnet.preprocess.size, subnet.preprocess.size) and pixels.dtype == torch.float32
    with torch.no_grad():
        assert subnet.image_encoder(pixels[None]).shape == (1, subnet.embed_dim)


def test_load_takes_any_clip_an_earlier_round_and_masks_alone(nested_bundle: Any, tmp_path: Path) -> None:
    dense = ot.load("tiny")
    expected = load_clip("tiny").model.visual.state_dict()
    assert dense.sparsity == 0 and dense.bundle is None
    assert all(torch.equal(value, expected[name]) for name, value in dense.image_encoder.state_dict().items())
    assert abs(ot.load(nested_bundle("trained"), at_sparsity=0.5).sparsity - 0.5) < 5e-4
    assert ot.load(nested_bundle("bare"), base="tiny").sparsity == ot.load(nested_bundle("bare")).sparsity > 0
    with pytest.raises(OptionError, match="only a bundle has earlier rounds: tiny"):
        ot.load("tiny", at_sparsity=0.5)
    with pytest.raises(SourceError):
        ot.load(tmp_path / "none")


def test_transfer_goes_wherever_the_command_goes(tiny_bundle: Path, tmp_path: Path) -> None:
    torch.save(ot.load("tiny").image_encoder.state_dict(), tmp_path / "theirs.pth")
    made = {
        "deeplabv3": ot.transfer(tiny_bundle, to="deeplabv3", output_stride=8),
        "open-clip": ot.transfer(tiny_bundle, to="open-clip"),
        "open_clip": ot.transfer(tiny_bundle, checkpoint=tmp_path / "theirs.pth", what="weights"),
    }
    assert all(result.path is None and result.to_json() for result in made.values())
    with pytest.raises(OptionError, match="--to onnx needs words"):
        ot.transfer(tiny_bundle, to="onnx")
