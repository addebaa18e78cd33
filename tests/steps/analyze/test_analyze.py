"""Which layers an analysis freezes, by every rule; what it prices, compares and leaves alone."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from opentrans_cli.bundle.layout import ALPHA
from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.clip.source import load_clip
from opentrans_cli.errors import OptionError, SourceError, SpectrumError
from opentrans_cli.spectral.esd import eigenvalues
from opentrans_cli.spectral.estimators import ESTIMATORS, estimator
from opentrans_cli.spectral.report import bundle_report
from opentrans_cli.steps.analyze.analyze import analyze, read_freeze_list
from opentrans_cli.steps.analyze.frontier import TowerPrices
from opentrans_cli.steps.analyze.options import AnalyzeOptions
from opentrans_cli.steps.analyze.result import AnalyzeResult
from opentrans_cli.steps.prune.options import PruneOptions
from opentrans_cli.steps.prune.prune import prune

Write = Callable[[dict[str, Tensor]], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def save(state: dict[str, Tensor]) -> str:
        save_file(state, tmp_path / "file.safetensors")
        return str(tmp_path / "file.safetensors")

    return save


@pytest.fixture
def bundle(tmp_path: Path, tiny_bundle: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def sound() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (40, 30), "b": (24, 24), "c": (8, 12, 3, 3), "d": (64, 20), "e": (30, 50)}
    return {f"{name}.weight": torch.randn(s, generator=generator) * 0.2 for name, s in shapes.items()}


def broken() -> dict[str, Tensor]:
    """A layer for every verdict that names a problem."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(30, 30, generator=generator)
    return {
        "one.weight": torch.ones(1, 5),
        "few.weight": torch.randn(4, 30, generator=generator),
        "orthogonal.weight": torch.linalg.qr(noise).Q.contiguous(),
        "zero.weight": torch.zeros(20, 20),
        "tiny.weight": noise * 1e-5,
    }


PROBLEMS = {
    "one": "too few eigenvalues",
    "few": "too few eigenvalues",
    "orthogonal": "degenerate spectrum",
    "zero": "zero matrix",
    "tiny": "below threshold",
}


def alphas(result: AnalyzeResult) -> dict[str, float]:
    return {layer.name: layer.alpha for layer in result.layers}


@pytest.mark.parametrize("rule", ESTIMATORS.names())
def test_numbers_are_those_of_the_library(rule: str, write: Write) -> None:
    state, fit = sound(), estimator(rule)
    result = analyze(write(state), estimator=rule)
    assert [layer.name for layer in result.layers] == ["a", "b", "c", "d", "e"]
    for layer in result.layers:
        assert layer.fit == fit(eigenvalues(state[f"{layer.name}.weight"].numpy()))
    assert result.median_alpha == sorted(alphas(result).values())[2] and result.rule == "median"


@pytest.mark.parametrize(
    "options",
    [
        AnalyzeOptions(),
        AnalyzeOptions(freeze="light"),
        AnalyzeOptions(freeze="random"),
        AnalyzeOptions(freeze_ratio=1.0),
        AnalyzeOptions(freeze_ratio=1.0, freeze="light"),
        AnalyzeOptions(freeze_ratio=1.0, freeze="random"),
        AnalyzeOptions(freeze_threshold=100.0),
        AnalyzeOptions(freeze_threshold=1.01, freeze="light"),
    ],
)
@pytest.mark.parametrize("rule", ESTIMATORS.names())
def test_a_layer_without_an_alpha_has_a_verdict_and_is_never_frozen(
    rule: str, options: AnalyzeOptions, write: Write
) -> None:
    from dataclasses import replace

    result = analyze(write({**sound(), **broken()}), **vars(replace(options, estimator=rule, bootstrap=2, null=True)))
    assert {layer.name: layer.verdict for layer in result.layers if layer.name in PROBLEMS} == PROBLEMS
    assert not set(result.frozen) & set(PROBLEMS)
    document = result.to_json()
    check_document(document, "analyze_report")
    assert all(math.isinf(alphas(result)[name]) for name in PROBLEMS)


