"""Where a report goes: exactly the files that are promised, each whole or not at all, and nothing of others is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from opentrans_cli.bundle.layout import ALPHA
from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.errors import BundleError, OptionError, OutputError
from opentrans_cli.files.tensorfile import parse_tensors, read_bytes, read_metadata
from opentrans_cli.steps.analyze import outputs as alpha_outputs
from opentrans_cli.steps.analyze.analyze import analyze
from opentrans_cli.steps.analyze.outputs import REPORT, SPECTRA, TOWER
from opentrans_cli.steps.analyze.result import AnalyzeResult


@pytest.fixture
def file(tmp_path: Path) -> str:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (24, 16), "b.weight": (6, 8, 3, 3), "c.weight": (4, 30)}
    save_file({name: torch.randn(s, generator=generator) for name, s in shapes.items()}, tmp_path / "file.safetensors")
    return str(tmp_path / "file.safetensors")


def run(source: str, **outputs: Any) -> AnalyzeResult:
    return analyze(source, **outputs)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


def test_a_folder_holds_report_numbers_and_page_and_nothing_else(file: str, tmp_path: Path) -> None:
    result = run(file, out=tmp_path / "deep" / "report")
    assert result.path == tmp_path / "deep" / "report" and names(result.path) == {REPORT, ALPHA, TOWER}
    document = json.loads((result.path / REPORT).read_text())
    check_document(document, "analyze_report")
    assert document == json.loads(json.dumps(result.to_json()))
    arrays, metadata = result.report.tensors()
    assert read_metadata(result.path / ALPHA) == metadata
    stored = parse_tensors(read_bytes(result.path / ALPHA), result.path / ALPHA)
    assert stored.keys() == arrays.keys() and all((stored[name] == arrays[name]).all() for name in arrays)
    assert names(tmp_path / "deep") == {"report"}


def test_spectra_are_drawn_into_the_folder_if_asked_for(file: str, tmp_path: Path) -> None:
    result = run(file, out=tmp_path / "report", esd=("a", "[bc]"))
    assert result.path is not None and names(result.path) == {REPORT, ALPHA, TOWER, SPECTRA}
    assert is_png(result.path / SPECTRA) and is_png(result.path / TOWER)
    assert (result.path / SPECTRA).read_bytes() != (result.path / TOWER).read_bytes()


def test_a_picture_is_of_the_tower_or_of_the_chosen_spectra(file: str, tmp_path: Path) -> None:
    page = run(file, plot=tmp_path / "page.png")
    spectra = run(file, plot=tmp_path / "spectra.svg", esd=("a",))
    assert (page.path, spectra.path) == (tmp_path / "page.png", tmp_path / "spectra.svg")
    assert is_png(tmp_path / "page.png")
    assert (tmp_path / "spectra.svg").read_text().startswith("<?xml")
    assert names(tmp_path) == {"file.safetensors", "page.png", "spectra.svg"}


def test_the_same_analysis_is_the_same_bytes(
    file: str, tmp_path: Path, content: Callable[[Path], dict[str, bytes]]
) -> None:
    for name in ("one", "two"):
        analyze(file, bootstrap=4, null=True, out=tmp_path / name, esd=("*",))
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_force_replaces_a_report_whole_and_nothing_that_is_not_one(file: str, tmp_path: Path) -> None:
    out = tmp_path / "report"
    run(file, out=out, esd=("a",))
    with pytest.raises(OutputError, match=r"^already exists: .*--force"):
        run(file, out=out)
    run(file, out=out, force=True)
    assert names(out) == {REPORT, ALPHA, TOWER}
    (out / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"^holds a file that this command did not write: .*notes\.txt"):
        run(file, out=out, force=True)
    assert names(out) == {REPORT, ALPHA, TOWER, "notes.txt"}


def test_an_existing_picture_is_replaced_by_force_alone(file: str, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    picture.write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"^already exists: .*page\.png.*--force"):
        run(file, plot=picture)
    assert picture.read_bytes() == b"mine"
    run(file, plot=picture, force=True)
    assert is_png(picture)


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        ({"plot": "x.pdf"}, r"^not a kind of picture: 'x\.pdf'; end the name in \.png or \.svg"),
        ({"esd": ("a",)}, r"^spectra are drawn into a picture: --esd a; say which with --plot or --out"),
        ({"esd": ("a", "z*"), "plot": "x.png"}, r"^no analyzed layer is called so: --esd z\*; "),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_any_work(
    outputs: dict[str, Any], told: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("opentrans_cli.steps.analyze.analyze.measure", None)
    with pytest.raises(OptionError, match=told):
        run(file, **{key: Path(value) if key == "plot" else value for key, value in outputs.items()})
    assert names(tmp_path) == {"file.safetensors"}


@pytest.mark.parametrize("kind", ["out", "plot"])
def test_nothing_is_written_into_a_bundle(kind: str, file: str, tmp_path: Path, tiny_bundle: Path) -> None:
    """Its tensors would be ones that nothing vouches for."""
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    before = names(bundle)
    with pytest.raises(BundleError, match=r"^would lie inside a bundle: .*; choose a place outside of it"):
        run(file, **{kind: bundle / "reports" / "x.png"})
    assert names(bundle) == before


def test_a_bad_source_leaves_no_folder_behind(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no such checkpoint"):
        run("no/such.safetensors", out=tmp_path / "new" / "report")
    assert not names(tmp_path)


@pytest.mark.parametrize("failing", ["write_tensors", "tower_page", "esd_chart"])
def test_a_kill_while_writing_leaves_no_half_report_and_the_old_one_in_place(
    failing: str,
    file: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: Callable[[Path], dict[str, bytes]],
) -> None:
    run(file, out=tmp_path / "report")
    before = content(tmp_path)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(alpha_outputs, failing, killed)
    for out, force in (("report", True), ("new", False)):
        with pytest.raises(KeyboardInterrupt):
            run(file, out=tmp_path / out, esd=("a",), force=force)
        assert content(tmp_path) == before


def test_a_bundle_gets_its_report_beside_the_folder(tmp_path: Path, tiny_bundle: Path) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    result = run(str(bundle), out=tmp_path / "report")
    assert result.path == bundle and names(tmp_path / "report") == {REPORT, ALPHA, TOWER}
    assert (bundle / ALPHA).read_bytes() == (tmp_path / "report" / ALPHA).read_bytes()
    assert open_bundle(bundle).digest == open_bundle(tiny_bundle).digest
