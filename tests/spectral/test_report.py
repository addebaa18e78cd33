"""Alpha reports: the same from a bundle, its file and the JSON of `analyze`; other files are refused in one line."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.errors import BundleError
from opentrans_cli.files.tensorfile import write_tensors
from opentrans_cli.spectral import power_law
from opentrans_cli.spectral.report import (
    UNTRUSTED,
    AlphaReport,
    LayerAlpha,
    bundle_report,
    compare_alphas,
    rank_correlation,
    read_alpha_report,
)
from opentrans_cli.steps.analyze.analyze import analyze

METADATA: dict[str, Any] = {
    "estimator": "xmin_mid",
    "layers": ["a", "b", "c"],
    "frozen": ["a"],
    "verdicts": ["heavy-tailed", "light-tailed", "too few eigenvalues"],
}
ALPHAS = {"alpha": np.array([2.0, 7.0, 2.5])}


def test_the_verdicts_that_say_nothing_are_those_of_the_estimators() -> None:
    assert set(power_law._PROBLEMS) == UNTRUSTED


def test_bundle_file_and_json_say_the_same(tmp_path: Path, tiny_bundle: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    assert bundle_report(open_bundle(bundle)) is None
    result = analyze(str(bundle))
    report = bundle_report(open_bundle(bundle))
    assert report is not None and report == read_alpha_report(bundle / "alpha.safetensors")
    (tmp_path / "a.json").write_text(json.dumps(result.to_json()))
    again = read_alpha_report(tmp_path / "a.json")
    assert again == report
    assert report.median == result.median_alpha and report.estimator == "xmin_peak"
    assert [name for name, layer in report.layers.items() if layer.frozen] == list(result.frozen)


def test_an_alpha_that_is_not_to_be_trusted_is_none(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors", ALPHAS, METADATA)
    report = read_alpha_report(tmp_path / "a.safetensors")
    assert [layer.alpha for layer in report.layers.values()] == [2.0, 7.0, math.inf] and report.median == 7.0
    assert [layer.decision for layer in report.layers.values()] == ["frozen", "trained", "trained"]


def test_another_window_is_another_estimator(tmp_path: Path) -> None:
    for window, estimator in (("log", "xmin_mid"), ("linear", "xmin_mid (linear)")):
        write_tensors(tmp_path / "a.safetensors", ALPHAS, {**METADATA, "window": window})
        assert read_alpha_report(tmp_path / "a.safetensors").estimator == estimator


@pytest.mark.parametrize(
    "change",
    [
        *({key: None} for key in METADATA),
        {"layers": ["a", "b"]},
        {"verdicts": ["x"]},
        {"layers": [1, 2, 3]},
        {"layers": [], "verdicts": []},
        {"window": 3},
    ],
)
def test_a_tensor_file_that_is_no_report_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    arrays = ALPHAS if change.get("layers", 1) else {"alpha": np.zeros(0)}
    write_tensors(tmp_path / "a.safetensors", arrays, {**METADATA, **change})
    with pytest.raises(BundleError, match=r"not an alpha report: .*analyze --json`$") as caught:
        read_alpha_report(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("array", [None, np.zeros(2), np.zeros((3, 1)), np.zeros(3, np.float32)])
def test_an_alpha_for_each_layer_is_needed(tmp_path: Path, array: Any) -> None:
    write_tensors(tmp_path / "a.safetensors", {} if array is None else {"alpha": array}, METADATA)
    with pytest.raises(BundleError, match=r"not an alpha report: .*one alpha and one verdict"):
        read_alpha_report(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "text", ["", "{}", "[1", "null", '{"estimator": "x", "median_alpha": 1, "layers": []}', "\0\1"]
)
def test_other_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BundleError, match=r"not an alpha report: .*analyze --json`$") as caught:
        read_alpha_report(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(5))
def test_the_rank_correlation_is_pearsons_of_ranks_and_without_ties_the_short_formula(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def ranks(values: list[float]) -> list[float]:
        return [sum(other < value for other in values) + (values.count(value) + 1) / 2 for value in values]

    a, b = rng.integers(0, 4, 30).tolist(), rng.integers(0, 3, 30).tolist()
    assert rank_correlation(a, b) == pytest.approx(np.corrcoef(ranks(a), ranks(b))[0, 1])
    a, b = rng.normal(size=9).tolist(), rng.normal(size=9).tolist()
    squares = sum((x - y) ** 2 for x, y in zip(ranks(a), ranks(b), strict=True))
    assert rank_correlation(a, b) == pytest.approx(1 - 6 * squares / (9 * 80))


def test_the_rank_correlation_sees_the_order_alone_and_may_not_exist() -> None:
    assert rank_correlation([1, 2, 3], [1, 20, 300]) == 1.0 and rank_correlation([1, 2, 3], [3, 2, 1]) == -1.0
    assert rank_correlation([], []) is rank_correlation([1], [2]) is rank_correlation([1, 1], [1, 2]) is None


def test_reports_are_matched_by_name_and_unfitted_layers_have_no_rank() -> None:
    one = AlphaReport(
        "x", {name: LayerAlpha(alpha, alpha < 3) for name, alpha in zip("abcd", (2, 4, 5, 9), strict=True)}
    )
    two = AlphaReport(
        "y", {name: LayerAlpha(alpha, alpha < 5) for name, alpha in zip("ecba", (1, math.inf, 4, 3), strict=True)}
    )
    found = compare_alphas(one, two)
    assert (list(found.layers), found.only_a, found.only_b) == (["a", "b", "c"], ("d",), ("e",))
    assert found.changed == ("b",) and found.spearman == 1.0
