"""diff: two bundles or two alpha reports, or why they cannot be compared."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from opentrans_cli.bundle.manifest import SegmentorRecord
from opentrans_cli.bundle.schema import check_document
from opentrans_cli.errors import BundleError
from opentrans_cli.steps.analyze.analyze import analyze
from opentrans_cli.steps.look.diff import diff, segmentor_difference

GOLDEN = Path(__file__).parents[2] / "golden" / "bundle-v1"
SEGMENTOR = SegmentorRecord("deeplabv3", {"stride": 8}, (("sky", "clouds"), ("road",)), ("sky",), ("a {}.",))


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """A folder with a bundle that has an alpha report, and what `analyze --json` said of two other sources."""
    desk = tmp_path_factory.mktemp("diff")
    shutil.copytree(tiny_bundle, desk / "bundle")
    analyze(str(desk / "bundle"))
    (desk / "dense.json").write_text(json.dumps(analyze("tiny").to_json()))
    (desk / "mid.json").write_text(json.dumps(analyze("tiny", estimator="xmin_mid").to_json()))
    return desk


def test_a_bundle_equals_itself(analysed: Path) -> None:
    result = diff(str(analysed / "bundle"), str(analysed / "bundle"))
    document = result.to_json()
    check_document(document, "diff_report")
    subnets, alphas = document["subnets"], document["alphas"]
    assert (subnets["base_equal"], subnets["nested"], subnets["segmentor"]) == (True, "equal", "none")
    assert (subnets["all_layers"]["jaccard"], subnets["all_layers"]["share_differing"]) == (1, 0)
    assert subnets["all_layers"]["both"] == subnets["a"]["kept"]
    assert (alphas["changed"], alphas["spearman"]) == (0, 1.0) and {layer["change"] for layer in alphas["layers"]} == {
        0
    }
    assert document["warnings"] == []


def test_rounds_of_one_run_are_nested(nested_bundle: Callable[[str], Path], tiny_bundle: Path) -> None:
    """The bundle of 0.8 keeps a part of the one-shot bundle of 0.5, which sorts the same weights by magnitude."""
    document = diff(str(nested_bundle("untrained")), str(tiny_bundle)).to_json()["subnets"]
    assert document["base_equal"] and document["all_layers"]["kept_a"] < document["all_layers"]["kept_b"]
    assert document["all_layers"]["jaccard"] > document["all_layers"]["jaccard_by_chance"]
    moved = diff(str(nested_bundle("trained")), str(nested_bundle("untrained"))).to_json()["subnets"]
    assert moved["nested"] == "equal" and moved["all_layers"]["share_differing"] > 0.9
    bare = diff(str(nested_bundle("bare")), str(nested_bundle("untrained"))).to_json()["subnets"]
    assert bare["all_layers"]["max_difference"] is None and not bare["a"]["has_weights"]


def test_reports_are_taken_from_bundles_files_and_json(analysed: Path) -> None:
    pairs = [("bundle", "dense.json"), ("bundle/alpha.safetensors", "dense.json"), ("dense.json", "bundle")]
    for a, b in pairs:
        result = diff(str(analysed / a), str(analysed / b))
        document = result.to_json()
        check_document(document, "diff_report")
        assert document["subnets"] is None and 0 < document["alphas"]["spearman"] < 1 and not document["warnings"]
        changed = [layer for layer in document["alphas"]["layers"] if layer["decision_a"] != layer["decision_b"]]
        assert len(changed) == document["alphas"]["changed"] > 0


def test_other_estimators_are_a_warning(analysed: Path) -> None:
    result = diff(str(analysed / "dense.json"), str(analysed / "mid.json"))
    assert result.warnings == ("estimators differ, xmin_peak and xmin_mid: alphas are not comparable",)


def test_a_bundle_without_a_report_is_a_warning_beside_another_and_an_error_beside_a_report(
    analysed: Path, tiny_bundle: Path
) -> None:
    result = diff(str(analysed / "bundle"), str(tiny_bundle))
    assert result.alphas is None and result.subnets is not None
    assert result.warnings == (f"{tiny_bundle} has no alpha report to compare; run `opentrans analyze` on it",)
    with pytest.raises(BundleError, match=r"^no alpha report to compare with: .*; run `opentrans analyze .*`$"):
        diff(str(tiny_bundle), str(analysed / "dense.json"))


def test_nothing_in_common_is_an_error(analysed: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"^nothing to compare: .* no layer of the same name and shape; give "):
        diff(str(GOLDEN), str(tiny_bundle))
    document = json.loads((analysed / "dense.json").read_text())
    for layer in document["layers"]:
        layer["name"] = f"other.{layer['name']}"
    (tmp_path / "other.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match=r"^nothing to compare: .* report on other layers; give "):
        diff(str(analysed / "dense.json"), str(tmp_path / "other.json"))


def test_a_bundle_whose_report_names_no_layers_is_compared_by_its_masks() -> None:
    result = diff(str(GOLDEN), str(GOLDEN))
    assert result.alphas is None and result.subnets is not None and result.subnets.segmentor_equal
    check_document(result.to_json(), "diff_report")


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (SEGMENTOR, "the same, deeplabv3, 2 classes"),
        (None, "deeplabv3, 2 classes > none"),
        (replace(SEGMENTOR, framework="maskclip"), "deeplabv3 > maskclip, the same 2 classes"),
        (
            replace(SEGMENTOR, classes=(("sky",), ("car",), ("dog",))),
            "deeplabv3, 2 classes added, 1 classes removed",
        ),
        (replace(SEGMENTOR, classes=(("sky",), ("road",))), "deeplabv3, other order or synonyms of 2 classes"),
        (replace(SEGMENTOR, options={}, templates=()), "deeplabv3, the same 2 classes, other options, other templates"),
    ],
)
def test_segmentors_are_compared_in_one_line(other: SegmentorRecord | None, text: str) -> None:
    assert segmentor_difference(SEGMENTOR, other) == text
    assert segmentor_difference(None, None) == "none"


def test_no_torch_is_loaded() -> None:
    code = (
        "import sys; from opentrans_cli.steps.look.diff import diff\n"
        f"diff({str(GOLDEN)!r}, {str(GOLDEN)!r}).to_json()\n"
        "print('torch' in sys.modules, 'huggingface_hub' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