def test_a_file_of_nothing_sound_has_no_median_and_freezes_nothing(write: Write) -> None:
    result = analyze(write(broken()))
    assert (result.frozen, result.median_alpha, result.to_json()["median_alpha"]) == ((), math.inf, None)
    check_document(result.to_json(), "analyze_report")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_no_number_is_told_with_its_layer_and_nothing_is_written(
    value: float, write: Write, tmp_path: Path
) -> None:
    state = sound()
    state["c.weight"][1, 2, 0, 1] = value
    with pytest.raises(SpectrumError, match="NaN or infinite values: layer c; "):
        analyze(write(state))
    assert [path.name for path in tmp_path.iterdir()] == ["file.safetensors"]


def test_every_rule_freezes_what_it_says(write: Write) -> None:
    source = write(sound())
    ranked = sorted(alphas(analyze(source)).items(), key=lambda item: item[1])
    names, values = [name for name, _ in ranked], [value for _, value in ranked]
    limit = (values[2] + values[3]) / 2
    expected = {
        AnalyzeOptions(): ("median", names[:2]),
        AnalyzeOptions(freeze="light"): ("median", names[3:]),
        AnalyzeOptions(freeze="none"): ("none", []),
        AnalyzeOptions(freeze_ratio=0.6): ("ratio", names[:3]),
        AnalyzeOptions(freeze_ratio=0.6, freeze="light"): ("ratio", names[2:]),
        AnalyzeOptions(freeze_threshold=limit): ("threshold", names[:3]),
        AnalyzeOptions(freeze_threshold=limit, freeze="light"): ("threshold", names[3:]),
    }
    for options, (rule, frozen) in expected.items():
        result = analyze(source, **vars(options))
        assert (result.rule, set(result.frozen)) == (rule, set(frozen))


def test_top_takes_the_dearest_of_the_half_by_weight_gradient() -> None:
    costs = {layer.name: layer for layer in TowerPrices(load_clip("tiny").model_cfg).layers}
    half = analyze("tiny")
    top = analyze("tiny", freeze_top=3)
    dearest = sorted(half.frozen, key=lambda name: -costs[name].weight_gradient)[:3]
    assert (top.rule, set(top.frozen)) == ("top", set(dearest)) and len(half.frozen) > 3
    assert analyze("tiny", freeze_top=99).frozen == half.frozen


@pytest.mark.parametrize(
    "rules", [{"freeze_ratio": 0.5, "freeze_threshold": 2.0}, {"freeze_ratio": 0.5, "freeze_top": 1}]
)
def test_two_rules_contradict_each_other(rules: dict[str, float], write: Write) -> None:
    with pytest.raises(OptionError, match=r"^more than one rule says which layers to freeze: ratio and "):
        analyze(write(sound()), **rules)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", [{"freeze_ratio": 0.5}, {"freeze_threshold": 2.0}, {"freeze_top": 1}])
def test_a_list_stands_beside_no_other_rule(rule: dict[str, float], tmp_path: Path) -> None:
    (tmp_path / "list").write_text("conv1")
    with pytest.raises(OptionError, match=r"^more than one rule .*: (ratio|threshold|top) and list; give one"):
        analyze("tiny", **rule, freeze_list=tmp_path / "list")  # type: ignore[arg-type]


# Lists.


def test_a_list_is_frozen_as_it_is_and_stored_with_its_names(bundle: Path, tmp_path: Path) -> None:
    analyze(str(bundle))
    (tmp_path / "list").write_text("# the beginning\nconv2  # second\n\nconv1\nconv1\n")
    result = analyze(str(bundle), freeze_list=tmp_path / "list")
    assert (result.rule, result.frozen, result.path) == ("list", ("conv1", "conv2"), bundle)
    assert result.unstable == 0
    opened = open_bundle(bundle)
    report = bundle_report(opened)
    assert report is not None and (report.frozen, report.selection) == (
        ("conv1", "conv2"),
        {"freeze": "heavy", "rule": "list", "number": None},
    )
    assert opened.manifest.steps[-1].options["freeze_layer"] == ["conv1", "conv2"]
    (tmp_path / "list").write_text("conv1\n")
    again = analyze(str(bundle), freeze_list=tmp_path / "list", freeze_layer=("layer4.0.conv?",))
    assert again.frozen == ("conv1", "layer4.0.conv1", "layer4.0.conv2", "layer4.0.conv3")
    with pytest.raises(OptionError, match=r"^no analyzed layer is called so: --freeze-layer layer9"):
        analyze(str(bundle), freeze_layer=("layer9.*",))


