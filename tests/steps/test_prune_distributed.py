"""prune in two processes, as torchrun starts them: one result, the same masks in both, and that of one process."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.errors import DataError, RunStopped
from opentrans_cli.steps.look.verify import verify
from opentrans_cli.steps.prune import prune as step
from opentrans_cli.steps.prune.options import PruneControls, PruneOptions

OPTIONS = PruneOptions(
    source="tiny",
    sparsity=0.5,
    schedule="linear",
    rounds=2,
    images="shapes",
    image_limit=128,
    score_images=128,  # two batches, one for each process
    batch_size=8,
    steps_per_round=3,
    final_steps=3,
    keep_rounds="masks",
)


def worker(folder: Path) -> None:
    """What each of the processes does: a run, a run that is interrupted and resumed, and one that fails."""
    plans = []
    make_plan = step.make_prune_plan

    def watched(*arguments: Any) -> Any:
        plans.append(make_plan(*arguments))
        return plans[-1]

    step.make_prune_plan = watched
    result = step.prune(**vars(OPTIONS), out=folder / "whole", device="cpu")
    short, stops = PruneControls(max_minutes=1e-6), 0
    for controls in (short, short, short, short, PruneControls()):  # four steps, the last in the second round
        try:
            step.prune(**vars(OPTIONS), out=folder / "resumed", device="cpu", **vars(controls), resume=True)
        except RunStopped:
            stops += 1
    try:
        step.prune("tiny", images="nowhere", out=folder / "failed", device="cpu")
    except DataError as error:
        failure = [getattr(error, "reported", False), str(error)]
    towers = [plan.tower for plan in (plans[0], plans[5])]  # of the two runs as they ended
    found = {
        "result": [result.sparsity, result.distillation_loss, result.path.name],
        "stops": stops,
        "towers": [digest(tower.visual.state_dict()) for tower in towers],
        "masks": [digest(tower.masks) for tower in towers],
        "failure": failure,
    }
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(found))


def digest(tensors: Any) -> str:
    return hashlib.sha256(b"".join(np.asarray(tensors[name]).tobytes() for name in sorted(tensors))).hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, torchrun: Callable[..., None]) -> Path:
    """What two processes left."""
    folder = tmp_path_factory.mktemp("torchrun")
    torchrun(__file__, folder, timeout=600)
    return folder


@pytest.fixture(scope="module")
def both(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same run in this process."""
    return open_bundle(step.prune(**vars(OPTIONS), out=tmp_path_factory.mktemp("alone") / "b", device="cpu").path)


def losses(bundle: Bundle) -> list[float]:
    report = json.loads((bundle.path / step.REPORT).read_text())
    return [entry["loss"] for entry in report["steps"]]


def test_both_processes_hold_the_same_masks_weights_and_result(both: list[dict[str, Any]]) -> None:
    first, second = both
    assert first["masks"] == second["masks"]
    assert first["towers"] == second["towers"]
    assert first["stops"] == second["stops"] == 4
    assert first["result"] == second["result"]


def test_the_first_round_keeps_what_one_process_keeps(folder: Path, alone: Bundle) -> None:
    here, there = alone.rounds(), open_bundle(folder / "whole").rounds()
    for layer, rounds in here.items():
        assert np.array_equal(rounds == 1, there[layer] == 1), layer


def test_distillation_goes_as_in_one_process_with_the_whole_batch(folder: Path, alone: Bundle) -> None:
    here, there = losses(alone), losses(open_bundle(folder / "whole"))
    assert there[0] == pytest.approx(here[0], rel=1e-5)
    # From here on AdamW follows the sign even of gradients that are zero but for rounding, and masks the weights.
    assert there == pytest.approx(here, rel=0.05)
    masks = open_bundle(folder / "whole").masks()
    assert sum(int(mask.sum()) for mask in masks.values()) == alone.manifest.kept
    different = sum(int((mask != masks[layer]).sum()) for layer, mask in alone.masks().items())
    assert different < 0.01 * alone.manifest.total


def test_a_resumed_run_of_two_processes_is_the_uninterrupted_one(
    folder: Path, both: list[dict[str, Any]], content: Callable[[Path], dict[str, bytes]]
) -> None:
    assert content(folder / "resumed") == content(folder / "whole")
    for found in both:
        assert len(set(found["towers"])) == len(set(found["masks"])) == 1


def test_the_bundle_is_complete_and_nothing_else_is_left(folder: Path) -> None:
    assert verify(folder / "whole").ok
    logs = ["resumed.log.jsonl", "whole.log.jsonl"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(["0.json", "1.json", "resumed", "whole", *logs])


def test_what_both_processes_fail_with_is_left_to_one_to_tell(both: list[dict[str, Any]]) -> None:
    assert [found["failure"][0] for found in both] == [False, True]
    assert both[0]["failure"][1] == both[1]["failure"][1]


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
