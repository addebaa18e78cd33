"""finetune: the cost receipt as JSON, what it records, and own data."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.steps.finetune.options import FINETUNE_RECIPES, FinetuneOptions

SHORT = ("--steps", 2, "--batch-size", 2, "--crop", 64)


def test_json_holds_the_cost_receipt_of_the_contract(run_cli: Any, desk: Path, tiny_bundle: Path) -> None:
    result = run_cli("finetune", tiny_bundle, "-o", desk / "f", *SHORT, "--limit", 2, "--json")
    document = json.loads(result.stdout)
    assert document.keys() == {"path", "loss", "seconds_per_step", "cost", "timing", "log"}
    assert document["path"] == str(desk / "f") and math.isfinite(document["loss"])
    check_document(document["cost"], "cost_receipt")
    assert json.loads(open_bundle(desk / "f").read("reports/finetune.json")) == document["cost"]


def test_freezing_costs_less_and_more_freezing_costs_less_still(run_cli: Any, desk: Path, tiny_bundle: Path) -> None:
    totals = []
    for name, options in {"none": ("--freeze", "none"), "half": (), "all": ("--freeze-ratio", 1)}.items():
        line = ("finetune", tiny_bundle, "-o", desk / name, *SHORT, "--limit", 2, *options, "--json")
        totals.append(json.loads(run_cli(*line).stdout)["cost"]["total"])
    assert totals[0] > totals[1] > totals[2]


def test_own_photos_with_a_class_held_out(run_cli: Any, desk: Path, tiny_bundle: Path, labelled_folder: Any) -> None:
    result = run_cli(
        *("finetune", tiny_bundle, "-o", desk / "f", *SHORT, *labelled_folder.options, "--hold-out", "Blue Square"),
    )
    assert result.exit_code == 0
    segmentor = open_bundle(desk / "f").manifest.segmentor
    assert segmentor is not None
    assert segmentor.classes == (("grass",), ("red square", "red box"), ("blue square",))
    assert segmentor.seen == ("grass", "red square")


def test_every_option_reaches_the_bundle_s_history(run_cli: Any, desk: Path, tiny_bundle: Path) -> None:
    given = {
        "steps": 2,
        "batch_size": 3,
        "crop": 64,
        "lr": 0.01,
        "backbone_lr_factor": 0.5,
        "weight_decay": 0.1,
        "freeze": "light",
        "freeze_ratio": 0.25,
        "seed": 5,
    }
    options = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
    assert run_cli("finetune", tiny_bundle, "-o", desk / "f", *options, "--limit", 2).exit_code == 0
    step = open_bundle(desk / "f").manifest.steps[-1]
    assert {name: step.options[name] for name in given} == given
    assert (step.verb, step.seed, step.parent) == ("finetune", 5, open_bundle(tiny_bundle).digest)


def test_the_choice_of_analyze_is_obeyed_and_which_was_used_is_said(run_cli: Any, desk: Path, bundle: Path) -> None:
    line = ("finetune", bundle, *SHORT, "--limit", 2)
    told = {
        "fresh": "frozen: 9 layers (by default: heavy, median; trunk: measured, by xmin_peak)",
        "stored": "frozen: 1 layers (as analyze chose: heavy, ratio 0.1)",
        "typed": "frozen: 4 layers (as given by --freeze, --freeze-ratio: light, ratio 0.25, instead of the 1 layers "
        "that analyze chose; trunk: alpha report of the bundle, by xmin_peak)",
    }
    typed = {"typed": ("--freeze", "light", "--freeze-ratio", 0.25)}
    for name, by in {"fresh": "defaults", "stored": "analyze", "typed": "options"}.items():
        if name == "stored":
            chosen = json.loads(run_cli("analyze", bundle, "--freeze-ratio", 0.1, "--json").stdout)
        result = run_cli(*line, *typed.get(name, ()), "-o", desk / name)
        assert told[name] in result.stderr
        receipt = json.loads(open_bundle(desk / name).read("reports/finetune.json"))
        check_document(receipt, "cost_receipt")
        assert (receipt["frozen_by"], f"({receipt['frozen_why']})" in told[name]) == (by, True)
        log = [json.loads(entry) for entry in Path(f"{desk / name}.log.jsonl").read_text().splitlines()]
        (event,) = [entry for entry in log if entry["event"] == "freeze"]
        assert (event["by"], event["origin"]) == (by, receipt["frozen_why"])
        if name == "stored":
            frozen = [layer["name"] for layer in chosen["layers"] if layer["decision"] == "frozen"]
            assert receipt["frozen_layers"] == frozen
    counted = json.loads(run_cli("finetune", bundle, "--estimate", "--json").stdout)
    assert (counted["frozen_layers"], counted["frozen_by"], counted["freeze"]) == (frozen, "analyze", "heavy")


@pytest.mark.parametrize("recipe", FINETUNE_RECIPES)
def test_show_recipe_says_every_value_and_where_it_is_from(recipe: str, run_cli: Any, desk: Path) -> None:
    document = json.loads(run_cli("finetune", "--recipe", recipe, "--show-recipe", "--steps", 300, "--json").stdout)
    check_document(document, "finetune_recipe")
    rows = document["options"]
    assert rows.keys() == {field.name for field in fields(FinetuneOptions)} - {"recipe"}
    assert rows["steps"] == {"value": 300, "from": "given"}
    for name, value in FINETUNE_RECIPES[recipe].items():
        if name != "steps":
            assert rows[name] == {"value": list(value) if isinstance(value, tuple) else value, "from": "recipe"}
    defaults = FinetuneOptions()
    unnamed = rows.keys() - FINETUNE_RECIPES[recipe].keys() - {"steps"}
    for name in unnamed:
        value = getattr(defaults, name)
        assert rows[name] == {"value": list(value) if isinstance(value, tuple) else value, "from": "default"}
    assert not list(desk.iterdir())


def test_the_estimate_of_the_paper_s_run_is_the_paper_s_cost(run_cli: Any, desk: Path) -> None:
    """Tables 2 and 4 of OpenTrans, arXiv 2404.07448: within 0.3 %."""
    line = ("finetune", "--estimate", "--recipe", "han", "--accounting", "paper", "--json")
    document = json.loads(run_cli(*line).stdout)
    published = {"full": 181.4, "alpha": 159.6, "alpha_opposite": 172.3, "alpha_subnet": 122.2}
    assert document["pmacs"] == pytest.approx(published, rel=0.003)
    assert not list(desk.iterdir())
