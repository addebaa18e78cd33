"""finetune in two processes: one bundle, and the weights of one process."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import in_two

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.errors import DataError
from opentrans_cli.steps.finetune.finetune import finetune
from opentrans_cli.steps.finetune.options import FinetuneControls, FinetuneOptions
from opentrans_cli.steps.look.verify import verify
from opentrans_cli.steps.transfer.transfer import transfer

# SGD: AdamW follows the sign of a gradient, and those near zero have one in one process and another in two.
PLAIN = FinetuneOptions(
    steps=4, batch_size=8, accumulate=2, crop=64, optimizer="sgd", lr=0.02, kd_weight=0.5, ema=0.5, freeze="none"
)
FROZEN = replace(PLAIN, views=2, warmup_steps=2, freeze="heavy", prefix_end="layer1.0", freeze_scope="model")
MASKS = replace(PLAIN, freeze="random", lr=0.002)
RUNS: dict[str, tuple[str, FinetuneOptions, FinetuneControls]] = {
    "plain": ("pixels", PLAIN, FinetuneControls()),
    "sharded": ("pixels", PLAIN, FinetuneControls(shard=True, eval_every=2, eval_limit=3)),
    "frozen": ("pixels", FROZEN, FinetuneControls(cache_features=Path("features"))),
    "masks": ("masks", MASKS, FinetuneControls(workers=1)),
}
SCENES = DatasetOptions(limit=8)


def train(folder: Path, name: str, *, resume: bool = False) -> Any:
    source, options, controls = RUNS[name]
    here = replace(controls, timing_steps=0, shard=controls.shard and "RANK" in os.environ)
    if here.cache_features is not None:
        here = replace(here, cache_features=folder / here.cache_features)
    return finetune(
        folder.parent / source,
        out=folder / name,
        **vars(options),
        **vars(here),
        **vars(SCENES),
        device="cpu",
        resume=resume,
    )


def worker(folder: Path) -> None:
    """What each of the processes does: every run, and one that fails."""
    found: dict[str, Any] = {name: train(folder, name).loss for name in RUNS}
    try:
        finetune(
            folder.parent / "pixels",
            out=folder / "failed",
            **vars(PLAIN),
            dataset="folder",
            images=Path("no"),
            labels=Path("no"),
            classes=Path("no"),
            device="cpu",
        )
    except DataError as error:
        found["failure"] = str(error)
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """Segmentors, and what one process makes of them in `one`, two in `two`."""
    work = tmp_path_factory.mktemp("processes")
    # Scores of a queryless classifier start even, and the first matching of masks is a draw: one layer, few queries.
    decoder = {"queries": 6, "encoder_layers": 1, "decoder_layers": 1}
    transfer(tiny_bundle, to="deeplabv3", out=work / "pixels")
    transfer(tiny_bundle, to="han", out=work / "masks", **decoder)
    (work / "one").mkdir()
    (work / "two").mkdir()
    for name in RUNS:
        train(work / "one", name)
    in_two(worker, work / "two")
    return work


def test_both_processes_end_with_the_same_losses_and_the_same_error(work: Path) -> None:
    first, second = (json.loads((work / "two" / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second and first.keys() == {*RUNS, "failure"}
    assert not (work / "two" / "failed").exists()


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_write_the_weights_of_one(name: str, work: Path) -> None:
    """Trunk and head, running statistics and averages, with distillation, parts, warm-up, cache, shards and masks."""
    one, two = (open_bundle(work / count / name) for count in ("one", "two"))
    for before, after in ((one.tower(), two.tower()), (one.head(), two.head())):
        assert before is not None and after is not None and before.keys() == after.keys()
        for key, array in before.items():
            np.testing.assert_allclose(after[key], array, atol=2e-5, rtol=2e-4, err_msg=key)
    for layer, mask in two.masks().items():
        assert not two.tower()[f"{layer}.weight"][~mask].any()
    assert verify(two.path).ok


@pytest.mark.parametrize("name", RUNS)
def test_the_receipt_and_the_choice_do_not_depend_on_the_number_of_processes(name: str, work: Path) -> None:
    receipts = [json.loads(open_bundle(work / count / name).read("reports/finetune.json")) for count in ("one", "two")]
    for receipt in receipts:
        del receipt["frozen_hash"], receipt["frozen_tensors"]  # of weights that agree to rounding
    assert receipts[0] == receipts[1]
    steps = [open_bundle(work / count / name).manifest.steps[-1] for count in ("one", "two")]
    assert [step.options["processes"] for step in steps] == [1, 2]
    assert {key: steps[1].options[key] for key in asdict(PLAIN)} == {
        key: steps[0].options[key] for key in asdict(PLAIN)
    }


@pytest.mark.parametrize("name", RUNS)
def test_the_first_process_alone_writes_the_log(name: str, work: Path) -> None:
    lines = [json.loads(line) for line in (work / "two" / f"{name}.log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "step"] == [1, 2, 3, 4]
