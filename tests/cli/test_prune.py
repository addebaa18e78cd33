"""prune: names, options and the path it prints."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.steps.prune.options import PruneOptions, default_out


def test_json_tells_what_was_written(run_cli: Any, desk: Path) -> None:
    result = run_cli("prune", "tiny", "-s", 0.25, "-o", desk / "b", "--json")
    document, bundle = json.loads(result.stdout), open_bundle(desk / "b")
    assert document == {
        "path": str(desk / "b"),
        "sparsity": bundle.manifest.achieved_sparsity,
        "kept": bundle.manifest.kept,
        "total": bundle.manifest.total,
        "rounds": 1,
        "criterion": "magnitude",
        "distilled": False,
        "distillation_loss": None,
        "skipped_images": 0,
        "bytes": bundle.size_bytes,
        "log": None,
    }
    check_document(json.loads((desk / "b" / "manifest.json").read_text()), "manifest")


def test_a_run_without_images_says_that_it_does_not_distil(run_cli: Any, desk: Path) -> None:
    result = run_cli("prune", "tiny", "-o", desk / "b")
    assert "no images were given: weights are chosen by magnitude, and nothing is distilled" in result.stderr


def test_distilling_reports_its_round_on_stderr(run_cli: Any, desk: Path) -> None:
    result = run_cli(
        *("prune", "tiny", "-s", 0.19, "-o", desk / "b", "--images", "shapes", "--image-limit", 4),
        *("--batch-size", 2, "--steps-per-round", 1, "--final-steps", 2),
    )
    assert "distilling: 3 done, round 2 of 2, loss " in result.stderr


def test_every_option_reaches_the_bundle_s_history(run_cli: Any, desk: Path, tiny_bundle: Path) -> None:
    given = {
        "sparsity": 0.5,
        "rate": 0.2,
        "steps_per_round": 3,
        "final_steps": 4,
        "batch_size": 5,
        "image_limit": 6,
        "lr": 0.02,
        "dtype": "bfloat16",
        "keep_rounds": "masks",
        "seed": 7,
    }
    options = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
    assert run_cli("prune", "tiny", *options, "-o", desk / "b").exit_code == 0
    recorded = open_bundle(desk / "b").manifest.steps[-1].options
    machine = {"compile", "device", "threads", "processes"}  # what bits may depend on beside the options
    assert recorded.keys() == {field.name for field in fields(PruneOptions)} | machine
    assert {name: recorded[name] for name in given} == given
    assert recorded["random"] is False


def test_a_twin_records_the_digest_of_its_model_not_its_path(run_cli: Any, desk: Path, tiny_bundle: Path) -> None:
    run_cli("prune", "tiny", "-s", 0.5, "--random", "--like", tiny_bundle, "-o", desk / "twin")
    options = open_bundle(desk / "twin").manifest.steps[-1].options
    assert options["like"] == open_bundle(tiny_bundle).digest


def test_without_out_the_bundle_is_named_after_source_and_sparsity(
    run_cli: Any, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    assert run_cli("prune", "tiny").stdout == "tiny-s90\n"
    assert run_cli("prune", "tiny", "--random").stdout == "tiny-s90-random\n"
    assert sorted(path.name for path in desk.iterdir()) == ["tiny-s90", "tiny-s90-random"]


@pytest.mark.parametrize(
    ("source", "sparsity", "name"),
    [
        ("RN50-quickgelu:openai", 0.9, "rn50-quickgelu-openai-s90"),
        ("RN50:weights/My Net.pt", 0.29, "my-net.pt-s29"),
        ("hf://org/name@v1", 0.955, "name-v1-s95.5"),
        ("/data/checkpoints/clip.safetensors", 0.0, "clip.safetensors-s0"),
        ("runs/bundle/", 0.5, "bundle-s50"),
    ],
)
def test_default_names_are_plain(source: str, sparsity: float, name: str) -> None:
    assert default_out(PruneOptions(source=source, sparsity=sparsity)) == Path(name)


def test_the_current_folder_is_no_target(run_cli: Any, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    (desk / "mine").write_text("")
    result = run_cli("prune", "tiny", "-o", ".", "--force")
    assert result.exit_code == 1 and result.stderr.splitlines()[-1].startswith("opentrans: error: ")
    assert [path.name for path in desk.iterdir()] == ["mine"]


def test_a_recipe_sets_what_was_not_typed(run_cli: Any, desk: Path) -> None:
    given = ("--images", "shapes", "--image-limit", 4, "--batch-size", 2, "--steps-per-round", 1, "--final-steps", 1)
    run_cli("prune", "tiny", "-s", 0.19, "--recipe", "paper", "--distill", "image", *given, "-o", desk / "b")
    options = open_bundle(desk / "b").manifest.steps[-1].options
    assert (options["criterion"], options["lr"], options["weight_decay"]) == ("magnitude", 1e-4, 0.05)
    assert (options["distill"], options["batch_size"], options["steps_per_round"]) == ("image", 2, 1)


@pytest.mark.parametrize(("pattern", "sparsity"), [("2:4", 0.5), ("1:4", 0.75), ("3:8", 0.625)])
def test_a_pattern_of_one_sparsity_brings_it_along(pattern: str, sparsity: float, run_cli: Any, desk: Path) -> None:
    document = json.loads(run_cli("prune", "tiny", "--pattern", pattern, "-o", desk / "b", "--json").stdout)
    assert document["sparsity"] == sparsity
    assert open_bundle(desk / "b").manifest.pattern == pattern


def test_a_dry_run_lists_layers_and_rounds_and_writes_nothing(run_cli: Any, desk: Path) -> None:
    before = sorted(path.name for path in desk.iterdir())
    result = run_cli("prune", "tiny", "-s", 0.5, "--images", "shapes", "--dry-run", "--json")
    document = json.loads(result.stdout)
    check_document(document, "prune_plan")
    assert len(document["rounds"]) == 7 and document["criterion"] == "fisher"
    table = run_cli("prune", "tiny", "--dry-run").stdout
    assert "layer4.0.conv3" in table and "input layer" in table
    assert sorted(path.name for path in desk.iterdir()) == before


def test_the_log_has_the_lines_of_every_run(run_cli: Any, desk: Path) -> None:
    given = ("--images", "shapes", "--image-limit", 4, "--batch-size", 2, "--steps-per-round", 1, "--final-steps", 2)
    run_cli("prune", "tiny", "-s", 0.19, *given, "--log", desk / "log.jsonl", "-o", desk / "b")
    lines = [json.loads(line) for line in (desk / "log.jsonl").read_text().splitlines()]
    events = [line["event"] for line in lines]
    assert events == ["start", "round", "step", "round", "step", "step", "end"]
    assert [line["step"] for line in lines if line["event"] == "step"] == [1, 2, 3]
    assert [line["sparsity"] for line in lines if line["event"] == "round"] == pytest.approx([0.1, 0.19], abs=1e-3)


def test_bad_images_stop_the_run_unless_they_may_be_skipped(run_cli: Any, desk: Path, labelled_folder: Any) -> None:
    (labelled_folder.images / "2.png").write_bytes(b"no picture")
    given = ("prune", "tiny", "-s", 0.1, "--images", labelled_folder.images, "--batch-size", 4, "--workers", 0)
    given = (*given, "--final-steps", 1, "-o", desk / "b")
    told = run_cli(*given)
    assert told.exit_code == 1 and "2.png" in told.stderr and "--skip-bad" in told.stderr
    assert not (desk / "b").exists()
    done = run_cli(*given, "--skip-bad", "--json")
    assert json.loads(done.stdout)["skipped_images"] == 1 and "skipped: " in done.stderr
