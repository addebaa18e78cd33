"""The contract of every plug-in, in both directions: each entry works, and each plug-in file has an entry."""

from __future__ import annotations

import ast
import copy
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmark_trees import write_split
from panoptic_quality import panoptic_json
from torch import nn

import opentrans_cli
from opentrans_cli.assets import tiny_clip
from opentrans_cli.catalog import Catalog
from opentrans_cli.clip.layers import candidates, layer_weights, prunable_layers
from opentrans_cli.clip.source import load_clip
from opentrans_cli.datasets import DATASETS
from opentrans_cli.datasets.benchmarks.pairs import BenchmarkSet
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.errors import MaskError, OptionError
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.frameworks.base import BACKBONE, ClassText
from opentrans_cli.sparsity.control import random_scores
from opentrans_cli.sparsity.criteria import CRITERIA
from opentrans_cli.sparsity.patterns import PATTERNS
from opentrans_cli.sparsity.patterns.base import Pattern, pattern_for
from opentrans_cli.sparsity.selection import Mask, prunable_total, sparsity_of
from opentrans_cli.spectral.estimators import ESTIMATORS
from opentrans_cli.steps.report.sections import SECTIONS

TABLES: list[tuple[Catalog, str]] = [
    (CRITERIA, "opentrans_cli.sparsity.criteria"),
    (PATTERNS, "opentrans_cli.sparsity.patterns"),
    (ESTIMATORS, "opentrans_cli.spectral.estimators"),
    (FRAMEWORKS, "opentrans_cli.frameworks"),
    (DATASETS, "opentrans_cli.datasets"),
    (SECTIONS, "opentrans_cli.steps.report.sections"),
]
"""Each table and its package. What a criterion must do is in sparsity/criteria/test_contract.py."""

every_pattern = pytest.mark.parametrize("name", PATTERNS.names())
every_estimator = pytest.mark.parametrize("name", ESTIMATORS.names())
every_framework = pytest.mark.parametrize("name", FRAMEWORKS.names())
every_dataset = pytest.mark.parametrize("name", DATASETS.names())


def test_every_entry_lies_in_its_own_package_and_loads() -> None:
    """The import rule is checked on import statements, which a string in a table would escape."""
    for catalog, package in TABLES:
        for name, target in catalog.targets.items():
            module, _, attribute = target.partition(":")
            assert module.startswith(f"{package}.") and attribute, target
            assert catalog.load(name) is getattr(import_module(module), attribute), target


