"""`artifacts.schema.json` and the code say the same: fields, patterns, a thousand broken manifests, reports."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from sample_documents import smallest_document

from opentrans_cli.bundle import manifest as m
from opentrans_cli.bundle import schema as contract
from opentrans_cli.bundle.schema import check_document, check_report_file, kinds, load_schema, report_kind
from opentrans_cli.errors import BundleError

GOLDEN = Path(__file__).parents[1] / "golden" / "bundle-v1" / "manifest.json"
RECORDS = {
    "manifest": m.Manifest,
    "base": m.Base,
    "layer": m.LayerEntry,
    "file": m.FileEntry,
    "step": m.Step,
    "segmentor": m.SegmentorRecord,
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

# By kind of report, and by list of rows in it: the fields that must be there, in any order.
REQUIRED = {
    "analyze_report": "estimator median_alpha layers",
    "analyze_report/layers": "name alpha ks_distance xmin tail_size eigenvalues decision verdict",
    "eval_report": "framework dataset images classes miou miou_seen miou_unseen pixel_accuracy per_class "
    "params_dense params_kept macs macs_kept seconds_per_image resolution environment",
    "eval_report/per_class": "name iou seen",
    "panoptic_predictions_report": "task images pq sq rq classes things stuff per_class",
    "instance_predictions_report": "task images ap ap50 ap75 ap_small ap_medium ap_large per_class",
    "score_table": "columns rows notes remarks",
    "score_table/columns": "key dataset metric title",
    "score_table/rows": "name published framework cells params_kept params macs_kept macs resolution seconds_per_image "
    "device",
    "score_table/notes": "letter text",
    "semantic_predictions_report": "miou fwiou macc pacc per_class",
    "curve_report": "framework dataset images points environment",
    "curve_report/points": "round sparsity kept bytes miou miou_seen miou_unseen",
    "prune_plan": "pattern criterion total layers rounds",
    "prune_plan/layers": "name shape total pruned reason",
    "prune_plan/rounds": "round sparsity kept",
    "prune_report": "criterion pattern total rounds steps images skipped",
    "prune_report/rounds": "round kept",
    "prune_report/steps": "step loss lr",
    "transfer_receipt": "framework keys unmatched",
    "transfer_receipt/keys": "source target rule shape kept verdict",
    "cost_receipt": "unit forward input_gradient weight_gradient total dense_total frozen_layers images resolution",
    "finetune_recipe": "recipe options",
    "finetune_estimate": "accounting framework architecture weights dataset classes texts crop batch_size steps "
    "warmup_steps freeze frozen_layers prefix_end alphas_from cost",
    "demo_report": "rows finetune_rows settings seconds",
    "demo_report/rows": "name title sparsity miou miou_seen miou_unseen params_kept macs bundle_bytes",
    "demo_report/finetune_rows": "name title miou training_macs full_training_macs",
    "segment_report": "images vocabulary",
    "segment_report/images": "name label_map classes",
    "check_report": "path ok pairs sizes ids ignore suggested_ignore findings samples",
    "check_report/ids": "id name share label_maps void",
    "check_report/findings": "kind level what move names",
    "push_report": "repo revision commit url digest files committed uploaded_bytes deleted dense mask_only patch "
    "dry_run gate no_gate",
    "push_report/gate": "name ok detail",
    "pull_report": "path repo revision commit digest sparsity bytes fetched_bytes asked completed",
    "provenance_report": "digest base reproducible steps",
    "provenance_report/steps": "number verb parent digest options seed versions data command problem",
    "diff_report": "a b subnets alphas warnings",
    "import_report": "path format keys prefix sparsity kept total layers from_base unused_masks mask_only",
    "onnx_report": "path framework classes resolution compared difference agreement bytes opset bundle versions",
    "page_report": "path bytes shown left_out",
    "page_report/shown": "kind name",
    "run_log_line": "event step loss terms lr grad_norm seconds",
    "doctor_report": "opentrans python system threads packages extras devices caches disks environment problems",
    "doctor_report/packages": "name version needs problem",
    "doctor_report/extras": "name commands installed packages",
    "doctor_report/devices": "kind available names note",
    "doctor_report/caches": "of path exists bytes files complete",
    "doctor_report/disks": "of path free total",
    "models_report": "sources families forms",
    "models_report/sources": "source kind family path bytes cached",
    "models_report/families": "name sources patterns",
    "datasets_report": "root datasets",
    "datasets_report/datasets": "name title classes things download needs_prepare to_prepare raw splits",
    "datasets_report/datasets/splits": "split layout whole images parts",
    "datasets_report/datasets/splits/parts": "path kind files",
    "prepare_report": "dataset split layout source root labels images written there bytes bad",
    "prepare_report/bad": "name problem",
}
KINDS = [place for place in REQUIRED if "/" not in place]


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
    assert kinds() == ("manifest", *KINDS)


def test_schema_and_dataclass_have_the_same_fields_and_all_are_required(schema: dict[str, Any]) -> None:
    for name, record in RECORDS.items():
        rule = schema["$defs"][name]
        expected = {field.name for field in fields(record)} | ({"format"} if name == "manifest" else set())
        assert set(rule["properties"]) == set(rule["required"]) == expected, name
        assert rule["additionalProperties"] is False, name


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


def test_a_report_needs_every_named_field_and_may_have_more() -> None:
    for place, names in REQUIRED.items():
        kind, *lists = place.split("/")

        def inside(document: dict[str, Any], lists: Sequence[str] = lists) -> dict[str, Any]:
            """The first object of the innermost of the lists."""
            return reduce(lambda found, name: found[name][0], lists, document)

        whole = smallest_document(kind)
        fields = set(inside(whole))
        assert fields == set(names.split()), place
        more = copy.deepcopy(whole)
        inside(more)["later"] = 1
        check_document(more, kind)
        for field in fields:
            short = copy.deepcopy(whole)
            del inside(short)[field]
            with pytest.raises(BundleError, match=f"not a valid {kind.replace('_', ' ')}.*'{field}' is a required"):
                check_document(short, kind)


WRONG_REPORTS: list[tuple[str, dict[str, Any]]] = [
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
    ("run_log_line", {"event": "rest"}),
    ("run_log_line", {"terms": {"mask": "1"}}),
]


def test_wrong_values_in_reports_are_refused_in_one_line() -> None:
    for kind, change in WRONG_REPORTS:
        with pytest.raises(BundleError, match=r"see artifacts.schema.json") as caught:
            check_document({**smallest_document(kind), **change}, kind)
        assert "\n" not in str(caught.value) and next(iter(change)) in str(caught.value), (kind, change)


def test_an_unknown_kind_is_a_programming_mistake() -> None:
    with pytest.raises(ValueError, match="unknown kind"):
        check_document({}, "base")


def test_a_name_says_which_definition_a_report_follows() -> None:
    names = {
        "prune_report": "reports/prune.json",
        "import_report": "reports/import.json",
        "transfer_receipt": "reports/transfer.json",
        "cost_receipt": "reports/finetune.json",
        "eval_report": "reports/eval-shapes.json",
        "curve_report": "reports/curve-shapes.json",
    }
    assert {kind: report_kind(name) for kind, name in names.items()} == dict(zip(names, names, strict=True))
    assert names.keys() <= set(kinds()) and report_kind("reports/eval-shapes-at-0.5.json") == "eval_report"
    assert report_kind("reports/notes.json") is None and report_kind("reports/curve-shapes.png") is None


def test_a_picture_is_one_and_json_is_json(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"\x89PNG\r\n\x1a\n...")
    check_report_file("reports/x.png", path)
    with pytest.raises(BundleError, match="not readable as JSON"):
        check_report_file("reports/x.json", path)
    path.write_bytes(b"{}")
    check_report_file("reports/x.json", path)
    with pytest.raises(BundleError, match="not a PNG picture"):
        check_report_file("reports/x.png", path)
    with pytest.raises(BundleError, match=r"reports/prune.json is not a valid prune report"):
        check_report_file("reports/prune.json", path)


def test_a_report_without_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.touch()
    with path.open("r+b") as file:
        file.truncate(contract.MAX_REPORT + 1)  # a hole, which takes no room
    monkeypatch.setattr(contract, "read_bytes", lambda given: pytest.fail("read"))
    with pytest.raises(BundleError, match="report is too large"):
        check_report_file("reports/x.json", path)
