"""The whole pipeline through the command line, each path taken from the stdout of the command before."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.clip.key_tables import OUTPUT_HEAD
from opentrans_cli.clip.layers import batchnorm_of, candidates
from opentrans_cli.datasets.images import read_label_map
from opentrans_cli.steps.sources import bundle_tower


def test_prune_analyze_transfer_finetune_eval_segment(run_cli: Any, tmp_path: Path, labelled_folder: Any) -> None:
    def path_of(*line: object) -> str:
        result = run_cli(*line)
        assert result.exit_code == 0, result.stderr
        assert result.stdout.count("\n") == 1
        return str(result.stdout.strip())

    distil = ("--images", labelled_folder.images, "--batch-size", 4, "--steps-per-round", 1, "--final-steps", 2)
    subnet = path_of("prune", "tiny", "-s", 0.5, *distil, "--keep-rounds", "masks", "-o", tmp_path / "subnet")
    subnet = path_of("analyze", subnet, "--freeze-ratio", 0.1)
    fresh = path_of("transfer", subnet, "--to", "deeplabv3", "-o", tmp_path / "fresh")
    train = (*labelled_folder.options, "--steps", 4, "--batch-size", 2, "--hold-out", "blue square")
    trained = path_of("finetune", fresh, *train, "-o", tmp_path / "trained")
    trained = path_of("eval", trained, *labelled_folder.options)
    pictures = path_of("segment", trained, labelled_folder.images, "-w", "grass,blue square", "-o", tmp_path / "out")

    bundle = open_bundle(trained)
    verbs = [step.verb for step in bundle.manifest.steps]
    assert verbs == ["prune", "analyze", "transfer", "finetune", "eval"]
    parents = [step.parent for step in bundle.manifest.steps]
    digests = [open_bundle(path).digest for path in (subnet, fresh, trained)]
    assert parents == [None, digests[0], digests[0], digests[1], digests[2]]
    assert len(set(digests)) == 3

    masks = [open_bundle(path).masks() for path in (subnet, fresh, trained)]
    assert all(np.array_equal(other[layer], mask) for layer, mask in masks[0].items() for other in masks[1:])
    assert bundle.manifest.kept == bundle.manifest.total - round(0.5 * bundle.manifest.total)

    report = json.loads(bundle.read("reports/eval-folder.json"))
    check_document(report, "eval_report")
    assert {entry["name"]: entry["seen"] for entry in report["per_class"]}["blue square"] is False
    check_what_was_frozen(open_bundle(subnet), open_bundle(fresh), bundle)

    assert all(read_label_map(path).max() < 2 for path in Path(pictures).glob("[0-9].png"))
    for path in (subnet, fresh, trained):
        assert run_cli("verify", path).exit_code == 0
        check_document(json.loads((Path(path) / "manifest.json").read_text()), "manifest")


def check_what_was_frozen(subnet: Bundle, before: Bundle, after: Bundle) -> None:
    """The layers that analyze chose are those of the record, and they and their norms alone are as they were."""
    alpha = subnet.alpha()
    assert alpha is not None and alpha[1]["selection"] == {"freeze": "heavy", "rule": "ratio", "number": 0.1}
    chosen, receipt = alpha[1]["frozen"], json.loads(after.read("reports/finetune.json"))
    assert len(chosen) == math.floor(0.1 * len(alpha[1]["layers"])) > 0
    assert (receipt["frozen_layers"], receipt["frozen_by"]) == (chosen, "analyze")

    old, new = before.tower(), after.tower()
    changed = {name for name in old if old[name].tobytes() != new[name].tobytes()}
    visual = bundle_tower(before).visual
    owners = {*chosen, *(batchnorm_of(visual, layer) for layer in chosen)}
    fixed = {name for name in old if name.rpartition(".")[0] in owners}
    assert {f"{layer}.weight" for layer in chosen} < fixed and any(name.endswith("running_var") for name in fixed)
    learned = {f"{layer.name}.weight" for layer in candidates(visual) if layer.reason != OUTPUT_HEAD}
    learned |= {name for name in old if name.endswith(("running_mean", "running_var"))}
    assert not changed & fixed and learned - fixed <= changed
