"""`artifacts.schema.json` and the code say the same: fields, patterns, and a thousand broken manifests."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from opentrans_cli.bundle import manifest as m
from opentrans_cli.bundle.schema import check_document, kinds, load_schema
from opentrans_cli.errors import BundleError

GOLDEN = Path(__file__).parent / "golden" / "bundle-v1" / "manifest.json"
RECORDS = {
    "manifest": m.Manifest,
    "base": m.Base,
    "layer": m.LayerEntry,
    "file": m.FileEntry,
    "step": m.Step,
    "segmentor": m.Segmentor,
}
# Laws between several fields, which JSON Schema cannot state.
CROSS_FIELD = (
    "product of its shape",
    "more than all of its weights",
    "as the layers say",
    "which is no class",
    "although its tensors are declared",
    "does not name its parent",
    " twice",
    "weights;",
)

REPORTS: dict[str, dict[str, Any]] = {
    "analyze_report": {
        "estimator": "xmin_peak",
        "median_alpha": 3.1,
        "layers": [
            {
                "name": "layer1.0.conv1",
                "alpha": 2.5,
                "ks_distance": 0.1,
                "xmin": 0.3,
                "tail_size": 12,
                "eigenvalues": 64,
                "decision": "frozen",
                "verdict": "heavy-tailed",
            }
        ],
    },
    "eval_report": {
        "framework": "deeplabv3",
        "dataset": "shapes",
        "images": 4,
        "classes": 3,
        "miou": 0.5,
        "miou_seen": 0.6,
        "miou_unseen": None,
        "pixel_accuracy": 0.9,
        "per_class": [{"name": "sky", "iou": None, "seen": True}],
        "params_dense": 100,
        "params_kept": 10,
        "macs": 1000,
        "macs_kept": 100,
        "seconds_per_image": 0.02,
        "resolution": [32, 48],
        "environment": {"torch": "2.6"},
    },
    "curve_report": {
        "framework": "maskclip",
        "dataset": "shapes",
        "images": 4,
        "points": [
            {
                "round": 1,
                "sparsity": 0.5,
                "kept": 50,
                "bytes": 400,
                "miou": 0.5,
                "miou_seen": 0.6,
                "miou_unseen": None,
            }
        ],
        "environment": {"torch": "2.6"},
    },
    "prune_plan": {
        "pattern": "2:4",
        "criterion": "fisher",
        "total": 10,
        "layers": [{"name": "conv2", "shape": [5, 2], "total": 10, "pruned": True, "reason": None}],
        "rounds": [{"round": 1, "sparsity": 0.5, "kept": 5}],
    },
    "prune_report": {
        "criterion": "fisher",
        "pattern": "unstructured",
        "total": 10,
        "rounds": [{"round": 1, "kept": 5}],
        "steps": [{"step": 0, "loss": 0.5, "lr": 1e-3}],
        "images": 8,
        "skipped": ["b.jpg"],
    },
    "transfer_receipt": {
        "framework": "timm",
        "keys": [
            {
                "source": "conv1.weight",
                "target": "stem.conv1.weight",
                "rule": "stem",
                "shape": [8, 3, 3, 3],
                "kept": 7,
                "verdict": "ok",
            }
        ],
        "unmatched": [],
    },
    "cost_receipt": {
        "unit": "MACs",
        "forward": 10,
        "input_gradient": 9,
        "weight_gradient": 5,
        "total": 24,
        "dense_total": 29,
        "frozen_layers": ["layer1.0.conv1"],
        "images": 8,
        "resolution": [64, 64],
    },
    "finetune_recipe": {"recipe": "han", "options": {"steps": {"value": 300, "from": "given"}}},
    "finetune_estimate": {
        "accounting": "exact",
        "framework": "han",
        "architecture": "RN50-quickgelu",
        "weights": None,
        "dataset": "coco",
        "classes": 133,
        "texts": 254,
        "crop": 512,
        "batch_size": 28,
        "steps": 50_000,
        "warmup_steps": 10_000,
        "freeze": "heavy",
        "frozen_layers": ["backbone.conv1"],
        "prefix_end": None,
        "alphas_from": "list of the released code",
        "cost": {
            "unit": "MACs",
            "forward": 10,
            "input_gradient": 9,
            "weight_gradient": 5,
            "total": 24,
            "dense_total": 29,
            "frozen_layers": ["backbone.conv1"],
            "images": 8,
            "resolution": [512, 512],
        },
    },
    "demo_report": {
        "rows": [
            {
                "name": "dense",
                "sparsity": 0,
                "miou": 0.5,
                "miou_seen": 0.6,
                "miou_unseen": 0.4,
                "params_kept": 100,
                "macs": 1000,
                "bundle_bytes": 400,
            }
        ],
        "finetune_rows": [{"name": "alpha", "miou": 0.7, "training_macs": 9000}],
    },
    "segment_report": {
        "images": [{"name": "a.jpg", "label_map": "a.png", "overlay": "a-overlay.png", "classes": {"sky": 0.25}}],
        "vocabulary": ["sky", "road"],
    },
    "push_report": {
        "repo": "org/name",
        "revision": "v1",
        "commit": "0" * 40,
        "url": "https://huggingface.co/org/name/tree/v1",
        "digest": "sha256:" + "0" * 64,
        "files": {"manifest.json": 100},
        "committed": True,
        "uploaded_bytes": 100,
        "deleted": ["rounds.safetensors"],
        "dense": False,
        "mask_only": False,
        "dry_run": False,
    },
    "pull_report": {
        "path": "subnet",
        "repo": "org/name",
        "revision": "v1",
        "commit": "0" * 40,
        "digest": "sha256:" + "0" * 64,
        "sparsity": 0.9,
        "bytes": 1000,
        "fetched_bytes": 1000,
        "asked": True,
        "completed": False,
    },
    "provenance_report": {
        "digest": "sha256:" + 64 * "0",
        "base": {"source": "tiny", "digest": "sha256:" + 64 * "1"},
        "reproducible": True,
        "steps": [
            {
                "number": 1,
                "verb": "prune",
                "parent": None,
                "digest": "sha256:" + 64 * "0",
                "options": {"sparsity": 0.5},
                "seed": 0,
                "versions": {"opentrans": "0.1.0"},
                "data": None,
                "command": "opentrans prune",
                "problem": None,
            }
        ],
    },
    "diff_report": {
        "a": "one",
        "b": "two",
        "subnets": None,
        "alphas": {
            "estimator_a": "xmin_peak",
            "estimator_b": "xmin_peak",
            "median_a": 2.5,
            "median_b": None,
            "changed": 1,
            "spearman": 0.9,
            "layers": [
                {
                    "name": "conv1",
                    "alpha_a": 2.5,
                    "alpha_b": None,
                    "change": None,
                    "decision_a": "frozen",
                    "decision_b": "trained",
                }
            ],
            "only_a": [],
            "only_b": ["conv2"],
        },
        "warnings": [],
    },
    "import_report": {
        "path": None,
        "format": "torch-prune",
        "keys": "han",
        "prefix": "backbone.",
        "sparsity": 0.5,
        "kept": 5,
        "total": 10,
        "layers": 1,
        "from_base": ["attnpool.c_proj.weight"],
        "unused_masks": [],
        "mask_only": False,
    },
    "onnx_report": {
        "path": "segmentor.onnx",
        "framework": "deeplabv3",
        "classes": ["sky", "road"],
        "resolution": None,
        "compared": [[64, 64], [48, 101]],
        "difference": 1e-6,
        "agreement": 1.0,
        "bytes": 1000,
        "opset": 18,
        "bundle": "sha256:" + 64 * "0",
        "versions": {"onnxruntime": "1.20.0"},
    },
    "finetune_log_line": {
        "event": "step",
        "step": 1,
        "loss": 1.5,
        "terms": {"mask": 1.0, "dice": 0.5},
        "lr": 1e-3,
        "grad_norm": None,
        "seconds": 0.1,
    },
}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return load_schema()


@pytest.fixture(scope="module")
def validator(schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "$ref": "#/$defs/manifest"})


def golden() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(GOLDEN.read_text())
    return document


def test_the_schema_is_valid_json_schema_and_names_its_kinds(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    assert kinds() == ("manifest", *REPORTS)


@pytest.mark.parametrize("name", RECORDS)
def test_schema_and_dataclass_have_the_same_fields_and_all_are_required(schema: dict[str, Any], name: str) -> None:
    rule = schema["$defs"][name]
    expected = {field.name for field in fields(RECORDS[name])} | ({"format"} if name == "manifest" else set())
    assert set(rule["properties"]) == set(rule["required"]) == expected
    assert rule["additionalProperties"] is False


def test_patterns_bounds_and_choices_are_the_same_in_both(schema: dict[str, Any]) -> None:
    defs = schema["$defs"]
    patterns = {
        defs["file"]["properties"]["name"]["pattern"]: f"^({m.FILE_NAME.pattern})$",
        defs["file"]["properties"]["sha256"]["pattern"]: f"^{m.SHA256.pattern}$",
        defs["layer_name"]["pattern"]: f"^{m.LAYER_NAME.pattern}$",
        defs["plain_name"]["pattern"]: f"^{m.PLAIN_NAME.pattern}$",
        defs["digest"]["pattern"]: f"^{m.DIGEST.pattern}$",
    }
    assert list(patterns) == list(patterns.values())
    assert defs["layer"]["properties"]["dtype"]["enum"] == list(m.DTYPES)
    assert defs["layer"]["properties"]["total"]["maximum"] == m.MAX_WEIGHTS
    assert defs["manifest"]["properties"]["version"]["const"] == m.VERSION
    assert defs["manifest"]["properties"]["format"]["const"] == m.FORMAT
    assert defs["plain_name"]["maxLength"] == defs["layer_name"]["maxLength"] == m.MAX_NAME
    assert set(defs["base"]["properties"]["preprocess"]["properties"]) == set(m._PREPROCESS)


def test_the_golden_manifest_follows_the_schema_and_the_code() -> None:
    check_document(golden(), "manifest")
    assert m.Manifest.from_json(golden()).to_json() == golden()


WRONG = (None, True, -1, 0, 0.5, 3, 2**70, "", "x", "x\ny", "../x", [], [1], [["a"]], {}, {"a": 1})


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a document; of a list only its first element."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from _places(item, (*path, key))


def _mutants() -> Iterator[tuple[str, dict[str, Any]]]:
    """The golden manifest with one value replaced, removed or added."""
    document = golden()
    for path in _places(document):
        for value in (*WRONG, "drop", "add"):
            mutant = copy.deepcopy(document)
            parent: Any = mutant
            for key in path[:-1]:
                parent = parent[key]
            if value == "drop":
                del parent[path[-1]]
            elif value == "add":
                if not isinstance(parent[path[-1]], dict):
                    continue
                parent[path[-1]]["surprise"] = 1
            else:
                parent[path[-1]] = value
            yield f"{'/'.join(map(str, path))} = {value!r}", mutant


def test_code_and_schema_give_the_same_verdict_on_every_broken_manifest(
    validator: Draft202012Validator,
) -> None:
    verdicts = {"accepted": 0, "refused": 0, "cross": 0}
    for name, mutant in _mutants():
        try:
            m.Manifest.from_json(mutant)
            reason = ""
        except BundleError as error:
            reason = str(error)
        if reason and validator.is_valid(mutant):
            assert any(law in reason for law in CROSS_FIELD), f"only the code refuses {name}: {reason}"
            verdicts["cross"] += 1
        else:
            assert bool(reason) != validator.is_valid(mutant), f"only the schema refuses {name}"
            verdicts["refused" if reason else "accepted"] += 1
    assert verdicts["refused"] > 500 and verdicts["accepted"] > 20 and verdicts["cross"] < 50, verdicts


@pytest.mark.parametrize("kind", REPORTS)
def test_a_report_needs_every_named_field_and_may_have_more(kind: str) -> None:
    report = REPORTS[kind]
    check_document({**report, "later": 1}, kind)
    for place in [*report]:
        with pytest.raises(BundleError, match=f"not a valid {kind.replace('_', ' ')}.*'{place}' is a required"):
            check_document({key: value for key, value in report.items() if key != place}, kind)
    for key, rows in report.items():
        if isinstance(rows, list) and rows and isinstance(rows[0], dict):
            check_document({**report, key: [{**rows[0], "later": 1}]}, kind)
            for field in rows[0]:
                short = {name: value for name, value in rows[0].items() if name != field}
                with pytest.raises(BundleError, match=f"'{field}' is a required"):
                    check_document({**report, key: [short]}, kind)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("eval_report", {"miou": "0.5"}),
        ("eval_report", {"miou": 50.0}),
        ("eval_report", {"macs": 1.5}),
        ("eval_report", {"resolution": [32]}),
        ("curve_report", {"points": []}),
        ("prune_plan", {"layers": []}),
        ("prune_report", {"steps": [{"step": 0, "loss": -1, "lr": 0.1}]}),
        ("cost_receipt", {"unit": "FLOPs"}),
        ("cost_receipt", {"total": -1}),
        ("cost_receipt", {"saved": {"dense": 1.5, "sparse": 0.0, "all": 0.0}}),
        ("finetune_recipe", {"options": {"steps": {"value": 300, "from": "guess"}}}),
        ("finetune_estimate", {"accounting": "guessed"}),
        ("finetune_estimate", {"cost": None}),
        ("analyze_report", {"median_alpha": "3"}),
        ("demo_report", {"rows": {}}),
        ("finetune_log_line", {"event": "rest"}),
        ("finetune_log_line", {"terms": {"mask": "1"}}),
    ],
)
def test_wrong_values_in_reports_are_refused_in_one_line(kind: str, change: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=r"see artifacts.schema.json") as caught:
        check_document({**REPORTS[kind], **change}, kind)
    assert "\n" not in str(caught.value) and next(iter(change)) in str(caught.value)


def test_an_unknown_kind_is_a_programming_mistake() -> None:
    with pytest.raises(ValueError, match="unknown kind"):
        check_document({}, "base")
