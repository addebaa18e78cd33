"""transfer --to onnx: the graph says what torch says, carries its words, and is kept only if both are true."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.clip.source import load_clip
from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.errors import OpentransError, OptionError, OutputError, TransferError
from opentrans_cli.steps.segmentors.opened import open_source
from opentrans_cli.steps.segmentors.predictor import Predictor
from opentrans_cli.steps.segmentors.words import Words
from opentrans_cli.steps.transfer import onnx as step
from opentrans_cli.steps.transfer.onnx import export_onnx

CLASSES = "red square,red box\ngrass,meadow,field\nblue circle\n"
NAMES = ["red square", "grass", "blue circle"]
WORDS = Words(Vocabulary.from_names(CLASSES.splitlines()))
SMALL = ("--option", "queries=6", "--option", "encoder_layers=1", "--option", "decoder_layers=2")

Image = np.ndarray[Any, np.dtype[np.uint8]]


def photo(height: int, width: int) -> Image:
    """A picture the export has not compared: smooth colours."""
    y, x = np.mgrid[0:height, 0:width] / 7
    return ((np.stack([np.sin(x + y), np.cos(x - y), np.sin(x)], 2) + 1) * 127).astype(np.uint8)


def by_onnx(path: Path, image: Image) -> tuple[Any, Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    scores, label_map = session.run(None, {"image": image.transpose(2, 0, 1)[None].astype(np.float32)})
    assert scores.dtype == np.float32 and label_map.dtype == np.int64
    return scores[0], label_map[0]


def check_like_torch(path: Path, source: str, image: Image) -> None:
    """The file's scores and label map of `image` are those of `segment`, to 1e-4 of the largest."""
    opened = open_source(source)
    expected = Predictor(opened.built, opened.embedded(WORDS), device=torch.device("cpu")).scores(image).numpy()
    scores, label_map = by_onnx(path, image)
    assert scores.shape == expected.shape and np.ptp(expected) > 0
    assert np.abs(scores - expected).max() <= 1e-4 * np.abs(expected).max()
    assert (label_map == expected.argmax(0)).mean() > 0.999