def test_a_bad_list_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("conv1\nlayer9\n")
    with pytest.raises(OptionError, match=r"^no analyzed layer is called so: 'layer9' in .*list; see the names"):
        read_freeze_list(tmp_path / "list", ["conv1"])
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("none", "binary", "."):
        with pytest.raises(OptionError, match=r"^cannot read the list of layers: .*; give a text file"):
            read_freeze_list(tmp_path / name, ["conv1"])


# Prices.


def test_the_last_point_of_the_frontier_is_the_price_of_the_choice() -> None:
    result = analyze("tiny", frontier=True, resolution=96)
    *points, chosen = result.frontier
    config = load_clip("tiny").model_cfg
    assert chosen == TowerPrices(config, resolution=96).of(result.frozen) and result.image_size == (96, 96)
    assert (points[0].frozen, points[0].saved, points[0].saved_paper) == (0, 0, 0)
    totals = [point.total for point in points]
    assert totals == sorted(totals, reverse=True)
    check_document(result.to_json(), "analyze_report")
    assert analyze("tiny", frontier=True).image_size == (64, 64)


def test_a_bundle_is_priced_with_its_zeros_skipped(bundle: Path) -> None:
    dense, pruned = analyze("tiny", frontier=True).frontier, analyze(str(bundle), frontier=True).frontier
    assert pruned[0].frozen == 0 and pruned[0].saved > 0 and pruned[0].forward < dense[0].forward


def test_a_tower_in_a_file_without_its_text_tower_is_priced_like_the_whole(write: Write) -> None:
    visual = load_clip("tiny").model.visual.state_dict()
    whole = analyze("tiny", freeze_top=4, frontier=True)
    state = {f"backbone.{name}": tensor.contiguous() for name, tensor in visual.items() if "attnpool" not in name}
    trunk = analyze(write(state), freeze_top=4, frontier=True, resolution=64)
    assert trunk.frontier == whole.frontier and trunk.frozen == whole.frozen
    assert analyze(write(state), frontier=True).image_size == (224, 224)


@pytest.mark.parametrize("options", [{"frontier": True}, {"freeze_top": 1}])
def test_what_is_no_clip_has_no_price(options: dict[str, Any], write: Write) -> None:
    with pytest.raises(OptionError, match=r"^costs of the layers are not known: .*; leave --frontier and --freeze-top"):
        analyze(write(sound()), **options)


def test_a_tower_of_uneven_widths_is_not_priced_as_an_even_one(write: Write) -> None:
    state = {name: tensor.contiguous() for name, tensor in load_clip("tiny").model.visual.state_dict().items()}
    state["layer3.0.conv2.weight"] = state["layer3.0.conv2.weight"][:-4].contiguous()
    with pytest.raises(OptionError, match="does not tell the architecture of a CLIP"):
        analyze(write(state), frontier=True)


def test_a_resolution_needs_something_to_price() -> None:
    with pytest.raises(OptionError, match=r"^nothing is priced: --resolution; add --frontier or --freeze-top"):
        analyze("tiny", resolution=64)
    with pytest.raises(OptionError, match="resolution is too small: 16 pixels"):
        analyze("tiny", resolution=16, frontier=True)


# Two sources.


def test_the_base_of_a_bundle_is_its_dense_source(bundle: Path) -> None:
    result = analyze(str(bundle), against="base")
    assert result.against == alphas(analyze("tiny")) and result.against != alphas(result)
    assert result.to_json()["layers"][0]["against_alpha"] == result.against[result.layers[0].name]


