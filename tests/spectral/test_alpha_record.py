"""The alpha report as tensors: what stands in it, and what fine-tuning takes from it."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opentrans_cli.bundle.layout import ALPHA
from opentrans_cli.bundle.store import Bundle, add_file, open_bundle
from opentrans_cli.spectral.power_law import trusted
from opentrans_cli.spectral.report import recorded_alphas
from opentrans_cli.steps.analyze.analyze import analyze
from opentrans_cli.steps.analyze.result import AnalyzeResult
from opentrans_cli.steps.prune.prune import prune
from opentrans_cli.steps.step_record import step_record

COLUMNS = {"alpha", "xmin", "ks_distance", "standard_error", "stable_rank", "log_norm", "tail_size"}
GOLDEN = Path(__file__).parents[1] / "golden" / "bundle-v1"


@pytest.fixture
def bundle(tmp_path: Path, tiny_bundle: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def stored(bundle: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    report = open_bundle(bundle).alpha()
    assert report is not None
    return report


def columns(arrays: dict[str, Any]) -> set[str]:
    return {name for name in arrays if not name.startswith("eigenvalues.")}


def put(bundle: Path, arrays: dict[str, Any], metadata: dict[str, Any]) -> Bundle:
    step = step_record("analyze", {}, seed=0, metrics={})
    return add_file(open_bundle(bundle), ALPHA, (arrays, metadata), step=step)


def test_the_file_holds_what_the_result_says_layer_by_layer(bundle: Path) -> None:
    result = analyze(str(bundle))
    arrays, metadata = stored(bundle)
    assert columns(arrays) == COLUMNS
    assert metadata == {
        "estimator": "xmin_peak",
        "window": "log",
        "layers": [layer.name for layer in result.layers],
        "frozen": list(result.frozen),
        "verdicts": [layer.verdict for layer in result.layers],
        "stable": [result.trust[layer.name].stability.stable for layer in result.layers],
    }
    for place, layer in enumerate(result.layers):
        assert arrays["alpha"][place] == layer.fit.alpha and arrays["tail_size"][place] == layer.fit.tail_size
        assert arrays["stable_rank"][place] == layer.metrics.stable_rank
        assert np.array_equal(arrays[f"eigenvalues.{layer.name}"], layer.eigenvalues.numpy())
    assert arrays["tail_size"].dtype == np.int64 and arrays["alpha"].dtype == np.float64


def test_intervals_are_columns_where_there_are_resamples(bundle: Path) -> None:
    result = analyze(str(bundle), bootstrap=5)
    arrays, _ = stored(bundle)
    assert columns(arrays) == COLUMNS | {"interval_low", "interval_high", "agreement"}
    trust = [result.trust[layer.name] for layer in result.layers]
    ends = list(zip(arrays["interval_low"].tolist(), arrays["interval_high"].tolist(), strict=True))
    assert ends == [layer.interval for layer in trust]
    assert arrays["agreement"].tolist() == [layer.stability.agreement for layer in trust]


def test_recorded_alphas_are_those_of_the_result(bundle: Path) -> None:
    result = analyze(str(bundle))
    assert recorded_alphas(open_bundle(bundle), estimator="xmin_peak") == {
        layer.name: layer.alpha for layer in result.layers
    }


def test_no_report_and_one_by_another_rule_are_none(bundle: Path) -> None:
    assert recorded_alphas(open_bundle(bundle), estimator="xmin_peak") is None
    analyze(str(bundle), estimator="xmin_mid")
    assert recorded_alphas(open_bundle(bundle), estimator="xmin_peak") is None
    assert recorded_alphas(open_bundle(bundle), estimator="xmin_mid") is not None
    analyze(str(bundle), window="linear")
    assert recorded_alphas(open_bundle(bundle), estimator="xmin_peak") is None


def test_a_layer_whose_verdict_names_a_problem_is_infinite_though_the_file_keeps_its_alpha(tmp_path: Path) -> None:
    """At 99.9 % nearly every layer has fewer than ten eigenvalues; a few of those have a finite exponent."""
    path = prune("tiny", sparsity=0.999, out=tmp_path / "b", device="cpu").path
    result = analyze(str(path))
    doubtful = [x.name for x in result.layers if not trusted(x.verdict) and math.isfinite(x.fit.alpha)]
    assert doubtful
    arrays, metadata = stored(path)
    recorded = recorded_alphas(open_bundle(path), estimator="xmin_peak")
    assert recorded is not None and all(recorded[name] == math.inf for name in doubtful)
    assert all(math.isfinite(arrays["alpha"][metadata["layers"].index(name)]) for name in doubtful)
    assert not {*doubtful} & {*result.frozen}


def test_a_report_of_version_0_1_says_nothing_of_its_window_and_is_read_all_the_same(bundle: Path) -> None:
    result = analyze(str(bundle))
    arrays, metadata = stored(bundle)
    old = {name: value for name, value in metadata.items() if name not in ("window", "stable")}
    changed = put(bundle, arrays, old)
    assert recorded_alphas(changed, estimator="xmin_peak") == {layer.name: layer.alpha for layer in result.layers}
    assert recorded_alphas(changed, estimator="xmin_ks") is None


def test_a_report_that_does_not_say_its_verdicts_is_none() -> None:
    golden = open_bundle(GOLDEN)
    report = golden.alpha()
    assert report is not None and report[1]["estimator"] == "xmin_peak" and "verdicts" not in report[1]
    assert recorded_alphas(golden, estimator="xmin_peak") is None


def test_fine_tuning_freezes_by_the_recorded_alphas_and_no_layer_with_a_problem(bundle: Path, tmp_path: Path) -> None:
    """The record is turned upside down, so what is frozen can only come from it."""
    from opentrans_cli.steps.finetune.finetune import finetune

    result = analyze(str(bundle))
    arrays, metadata = stored(bundle)
    names = metadata["layers"]
    doubtful = names[-1]
    arrays["alpha"] = np.linspace(9, 2, len(names))
    put(bundle, arrays, {**metadata, "verdicts": ["heavy-tailed"] * (len(names) - 1) + ["too few eigenvalues"]})
    trained = finetune(bundle, out=tmp_path / "f", steps=1, batch_size=2, crop=64, limit=2, device="cpu")
    half = len(names) // 2
    assert set(trained.cost["frozen_layers"]) == set(names[-half - 1 : -1])
    assert doubtful not in trained.cost["frozen_layers"] and set(result.frozen) != set(names[-half - 1 : -1])


def test_the_same_result_is_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    result: AnalyzeResult = analyze(str(bundle), bootstrap=3, null=True)
    first = (bundle / ALPHA).read_bytes()
    again = analyze(str(bundle), **vars(replace(result.options)))
    assert (bundle / ALPHA).read_bytes() == first and again.to_json() == result.to_json()
