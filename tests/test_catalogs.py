"""The contract of every plug-in, in both directions: each entry works, and each plug-in file has an entry."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from opentrans_cli.catalog import Catalog
from opentrans_cli.clip.source import load_clip
from opentrans_cli.datasets import DATASETS
from opentrans_cli.datasets.base import DatasetOptions
from opentrans_cli.errors import OptionError
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.sparsity.importance import random_scores
from opentrans_cli.sparsity.patterns import PATTERNS
from opentrans_cli.spectral.estimators import ESTIMATORS

# Catalog -> the package of its table, and the files there that are not plug-ins.
TABLES: dict[str, tuple[Catalog, str, set[str]]] = {
    "patterns": (PATTERNS, "opentrans_cli.sparsity.patterns", set()),
    "estimators": (ESTIMATORS, "opentrans_cli.spectral.estimators", set()),
    "frameworks": (FRAMEWORKS, "opentrans_cli.frameworks", {"base", "keys", "options", "readout"}),
    "datasets": (
        DATASETS,
        "opentrans_cli.datasets",
        {"base", "crops", "images", "sampling", "textfile", "vocabulary"},
    ),
}
every_table = pytest.mark.parametrize("table", TABLES)
every_entry = pytest.mark.parametrize(
    ("table", "name"), [(table, name) for table, (catalog, *_) in TABLES.items() for name in catalog.names()]
)
every_pattern = pytest.mark.parametrize("name", PATTERNS.names())
every_estimator = pytest.mark.parametrize("name", ESTIMATORS.names())
every_framework = pytest.mark.parametrize("name", FRAMEWORKS.names())
every_dataset = pytest.mark.parametrize("name", DATASETS.names())


@every_entry
def test_every_entry_lies_in_its_own_package_and_loads(table: str, name: str) -> None:
    """The import rule is checked on import statements, which a string in a table would escape."""
    catalog, package, _ = TABLES[table]
    module, _, attribute = catalog.targets[name].partition(":")
    assert module.startswith(f"{package}.") and attribute
    assert catalog.load(name) is getattr(import_module(module), attribute)


@every_table
def test_every_plug_in_file_has_an_entry(table: str) -> None:
    catalog, package, shared = TABLES[table]
    folder = Path(import_module(package).__file__ or "").parent
    present = {p.stem if p.suffix else p.name for p in folder.iterdir() if p.suffix == ".py" or p.is_dir()}
    plug_ins = {
        target.partition(":")[0].removeprefix(f"{package}.").split(".")[0] for target in catalog.targets.values()
    }
    assert present - {"__init__", "__pycache__"} - shared == plug_ins
    assert shared <= present


@every_table
def test_an_unknown_name_is_answered_with_the_known_ones(table: str) -> None:
    catalog = TABLES[table][0]
    with pytest.raises(OptionError) as told:
        catalog.load("os:system")
    assert str(told.value) == f"unknown {catalog.kind}: 'os:system'; choose one of {', '.join(catalog.names())}"


@every_table
def test_a_table_is_light_and_names_are_what_a_manifest_may_hold(table: str) -> None:
    catalog, package, _ = TABLES[table]
    imports = [
        n
        for n in ast.walk(ast.parse(Path(import_module(package).__file__ or "").read_text()))
        if isinstance(n, ast.ImportFrom)
    ]
    assert {node.module for node in imports} == {"__future__", "opentrans_cli.catalog"}
    for name in catalog.names():
        assert name == name.lower() and name.replace("_", "").replace("-", "").isalnum()


# Patterns: scores by layer, sparsity -> masks by layer.

SHAPES = {"stem": (4, 3, 3, 3), "layer1.0.conv1": (8, 16, 1, 1), "layer1.0.conv2": (8, 8, 3, 3)}
TOTAL = sum(int(np.prod(shape)) for shape in SHAPES.values())


def removed(masks: dict[str, torch.Tensor]) -> int:
    return sum(int((~mask).sum()) for mask in masks.values())


@every_pattern
@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.5, 0.9, 0.999])
def test_a_pattern_returns_bool_masks_of_the_layers_shapes_and_the_exact_count(name: str, sparsity: float) -> None:
    scores = random_scores(SHAPES, 1)
    masks = PATTERNS.load(name)(scores, sparsity)
    assert list(masks) == list(SHAPES)
    assert all(masks[layer].shape == shape and masks[layer].dtype == torch.bool for layer, shape in SHAPES.items())
    assert removed(masks) == round(sparsity * TOTAL)


@every_pattern
def test_a_pattern_nests_its_masks_as_sparsity_grows_and_is_a_function(name: str) -> None:
    pattern, scores = PATTERNS.load(name), random_scores(SHAPES, 2)
    last = pattern(scores, 0.2)
    for sparsity in (0.4, 0.7, 0.95):
        masks = pattern(scores, sparsity)
        inside = pattern(scores, sparsity, inside=last)
        for layer in SHAPES:
            assert not (masks[layer] & ~last[layer]).any()
            assert torch.equal(masks[layer], inside[layer])
            assert torch.equal(masks[layer], pattern(scores, sparsity)[layer])
        last = masks


@every_pattern
def test_a_pattern_keeps_exact_counts_when_all_scores_are_equal(name: str) -> None:
    scores = {layer: torch.ones(shape) for layer, shape in SHAPES.items()}
    assert removed(PATTERNS.load(name)(scores, 0.5)) == round(0.5 * TOTAL)


@every_pattern
@pytest.mark.parametrize("sparsity", [-0.1, 1.0, float("nan")])
def test_a_pattern_refuses_a_sparsity_out_of_range(name: str, sparsity: float) -> None:
    with pytest.raises(OptionError, match="sparsity out of range"):
        PATTERNS.load(name)(random_scores(SHAPES, 3), sparsity)


# Estimators: ascending eigenvalues, float64 (n,) -> PowerLawFit.


def power_law(alpha: float, count: int = 4000) -> torch.Tensor:
    """Eigenvalues above 1 whose density falls with x**-alpha, float64 (count,), ascending."""
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return ((1 - uniform) ** (-1 / (alpha - 1))).sort().values


@every_estimator
@pytest.mark.parametrize("alpha", [2.0, 3.5])
def test_an_estimator_finds_a_known_exponent(name: str, alpha: float) -> None:
    fit = ESTIMATORS.load(name)(power_law(alpha))
    assert fit.alpha == pytest.approx(alpha, rel=0.1)
    assert 0 <= fit.ks_distance < 0.1 and 0 < fit.tail_size <= 4000


@every_estimator
def test_an_estimator_is_a_function_and_gives_the_heavier_tail_the_smaller_alpha(name: str) -> None:
    fit: Callable[[torch.Tensor], Any] = ESTIMATORS.load(name)
    assert fit(power_law(1.8)).alpha < fit(power_law(2.5)).alpha < fit(power_law(4.0)).alpha
    assert fit(power_law(2.5)) == fit(power_law(2.5))


@every_estimator
@pytest.mark.parametrize(
    "eigenvalues", [torch.ones(50), torch.zeros(50), torch.arange(1.0, 5)], ids=["equal", "zero", "few"]
)
def test_an_estimator_says_inf_where_there_is_nothing_to_fit(name: str, eigenvalues: torch.Tensor) -> None:
    fit = ESTIMATORS.load(name)(eigenvalues.double())
    assert fit.alpha == float("inf") and fit.tail_size == 0


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
    assert {key for key in built if key.startswith(framework.backbone_prefix)} == set(targets)
    for match in matches:
        if match.target is not None:
            assert torch.equal(built[match.target], state[match.source])


@every_framework
def test_a_framework_is_built_from_its_defaults_and_scores_every_pixel(name: str) -> None:
    segmentor = FRAMEWORKS.load(name).build(load_clip("tiny").model.visual).eval()
    with torch.no_grad():
        scores = segmentor(torch.randn(1, 3, 48, 64), torch.nn.functional.normalize(torch.randn(3, 64), dim=1))
    assert scores.shape == (1, 3, 48, 64) and torch.isfinite(scores).all()


# Data sets: options -> samples with label maps.


@every_dataset
def test_a_data_set_gives_samples_that_keep_the_contract(name: str, labelled_folder: Any) -> None:
    where = {"images": labelled_folder.images, "labels": labelled_folder.labels, "classes": labelled_folder.classes}
    samples = DATASETS.load(name)(DatasetOptions(limit=2, **(where if name == "folder" else {})))
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
