"""analyze: the report as JSON, table and path, the choice of layers, and bad input."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.spectral.esd import eigenvalues
from opentrans_cli.spectral.estimators import ESTIMATORS, estimator


def frozen(document: dict[str, Any]) -> list[str]:
    return [layer["name"] for layer in document["layers"] if layer["decision"] == "frozen"]


def test_json_is_the_report_of_the_contract(run_cli: Any, bundle: Path) -> None:
    document = json.loads(run_cli("analyze", bundle, "--json").stdout)
    check_document(document, "analyze_report")
    layers = {layer.name for layer in open_bundle(bundle).manifest.layers}
    assert {layer["name"] for layer in document["layers"]} == layers | {"conv1"}


def test_a_bundle_and_its_dense_source_are_told_apart(run_cli: Any, bundle: Path) -> None:
    dense = json.loads(run_cli("analyze", "tiny", "--json").stdout)
    pruned = json.loads(run_cli("analyze", bundle, "--json").stdout)
    check_document(dense, "analyze_report")
    alphas = [{layer["name"]: layer["alpha"] for layer in document["layers"]} for document in (dense, pruned)]
    assert alphas[0].keys() == alphas[1].keys()
    assert alphas[0]["conv1"] == alphas[1]["conv1"] and alphas[0] != alphas[1]


def test_layers_with_the_smaller_alphas_are_frozen(run_cli: Any, bundle: Path) -> None:
    document = json.loads(run_cli("analyze", bundle, "--json").stdout)
    chosen = frozen(document)
    below = [layer["name"] for layer in document["layers"] if layer["alpha"] < document["median_alpha"]]
    assert chosen == below and len(chosen) == len(document["layers"]) // 2


@pytest.mark.parametrize(("mode", "count"), [("heavy", 4), ("light", 4), ("random", 4), ("none", 0)])
def test_mode_and_ratio_decide_how_many_are_frozen(mode: str, count: int, run_cli: Any, bundle: Path) -> None:
    line = ("analyze", bundle, "--freeze", mode, "--freeze-ratio", 0.25, "--json")
    chosen = frozen(json.loads(run_cli(*line).stdout))
    assert len(chosen) == count and frozen(json.loads(run_cli(*line).stdout)) == chosen


def test_a_very_sparse_bundle_has_a_valid_report(run_cli: Any, desk: Path) -> None:
    """Layers that lost nearly everything have no power law; the report says so in JSON, without NaN."""
    run_cli("prune", "tiny", "-s", 0.9999, "-o", desk / "b")
    result = run_cli("analyze", desk / "b", "--json")
    assert result.exit_code == 0
    check_document(json.loads(result.stdout), "analyze_report")


KEYS = {
    *("source", "estimator", "window", "freeze", "rule", "number"),
    *("median_alpha", "frozen", "layers", "left_out"),
}
ENTRY = {
    *("name", "shape", "alpha", "ks_distance", "xmin", "tail_size", "standard_error", "eigenvalues"),
    *("stable_rank", "decision", "verdict", "stable", "same_decision_by"),
}
ADDED = {"--bootstrap": {"interval", "agreement"}, "--null": {"null_alpha"}, "--against": {"against_alpha"}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A checkpoint that is no CLIP: a convolution, two linear layers, and what is no layer."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"stem.weight": (8, 12, 3, 3), "fc.weight": (40, 30), "proj": (24, 24), "fc.bias": (40,)}
    save_file(
        {name: torch.randn(s, generator=generator) * 0.3 for name, s in shapes.items()}, tmp_path / "x.safetensors"
    )
    return tmp_path / "x.safetensors"


def report(run_cli: Any, *line: object) -> dict[str, Any]:
    result = run_cli("analyze", *line, "--json", "--quiet")
    assert result.exit_code == 0 and result.stderr == "", result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    check_document(document, "analyze_report")
    return document


@pytest.mark.parametrize("rule", ESTIMATORS.names())
def test_a_bare_file_gives_the_documented_keys_and_the_numbers_of_the_library(
    rule: str, run_cli: Any, file: Path
) -> None:
    document, state, fit = report(run_cli, file, "--estimator", rule), load_file(file), estimator(rule)
    assert set(document) == KEYS and all(set(entry) == ENTRY for entry in document["layers"])
    assert [(entry["name"], entry["shape"]) for entry in document["layers"]] == [
        ("fc", [40, 30]),
        ("stem", [8, 12, 3, 3]),
    ]
    for entry in document["layers"]:
        values = eigenvalues(state[f"{entry['name']}.weight"].numpy())
        found = fit(values)
        assert (entry["alpha"], entry["ks_distance"], entry["xmin"]) == (found.alpha, found.ks_distance, found.xmin)
        assert (entry["tail_size"], entry["eigenvalues"]) == (found.tail_size, len(values))
    assert document["left_out"] == [
        {"reason": "projection without a module", "count": 1, "names": ["proj"]},
        {"reason": "1-dimensional", "count": 1, "names": []},
    ]


def test_each_question_adds_its_fields(run_cli: Any, bundle: Path) -> None:
    given = {"--bootstrap": (5,), "--null": (), "--against": ("base",)}
    for option, value in given.items():
        document = report(run_cli, bundle, option, *value)
        assert all(set(entry) == ENTRY | ADDED[option] for entry in document["layers"])
    priced = report(run_cli, "tiny", "--frontier")
    assert set(priced) == KEYS | {"frontier", "resolution"} and priced["resolution"] == [64, 64]
    assert [point["chosen"] for point in priced["frontier"]] == [False] * 11 + [True]


def test_spectra_without_an_alpha_are_null_with_a_verdict(run_cli: Any, tmp_path: Path) -> None:
    state = {"zero.weight": torch.zeros(20, 20), "one.weight": torch.ones(1, 4), "eye.weight": 3 * torch.eye(12)}
    save_file(state, tmp_path / "edge.safetensors")
    for rule in ESTIMATORS.names():
        document = report(run_cli, tmp_path / "edge.safetensors", "--estimator", rule, "--bootstrap", 3, "--null")
        verdicts = {entry["name"]: entry["verdict"] for entry in document["layers"]}
        assert verdicts == {"zero": "zero matrix", "one": "too few eigenvalues", "eye": "degenerate spectrum"}
        assert [entry["alpha"] for entry in document["layers"]] == [None] * 3
        assert document["median_alpha"] is None and document["frozen"] == 0
    table = run_cli("analyze", tmp_path / "edge.safetensors", "--bootstrap", 3, "--null")
    assert table.exit_code == 0 and "degenerate spectrum" in table.stdout and "nan" not in table.stdout
    said = " ".join(table.stdout.split())  # lines are wrapped, where depends on how long the folder's name is
    assert "no median alpha, for most layers have no fit" in said and "inf" not in said


def test_the_mended_window_gives_other_alphas_where_the_unit_of_the_weights_is_large(
    run_cli: Any, tmp_path: Path
) -> None:
    """The published lower end compares a logarithm with plain values, so it binds above a peak of 1 alone."""
    generator = torch.Generator().manual_seed(3)
    save_file({"a.weight": torch.randn(80, 60, generator=generator) * 9}, tmp_path / "large.safetensors")
    log, linear = (report(run_cli, tmp_path / "large.safetensors", "--window", w) for w in ("log", "linear"))
    assert (log["window"], linear["window"]) == ("log", "linear")
    assert log["layers"][0]["alpha"] != linear["layers"][0]["alpha"]


def test_the_table_has_columns_for_what_was_asked_and_marks_what_is_not_firm(run_cli: Any, bundle: Path) -> None:
    plain = run_cli("analyze", "tiny").stdout
    full = run_cli("analyze", "tiny", "--bootstrap", 5, "--null", "--against", bundle, "--frontier").stdout
    assert not {"95", "null", "other"} & set(plain.split()) and {"95", "null", "other"} <= set(full.split())
    assert "as the paper counts" in full and "by median" in full and "64 x 64" in full
    assert "left out, output head: 4" in plain and "9 of 19 layers frozen by median" in plain
    unstable = sum(not entry["stable"] for entry in report(run_cli, "tiny")["layers"])
    assert plain.count("frozen?") + plain.count("trained?") == unstable > 0
    assert f"{unstable} of 19 decisions would change" in plain and "by name with --freeze-layer" in plain


def test_random_matrices_among_the_frozen_are_counted(run_cli: Any, file: Path) -> None:
    said = run_cli("analyze", file).stdout
    assert "1 of 2 layers frozen by median (1 of them random-like: no sign of training)" in said
    assert "9 of 18 layers frozen by median:" in run_cli("analyze", "tiny", "--exclude", "layer1.0.conv1").stdout


@pytest.mark.parametrize("extra", [(), ("--bootstrap", 5), ("--bootstrap", 5, "--null", "--against", "base")])
def test_the_table_fits_80_columns(extra: tuple[Any, ...], bundle: Path) -> None:
    """With names as long as those of RN50; columns that are in --json make room."""
    from rich.console import Console

    from opentrans_cli.cli.analyze import _layers
    from opentrans_cli.steps.analyze.analyze import analyze
    from opentrans_cli.steps.analyze.options import AnalyzeOptions

    options = AnalyzeOptions(bootstrap=5 if "--bootstrap" in extra else 0, null="--null" in extra)
    result = analyze(str(bundle), **vars(options), against="base" if "--against" in extra else None)
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    table = _layers(console, result)
    console.print(table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    header = next(place for place, line in enumerate(lines) if line.startswith(" layer "))
    rows = [line.split()[0] for line in lines[header + 2 :] if line.strip()]
    assert rows == [layer.name for layer in result.layers], "a line for each, none broken"


def test_names_of_a_checkpoint_are_shown_and_not_obeyed(run_cli: Any, tmp_path: Path) -> None:
    state = {"a[/b].weight": torch.randn(20, 20), "\x1b[2Jc\n.weight": torch.randn(20, 20)}
    save_file(state, tmp_path / "[red]x.safetensors")
    shown = run_cli("analyze", tmp_path / "[red]x.safetensors").stdout.replace("\n", "")  # a long path is folded
    assert "a[/b]" in shown and "?[2Jc?" in shown and "[red]x.safetensors" in shown and "\x1b" not in shown


def test_a_pipe_gets_the_path_that_was_written(run_cli: Any, bundle: Path, desk: Path) -> None:
    assert run_cli("analyze", bundle, "-q").stdout == f"{bundle}\n"
    assert run_cli("analyze", "tiny", "-o", desk / "report", "-q").stdout == f"{desk / 'report'}\n"
    assert run_cli("analyze", "tiny", "--plot", desk / "page.svg", "-q").stdout == f"{desk / 'page.svg'}\n"
    assert "median alpha" in run_cli("analyze", "tiny", "-q").stdout


# Bad input: one line, nothing written.


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--window", "linear", "--estimator", "xmin_ks"), "only xmin_peak has a window: xmin_ks"),
        (("--freeze-ratio", 0.5, "--freeze-threshold", 2), "more than one rule says which layers to freeze"),
        (("--freeze-threshold", 2, "--freeze-top", 2), "threshold and top; give one"),
        (("--freeze-threshold", 1), "out of range: --freeze-threshold 1.0; give above 1"),
        (("--freeze-top", 2, "--freeze", "random"), "a top needs alphas to compare: freeze mode 'random'"),
        (("--freeze-list", "none.txt"), "cannot read the list of layers: none.txt"),
        (("--freeze-list", "none.txt", "--freeze-ratio", 0.5), "ratio and list; give one"),
        (("--include", "layer9.*"), "no layer is called so: --include layer9.*"),
        (("--exclude", "*"), "no layer is left to analyse"),
        (("--esd", "conv1"), "spectra are drawn into a picture: --esd conv1"),
        (("--resolution", 64), "nothing is priced: --resolution"),
        (("--resolution", 0, "--frontier"), "resolution is too small: 0 pixels"),
        (("--against", "base"), "only a bundle has a base to compare with"),
    ],
)
def test_wrong_usage(options: tuple[Any, ...], told: str, refused: Any) -> None:
    assert told in refused("analyze", "tiny", *options, code=2)


def test_what_cannot_be_written_or_drawn_is_refused(refused: Any, desk: Path, file: Path) -> None:
    assert "not a kind of picture: 'x.pdf'" in refused("analyze", file, "--plot", desk / "x.pdf", code=2)
    named = ("--plot", desk / "new.png", "--esd", "zz*")
    assert "no analyzed layer is called so: --esd zz*" in refused("analyze", file, *named, code=2)


def test_a_weight_that_is_no_number_is_told_with_its_layer(refused: Any, desk: Path, tmp_path: Path) -> None:
    for value in ("nan", "inf"):
        state = {"a.weight": torch.randn(12, 12), "b.weight": torch.full((12, 12), float(value))}
        save_file(state, tmp_path / "bad.safetensors")
        told = refused("analyze", tmp_path / "bad.safetensors", "-o", desk / "report")
        assert "NaN or infinite values: layer b; " in told


def test_the_price_of_what_is_no_clip_is_refused(refused: Any, file: Path) -> None:
    for options in (("--frontier",), ("--freeze-top", 1)):
        assert "costs of the layers are not known" in refused("analyze", file, *options, code=2)