def metadata(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


@pytest.fixture(scope="module")
def class_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("classes") / "classes.txt"
    path.write_text(CLASSES)
    return path


@pytest.fixture(scope="module")
def read_out(
    tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path, class_file: Path, run_cli: Any
) -> tuple[Path, dict[str, Any]]:
    """The tiny bundle, read out without training, and the report of its export; read only."""
    out = tmp_path_factory.mktemp("onnx") / "maskclip.onnx"
    result = run_cli("transfer", tiny_bundle, "--to", "onnx", "--vocabulary", class_file, "-o", out, "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.splitlines() == [
        f"no segmentor in {tiny_bundle}: reading the tower out without training (maskclip)",
        "text tower: tiny",
        "words that tiny never read in training, so without meaning to it: red box, meadow, field",
    ]
    return out, json.loads(result.stdout)


@pytest.fixture
def made(read_out: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports take the graph that is there already, which is right for the tiny bundle: what follows is what counts."""

    def graph(*_: object, **__: object) -> Any:
        model = onnx.load(read_out[0])
        model.ClearField("metadata_props")
        return model

    monkeypatch.setattr(step, "export_graph", graph)


def test_a_read_out_says_what_segment_says_at_any_size(
    read_out: tuple[Path, dict[str, Any]], tiny_bundle: Path
) -> None:
    path, report = read_out
    check_document(report, "onnx_report")
    assert (report["framework"], report["classes"], report["resolution"]) == ("maskclip", NAMES, None)
    assert report["difference"] <= 1e-4 and report["agreement"] > 0.99
    assert report["compared"] == [[64, 64], [48, 101]]
    assert report["bytes"] == path.stat().st_size
    for size in ((32, 32), (65, 130)):
        check_like_torch(path, str(tiny_bundle), photo(*size))


@pytest.mark.slow
def test_a_trained_segmentor_is_exported_with_its_head(
    run_cli: Any, tiny_segmentor: Path, class_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "deeplabv3.onnx"
    line = ("transfer", tiny_segmentor, "--to", "onnx", "--classes", class_file, "-o", out, "--resolution", 96)
    result = run_cli(*line)
    assert result.exit_code == 0 and result.stdout == f"{out}\n"
    assert "deeplabv3: 3 classes, pictures of any size from 32 x 32" in result.stderr
    assert "at 96 x 96 and 72 x 133" in result.stderr
    check_like_torch(out, str(tiny_segmentor), photo(70, 45))
    assert [path.name for path in tmp_path.iterdir()] == ["deeplabv3.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["fcclip", "han", "mask2former"])
def test_frameworks_of_masks_are_exported_for_one_size(
    framework: str, run_cli: Any, tiny_bundle: Path, class_file: Path, tmp_path: Path
) -> None:
    bundle, out = tmp_path / "bundle", tmp_path / f"{framework}.onnx"
    assert run_cli("transfer", tiny_bundle, "--to", framework, *SMALL, "-o", bundle).exit_code == 0
    line = ("transfer", bundle, "--to", "onnx", "--vocabulary", class_file, "-o", out, "--resolution", 75, "--json")
    result = run_cli(*line)
    assert result.exit_code == 0, result.stderr
    assert f"{framework} is exported for pictures of 75 x 75 alone; see --resolution" in result.stderr.splitlines()
    report = json.loads(result.stdout)
    check_document(report, "onnx_report")
    assert (report["framework"], report["resolution"], report["compared"]) == (framework, [75, 75], [[75, 75]])
    check_like_torch(out, str(bundle), photo(75, 75))
    with pytest.raises(Exception, match="invalid dimensions"):
        by_onnx(out, photo(96, 75))


def test_a_class_gets_the_score_of_its_best_synonym(read_out: tuple[Path, dict[str, Any]], tiny_bundle: Path) -> None:
    opened, image = open_source(str(tiny_bundle)), photo(64, 64)
    apart = Words(Vocabulary.from_names(["grass", "meadow", "field"]))
    each = Predictor(opened.built, opened.embedded(apart), device=torch.device("cpu")).scores(image)
    scores, _ = by_onnx(read_out[0], image)
    np.testing.assert_allclose(scores[1], each.amax(0).numpy(), rtol=1e-4, atol=1e-3)
    assert len({int(index) for index in each.argmax(0).unique()}) > 1


def test_the_file_says_what_it_is_and_nothing_of_the_machine(
    read_out: tuple[Path, dict[str, Any]], tiny_bundle: Path
) -> None:
    path, report = read_out
    told = metadata(path)
    digest = open_bundle(tiny_bundle).digest
    assert told["opentrans.bundle"] == report["bundle"] == digest
    assert json.loads(told["opentrans.classes"]) == NAMES
    assert json.loads(told["opentrans.synonyms"])[1] == ["grass", "meadow", "field"]
    assert json.loads(told["opentrans.seen"]) == [True] * 3
    preprocess = load_clip("tiny").preprocess
    normalisation = json.loads(told["opentrans.normalisation"])
    assert normalisation["mean"] == list(preprocess.mean) and normalisation["std"] == list(preprocess.std)
    assert told["opentrans.framework"] == "maskclip" and json.loads(told["opentrans.base"])["source"] == "tiny"
    content = path.read_bytes()
    for place in (Path(step.__file__).parents[1], Path(torch.__file__).parent, path.parent, "torch.fx", "stack_trace"):
        assert str(place).encode() not in content
    onnx.checker.check_model(onnx.load(path), full_check=True)


def test_a_dry_run_compares_and_writes_nothing(made: None, run_cli: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    line = ("transfer", tiny_bundle, "--to", "onnx", "--words", "red square, grass, sky", "--dry-run", "--quiet")
    refused = run_cli(*line)
    assert refused.exit_code == 1 and "the graph does not say what torch says" in refused.stderr
    result = export_onnx(str(tiny_bundle), words=WORDS, out=None)
    assert result.path is None and result.difference <= 1e-4
    check_document(result.to_json(), "onnx_report")


class Wrong(onnxruntime.InferenceSession):  # type: ignore[misc]
    """A runtime that changes its outputs."""

    change: Callable[[Any, Any], list[Any]]

    def run(self, *arguments: Any) -> list[Any]:
        return type(self).change(*super().run(*arguments))


def test_a_graph_that_says_something_else_is_refused_and_what_was_there_stays(
    made: None, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.onnx"
    monkeypatch.setattr(onnxruntime, "InferenceSession", Wrong)
    changes: dict[str, Callable[[Any, Any], list[Any]]] = {
        "scores differ by 2.*nothing was written": lambda scores, labels: [scores + 2e-4 * abs(scores).max(), labels],
        "scores differ by nan": lambda scores, labels: [scores * np.nan, labels],
        "scores differ by inf": lambda scores, labels: [scores[:, :, 1:], labels[:, 1:]],
        "label map is not that of its scores": lambda scores, labels: [scores, (labels + 1) % 3],
        "onnxruntime cannot run the graph": lambda scores, labels: [][0],
    }
    for message, change in changes.items():
        monkeypatch.setattr(Wrong, "change", staticmethod(change), raising=False)
        with pytest.raises(TransferError, match=message):
            export_onnx(str(tiny_bundle), words=WORDS, out=out, force=True)
        assert [path.read_bytes() for path in tmp_path.iterdir()] == ([b"old"] if out.exists() else [])
        out.write_bytes(b"old")


def test_what_is_there_is_replaced_only_by_force(
    made: None, tiny_bundle: Path, tmp_path: Path, read_out: tuple[Path, dict[str, Any]]
) -> None:
    out = tmp_path / "a.onnx"
    out.write_bytes(b"old")
    with pytest.raises(OutputError, match=r"already exists: .*; choose another --out, or pass --force"):
        export_onnx(str(tiny_bundle), words=WORDS, out=out)
    assert out.read_bytes() == b"old"
    export_onnx(str(tiny_bundle), words=WORDS, out=out, force=True)
    assert metadata(out) == metadata(read_out[0])
    check_like_torch(out, str(tiny_bundle), photo(40, 50))


def test_a_full_disk_leaves_nothing(
    made: None, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("opentrans_cli.files.atomic.os.replace", full)
    with pytest.raises(TransferError, match=r"cannot write: .*No space left on device.*; choose another --out"):
        export_onnx(str(tiny_bundle), words=WORDS, out=tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_round_is_another_tower(
    nested_bundle: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked(Exception):
        pass

    towers = []

    def graph(module: Any, *_: object, **__: object) -> Any:
        towers.append(module.segmentor.backbone.layer4[0].conv2.weight.detach().clone())
        raise Asked

    monkeypatch.setattr(step, "export_graph", graph)
    source = str(nested_bundle("trained"))
    for sparsity in (0.2, None):
        with pytest.raises(Asked):
            export_onnx(source, words=WORDS, out=None, at_sparsity=sparsity)
    assert int((towers[0] == 0).sum()) < int((towers[1] == 0).sum())
    with pytest.raises(OptionError, match="only a bundle has earlier rounds: tiny"):
        export_onnx("tiny", words=WORDS, out=None, at_sparsity=0.2)


def test_wrong_use_is_told_in_one_line(run_cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--words", "a", "-o", "a.onnx")
    for line, message, code in (
        (("-o", "a.onnx"), "--to onnx needs words", 2),
        ((*words, "--vocabulary", "b.txt"), "give exactly one", 2),
        (("--words", "a", "-o", "a.bin"), "files of ONNX end in .onnx: --out a.bin; add it", 2),
        (("--words", "a", "-o", "."), "files of ONNX end in .onnx", 2),
        ((*words, "--resolution", "31"), "--resolution 31; give at least 32", 2),
        ((*words, "--compact"), "of --to open-clip alone: --compact; leave it out", 2),
        ((*words, "--allow-missing", "x"), "of --checkpoint alone: --allow-missing", 2),
        ((*words, "--framework", "deeplabv3"), "no trained deeplabv3 in the source", 2),
        (("--vocabulary", "gone.txt", "-o", "a.onnx"), "gone.txt", 1),
        ((*words, "--to", "deeplabv3"), "of --to onnx alone: --words; leave it out", 2),
    ):
        result = run_cli("transfer", "tiny", "--to", "onnx", *line, "--quiet")
        assert result.exit_code == code and len(result.stderr.splitlines()) == 1, line
        assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_told_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("onnxruntime", "onnxscript", "onnx"):  # from the last that is looked for to the first
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(OptionError, match=rf"missing: {package}; pip install 'opentrans-cli\[onnx\]'"):
            export_onnx("tiny", words=WORDS, out=tmp_path / "a.onnx")


def test_what_torch_cannot_export_or_one_file_cannot_hold_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Looking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.ones(4))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image if float(image.sum()) > 0 else -image

    with pytest.raises(TransferError, match=r"^torch cannot export it: some \(.*\); report this as a bug$"):
        step.export_graph(Looking(), 32, dynamic=False, name="some")
    monkeypatch.setattr(step, "_LARGEST", 15)
    with pytest.raises(OpentransError, match="too large for one ONNX file: some of"):
        step.export_graph(Looking(), 32, dynamic=False, name="some")