def test_only_layers_of_both_are_compared(write: Write, tmp_path: Path) -> None:
    save_file({"a.weight": sound()["a.weight"] * 2, "z.weight": torch.ones(3, 3)}, tmp_path / "other.safetensors")
    result = analyze(write(sound()), against=str(tmp_path / "other.safetensors"))
    assert set(result.against) == {"a"}
    entries = {entry["name"]: entry for entry in result.to_json()["layers"]}
    assert "against_alpha" in entries["a"] and "against_alpha" not in entries["b"]


def test_a_source_that_cannot_be_compared_is_refused_before_the_work(
    write: Write, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opentrans_cli.steps.analyze.analyze.measure", None)
    with pytest.raises(OptionError, match=r"^only a bundle has a base to compare with: --against base; "):
        analyze("tiny", against="base")
    with pytest.raises(OptionError, match=r"^no layer in common: --against .*; name a source of the same"):
        analyze(str(bundle), against=write({"z.weight": torch.ones(3, 3)}))
    with pytest.raises(SourceError, match="no such checkpoint"):
        analyze(str(bundle), against="none.safetensors")
    assert not (bundle / ALPHA).exists()


# Bundles.


def test_measuring_a_bundle_records_the_options_and_keeps_its_digest(bundle: Path) -> None:
    before = open_bundle(bundle)
    options = AnalyzeOptions(estimator="xmin_mid", exclude=("layer4.*",), freeze_ratio=0.3, bootstrap=3, seed=5)
    result = analyze(str(bundle), **vars(options))
    after = open_bundle(bundle)
    step = after.manifest.steps[-1]
    assert (after.digest, step.verb, step.seed, result.path) == (before.digest, "analyze", 5, bundle)
    assert step.options["estimator"] == "xmin_mid" and list(step.options["exclude"]) == ["layer4.*"]
    assert step.options["bootstrap"] == 3 and step.metrics == {"median_alpha": result.median_alpha}


def test_masks_alone_are_analyzed_with_the_weights_of_their_base(tmp_path: Path) -> None:
    """Beside the base, whose name is `tiny` or whatever `base` says."""
    options = PruneOptions(source="tiny", sparsity=0.5, mask_only=True)
    masks = prune(**vars(options), out=tmp_path / "masks", device="cpu").path
    full = prune("tiny", sparsity=0.5, out=tmp_path / "full", device="cpu").path
    assert alphas(analyze(str(masks), base="tiny")) == alphas(analyze(str(full)))


def test_patterns_add_and_leave_out_layers_and_what_is_left_out_is_listed() -> None:
    plain = analyze("tiny")
    more = analyze("tiny", include=("attnpool.*",), exclude=("layer4.*", "conv1"))
    pool = {f"attnpool.{part}_proj" for part in "qkvc"}
    names = {layer.name for layer in plain.layers}
    assert {layer.name for layer in more.layers} == {n for n in names if n[:6] != "layer4" and n != "conv1"} | pool
    assert [(group.reason, set(group.names)) for group in plain.left_out] == [("output head", pool)]
    assert [group.reason for group in more.left_out] == ["excluded"] and more.left_out[0].count == 5
    kept = {layer.name: layer.fit for layer in plain.layers}
    assert all(layer.fit == kept[layer.name] for layer in more.layers if layer.name in kept)


@pytest.mark.parametrize("name", ["resnet20-12fca82f.th", "squeezenet1_1_imagenet_fp16.safetensors"])
def test_trained_networks_are_told_from_random_ones_of_their_shapes(name: str, shared: Path, write: Write) -> None:
    trained = analyze(str(shared / "data" / "weights" / name))
    generator = torch.Generator().manual_seed(0)
    drawn = {f"{x.name}.weight": torch.randn(x.shape, generator=generator) * x.scale for x in trained.layers}
    random = analyze(write(drawn))

    def share(result: AnalyzeResult) -> float:
        return sum(layer.verdict == "random-like" for layer in result.layers) / len(result.layers)

    assert share(trained) < 0.3 < 0.9 < share(random)
