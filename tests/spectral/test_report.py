"""Alpha reports: the same from a bundle, its file and the JSON of `analyze`; older ones too, no others."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opentrans_cli.bundle.layout import ALPHA
from opentrans_cli.bundle.store import add_file, open_bundle
from opentrans_cli.errors import BundleError
from opentrans_cli.files.tensorfile import write_tensors
from opentrans_cli.spectral.report import (
    PROBLEMS,
    AlphaReport,
    LayerAlpha,
    PowerLawFit,
    bundle_report,
    compare_alphas,
    rank_correlation,
    read_alpha_report,
)
from opentrans_cli.steps.analyze.analyze import analyze
from opentrans_cli.steps.prune.prune import prune
from opentrans_cli.steps.step_record import step_record

METADATA: dict[str, Any] = {
    "estimator": "xmin_mid",
    "layers": ["a", "b", "c"],
    "frozen": ["a"],
    "verdicts": ["heavy-tailed", "light-tailed", "too few eigenvalues"],
}
ALPHAS = {"alpha": np.array([2.0, 7.0, 2.5])}


COLUMNS = {"alpha", "xmin", "ks_distance", "standard_error", "stable_rank", "log_norm", "tail_size"}
GOLDEN = Path(__file__).parents[1] / "golden" / "bundle-v1"


@pytest.fixture
def bundle(tmp_path: Path, tiny_bundle: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def stored(bundle: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    report = open_bundle(bundle).alpha()
    assert report is not None
    return report


def report_of(bundle: Path) -> AlphaReport:
    report = bundle_report(open_bundle(bundle))
    assert report is not None
    return report


def test_the_file_holds_what_the_result_says_layer_by_layer(bundle: Path) -> None:
    result = analyze(str(bundle), freeze="light", freeze_ratio=0.3)
    arrays, metadata = stored(bundle)
    assert {name for name in arrays if not name.startswith("eigenvalues.")} == COLUMNS
    assert metadata == {
        "estimator": "xmin_peak",
        "window": "log",
        "layers": [layer.name for layer in result.layers],
        "frozen": list(result.frozen),
        "verdicts": [layer.verdict for layer in result.layers],
        "stable": [not layer.unstable for layer in result.layers],
        "selection": {"freeze": "light", "rule": "ratio", "number": 0.3},
    }
    for place, layer in enumerate(result.layers):
        assert all(arrays[name][place] == value for name, value in vars(layer.fit).items())
        assert arrays["stable_rank"][place] == layer.stable_rank
        assert np.array_equal(arrays[f"eigenvalues.{layer.name}"], layer.eigenvalues)
    assert arrays["tail_size"].dtype == np.int64 and arrays["alpha"].dtype == np.float64


def test_intervals_are_columns_where_there_are_resamples_and_the_same_result_is_the_same_bytes(bundle: Path) -> None:
    result = analyze(str(bundle), bootstrap=3, null=True)
    arrays, _ = stored(bundle)
    added = {name for name in arrays if not name.startswith("eigenvalues.")} - COLUMNS
    assert added == {"interval_low", "interval_high", "agreement"}
    ends = list(zip(arrays["interval_low"].tolist(), arrays["interval_high"].tolist(), strict=True))
    assert ends == [layer.interval for layer in result.layers]
    assert arrays["agreement"].tolist() == [layer.stability and layer.stability.agreement for layer in result.layers]
    first = (bundle / ALPHA).read_bytes()
    assert analyze(str(bundle), **vars(result.options)).to_json() == result.to_json()
    assert (bundle / ALPHA).read_bytes() == first


def test_bundle_file_and_json_say_the_same(bundle: Path, tmp_path: Path) -> None:
    assert bundle_report(open_bundle(bundle)) is None
    result = analyze(str(bundle), freeze_threshold=3.0)
    report = report_of(bundle)
    assert report == read_alpha_report(bundle / "alpha.safetensors")
    (tmp_path / "a.json").write_text(json.dumps(result.to_json()))
    assert read_alpha_report(tmp_path / "a.json") == report
    assert report.alphas == {layer.name: layer.alpha for layer in result.layers}
    assert (report.median, report.fitted_by, report.frozen) == (result.median_alpha, "xmin_peak", result.frozen)
    assert report.selection == {"freeze": "heavy", "rule": "threshold", "number": 3.0}


def test_a_layer_whose_verdict_names_a_problem_is_infinite_though_the_file_keeps_its_alpha(tmp_path: Path) -> None:
    """At 99.9 % nearly every layer has fewer than ten eigenvalues; a few of those have a finite exponent."""
    path = prune("tiny", sparsity=0.999, out=tmp_path / "b", device="cpu").path
    result = analyze(str(path))
    doubtful = [x.name for x in result.layers if x.verdict in PROBLEMS and math.isfinite(x.fit.alpha)]
    assert doubtful
    arrays, metadata = stored(path)
    alphas = report_of(path).alphas
    assert all(alphas[name] == math.inf for name in doubtful)
    assert all(math.isfinite(arrays["alpha"][metadata["layers"].index(name)]) for name in doubtful)
    assert not {*doubtful} & {*result.frozen}


def test_a_report_of_version_0_1_says_nothing_of_window_and_rule_and_is_read_all_the_same(bundle: Path) -> None:
    result = analyze(str(bundle))
    arrays, metadata = stored(bundle)
    old = {name: value for name, value in metadata.items() if name not in ("window", "stable", "selection")}
    add_file(open_bundle(bundle), ALPHA, (arrays, old), step=step_record("analyze", {}, seed=0))
    report = report_of(bundle)
    assert (report.window, report.selection, report.frozen) == ("log", None, result.frozen)
    assert report.alphas == {layer.name: layer.alpha for layer in result.layers}


def test_a_report_that_does_not_say_its_verdicts_is_none() -> None:
    golden = open_bundle(GOLDEN)
    report = golden.alpha()
    assert report is not None and report[1]["estimator"] == "xmin_peak" and "verdicts" not in report[1]
    assert bundle_report(golden) is None


def test_of_a_bare_file_the_alphas_count_and_a_problem_has_none(tmp_path: Path) -> None:
    for window, estimator in (("log", "xmin_mid"), ("linear", "xmin_mid (linear)")):
        write_tensors(tmp_path / "a.safetensors", ALPHAS, {**METADATA, "window": window})
        report = read_alpha_report(tmp_path / "a.safetensors")
        assert report.fitted_by == estimator
        assert list(report.alphas.values()) == [2.0, 7.0, math.inf] and report.median == 7.0
        assert [layer.decision for layer in report.layers] == ["frozen", "trained", "trained"]


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
    def report(names: str, alphas: tuple[float, ...], limit: float) -> AlphaReport:
        fits = [PowerLawFit(alpha, 1, 0.1, 20, 0.1) for alpha in alphas]
        layers = [LayerAlpha(n, fit, "heavy-tailed", fit.alpha < limit) for n, fit in zip(names, fits, strict=True)]
        return AlphaReport("xmin_ks", "log", tuple(layers))

    found = compare_alphas(report("abcd", (2, 4, 5, 9), 3), report("ecba", (1, math.inf, 4, 3), 5))
    assert ([a.name for a, _ in found.layers], found.only_a, found.only_b) == (["a", "b", "c"], ("d",), ("e",))
    assert found.changed == ("b",) and found.spearman == 1.0
