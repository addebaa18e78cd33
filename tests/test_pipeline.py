"""The whole pipeline through the command line, each path taken from the stdout of the command before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.datasets.images import read_label_map


def test_prune_analyze_transfer_finetune_eval_segment(run_cli: Any, tmp_path: Path, labelled_folder: Any) -> None:
    def path_of(*line: object) -> str:
        result = run_cli(*line)
        assert result.exit_code == 0, result.stderr
        assert result.stdout.count("\n") == 1
        return str(result.stdout.strip())

    distil = ("--images", labelled_folder.images, "--batch-size", 4, "--steps-per-round", 1, "--final-steps", 2)
    subnet = path_of("prune", "tiny", "-s", 0.5, *distil, "--keep-rounds", "masks", "-o", tmp_path / "subnet")
    subnet = path_of("analyze", subnet)
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
    frozen = json.loads(bundle.read("reports/finetune.json"))["frozen_layers"]
    alpha = open_bundle(subnet).alpha()
    assert alpha is not None and frozen == alpha[1]["frozen"]

    assert all(read_label_map(path).max() < 2 for path in Path(pictures).glob("[0-9].png"))
    for path in (subnet, fresh, trained):
        assert run_cli("verify", path).exit_code == 0
        check_document(json.loads((Path(path) / "manifest.json").read_text()), "manifest")