def test_no_plug_in_is_forgotten() -> None:
    """A file beside a table is named by it or imported by another file: nobody could reach it otherwise."""
    root = Path(opentrans_cli.__file__ or "").parent
    nodes = [node for path in root.rglob("*.py") for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    for catalog, package in TABLES:
        named = {target.partition(":")[0] for target in catalog.targets.values()}
        folder = Path(import_module(package).__file__ or "").parent
        files = (path.relative_to(folder).with_suffix("") for path in folder.rglob("*.py") if path.stem != "__init__")
        present = {".".join((package, *path.parts)) for path in files}
        assert named <= present and not present - named - imported, package


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    for catalog, _ in TABLES:
        with pytest.raises(OptionError) as raised:
            catalog.load("os:system")
        assert str(raised.value) == f"unknown {catalog.kind}: 'os:system'; choose one of {', '.join(catalog.names())}"


def test_a_table_is_light_and_names_are_what_a_manifest_may_hold() -> None:
    for catalog, package in TABLES:
        # What is imported for type checkers alone stands in an `if` and loads nothing.
        body = ast.parse(Path(import_module(package).__file__ or "").read_text()).body
        modules = {node.module for node in body if isinstance(node, ast.ImportFrom)}
        assert "opentrans_cli.catalog" in modules and not any(isinstance(node, ast.Import) for node in body), package
        assert modules - sys.stdlib_module_names <= {"collections.abc", "opentrans_cli.catalog", "opentrans_cli.errors"}
        for name in catalog.names():
            assert name == name.lower() and name.replace("_", "").replace("-", "").isalnum(), name


# Patterns: NAME(text, model_cfg) -> Pattern, whose masks are a function of scores and sparsity.

TEXTS = {"n_m": "2:4"}  # what a user writes for a pattern, where that is not its name
TINY_CFG: dict[str, Any] = tiny_clip()[0]["model_cfg"]
EXACT = {"unstructured", "layerwise"}  # patterns that remove the rounded number of weights at every sparsity


@pytest.fixture(scope="module")
def tiny_visual() -> nn.Module:
    return load_clip("tiny").model.visual


def built(name: str, visual: nn.Module) -> tuple[Pattern, dict[str, tuple[int, ...]]]:
    """A pattern for this tower, and the shapes of the layers it prunes by default."""
    pattern = PATTERNS.load(name)(TEXTS.get(name, name), TINY_CFG)
    weights = layer_weights(visual, pattern.layers(prunable_layers(visual)))
    shapes = {layer: tuple(weight.shape) for layer, weight in weights.items()}
    return pattern, {layer: shape for layer, shape in shapes.items() if pattern.problem(layer, shape) is None}


def growing(pattern: Pattern) -> list[float]:
    """Sparsities from 0 to the only one of the pattern, or far."""
    return [share * (pattern.sparsity or 0.95) for share in (0, 0.3, 0.5, 0.8, 1)]


@every_pattern
def test_a_pattern_is_found_by_what_the_user_writes_and_holds_tensors_beside_its_layers(
    name: str, tiny_visual: nn.Module
) -> None:
    text = TEXTS.get(name, name)
    pattern, shapes = built(name, tiny_visual)
    assert pattern_for(text, TINY_CFG).name == pattern.name == text
    assert pattern.sparsity is None or 0 < pattern.sparsity < 1
    assert shapes and set(shapes) <= {candidate.name for candidate in candidates(tiny_visual)}
    state = tiny_visual.state_dict()
    for tensor, mask in pattern.coupled(pattern.masks(random_scores(shapes, 0), pattern.sparsity or 0.5)).items():
        assert mask.dtype == np.bool_ and mask.shape == state[tensor].shape
        assert tensor.removesuffix(".weight") not in shapes


@every_pattern
def test_a_pattern_nests_its_masks_as_sparsity_grows_and_is_a_function_of_the_scores(
    name: str, tiny_visual: nn.Module
) -> None:
    pattern, shapes = built(name, tiny_visual)
    scores = random_scores(shapes, 2)
    laid_out = {layer: np.asfortranarray(score) for layer, score in scores.items()}
    equal = {layer: np.ones(shape) for layer, shape in shapes.items()}
    last = {layer: np.ones(shape, np.bool_) for layer, shape in shapes.items()}
    for sparsity in growing(pattern):
        masks = pattern.masks(scores, sparsity)
        again = built(name, tiny_visual)[0].masks(laid_out, sparsity)
        assert list(masks) == list(shapes)
        for layer, mask in masks.items():
            assert mask.shape == shapes[layer] and mask.dtype == np.bool_
            assert not (mask & ~last[layer]).any() and np.array_equal(mask, again[layer])
        if name in EXACT:
            total = prunable_total(masks)
            assert sparsity_of(masks) == round(sparsity * total) / total
        assert sparsity_of(pattern.masks(equal, sparsity)) == sparsity_of(masks)  # ties are settled somehow
        last = masks
    assert pattern.sparsity is None or sparsity_of(last) == pattern.sparsity
    assert all(bool(mask.all()) for mask in pattern.masks(scores, 0.0).values())


@every_pattern
def test_a_pattern_stays_inside_the_round_before_whatever_the_scores_are_now(name: str, tiny_visual: nn.Module) -> None:
    pattern, shapes = built(name, tiny_visual)
    last: dict[str, Mask] | None = None
    for number, sparsity in enumerate(growing(pattern)):
        copies = {layer: mask.copy() for layer, mask in (last or {}).items()}
        scores = random_scores(shapes, number)
        masks = pattern.masks(scores, sparsity, inside=last)
        assert sparsity_of(masks) == sparsity_of(pattern.masks(scores, sparsity))
        for layer, before in copies.items():
            assert not (masks[layer] & ~before).any()
            assert last is not None and np.array_equal(last[layer], before)
        last = {layer: np.asfortranarray(mask) for layer, mask in masks.items()}


@every_pattern
def test_a_pattern_refuses_to_go_back_and_what_it_cannot_rank_by_name(name: str, tiny_visual: nn.Module) -> None:
    pattern, shapes = built(name, tiny_visual)
    scores, last = random_scores(shapes, 6), list(shapes)[-1]
    final = pattern.sparsity or 0.9
    pruned = pattern.masks(scores, final)
    for sparsity in (-0.1, 1.0, float("nan")):
        with pytest.raises(OptionError, match=f"sparsity out of range: {sparsity}; choose a number from 0 to just"):
            pattern.masks(scores, sparsity)
    with pytest.raises(OptionError, match="already pruned"):
        pattern.masks(scores, 0.1, inside=pruned)
    with pytest.raises(MaskError, match=f"no mask of the previous round: {last};"):
        pattern.masks(scores, final, inside={k: v for k, v in pruned.items() if k != last})
    with pytest.raises(MaskError, match=f"differ in shape: {last}, "):
        pattern.masks(scores, final, inside=pruned | {last: pruned[last][None]})
    with pytest.raises(MaskError, match=f"NaN: {last};"):
        pattern.masks(scores | {last: scores[last] * float("nan")}, final)


# Estimators: ascending eigenvalues, float64 (n,) -> PowerLawFit.


def power_law(alpha: float, count: int = 4000) -> np.ndarray:
    """Eigenvalues above 1 whose density falls with x**-alpha, float64 (count,), ascending."""
    uniform = np.random.default_rng(0).random(count)
    return np.sort((1 - uniform) ** (-1 / (alpha - 1)))


@every_estimator
def test_an_estimator_finds_a_known_exponent_and_says_inf_where_there_is_nothing_to_fit(name: str) -> None:
    fit: Callable[[np.ndarray], Any] = ESTIMATORS.load(name)
    for alpha in (1.8, 2.0, 2.5, 3.5):
        found = fit(power_law(alpha))
        assert found.alpha == pytest.approx(alpha, rel=0.1) and found == fit(power_law(alpha))
        assert 0 <= found.ks_distance < 0.1 and 0 < found.tail_size <= 4000
    for nothing in (np.ones(50), np.zeros(50), np.ones(1)):
        found = fit(nothing)
        assert found.alpha == float("inf") and found.tail_size == 0, nothing


# Frameworks: a key table over the whole tower, and a builder.


@every_framework
def test_a_framework_accounts_for_every_tensor_of_the_embedded_tower_once(name: str) -> None:
    framework = FRAMEWORKS.load(name)
    visual = load_clip("tiny").model.visual
    state = copy.deepcopy(visual.state_dict())
    matches = framework.map_keys(visual)
    targets = [match.target for match in matches if match.target is not None]
    assert framework.name == name
    assert sorted(match.source for match in matches) == sorted(state)
    assert len(targets) == len(set(targets))
    built = framework.build(visual).state_dict()
    assert {key for key in built if key.startswith(BACKBONE)} == set(targets)
    for match in matches:
        if match.target is not None:
            assert torch.equal(built[match.target], state[match.source])


@every_framework
def test_a_framework_is_built_from_its_defaults_and_scores_every_pixel(name: str) -> None:
    segmentor = FRAMEWORKS.load(name).build(load_clip("tiny").model.visual).eval()
    with torch.no_grad():
        text = ClassText.one_each(torch.nn.functional.normalize(torch.randn(3, 64), dim=1))
        scores = segmentor(torch.randn(1, 3, 48, 64), text)
    assert scores.shape == (1, 3, 48, 64) and torch.isfinite(scores).all()


# Data sets: options -> samples with label maps.


@every_dataset
def test_a_data_set_gives_samples_that_keep_the_contract(name: str, labelled_folder: Any, tmp_path: Path) -> None:
    where: dict[str, Any] = {}
    if name in ("folder", "panoptic"):
        labels = labelled_folder.labels if name == "folder" else panoptic_json(labelled_folder)
        where = {"images": labelled_folder.images, "labels": labels, "classes": labelled_folder.classes}
    elif isinstance(benchmark := DATASETS.load(name), BenchmarkSet):
        write_split(benchmark, benchmark.layouts[0], tmp_path, "train")
        where = {"root": tmp_path}
    samples = DATASETS.load(name)(DatasetOptions(limit=2, **where))
    assert len(samples) == 2
    allowed = {*range(len(samples.vocabulary)), samples.ignore_index}
    for index in range(2):
        sample, again = samples[index], samples[index]
        assert sample.image.dtype == np.uint8 and sample.image.ndim == 3 and sample.image.shape[2] == 3
        assert sample.label_map.dtype == np.int64 and sample.label_map.shape == sample.image.shape[:2]
        assert set(np.unique(sample.label_map)) <= allowed
        assert np.array_equal(sample.image, again.image) and np.array_equal(sample.label_map, again.label_map)
    assert len({samples[index].name for index in range(2)}) == 2
    assert set(samples.unseen) <= set(samples.vocabulary.names)
    assert samples.default_crop >= 32 and samples.fingerprint.startswith("sha256:")
    with pytest.raises(IndexError):
        samples[2]
