"""What a run distils with: losses by step, precision, labelled regions, and nothing where nothing is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.steps.prune.options import PruneOptions
from opentrans_cli.steps.prune.prune import REPORT, prune

Options = Callable[..., PruneOptions]


def report_of(bundle: Bundle) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(bundle.read(REPORT))
    check_document(document, "prune_report")
    return document


def test_every_step_is_logged_and_recorded(tmp_path: Path, distilled: Options) -> None:
    result = prune(**vars(distilled()), out=tmp_path / "b", device="cpu")
    report = report_of(open_bundle(result.path))
    assert result.log is not None
    lines = [json.loads(line) for line in result.log.read_text().splitlines()]
    heard = [line for line in lines if line["event"] == "step"]
    assert [step["step"] for step in report["steps"]] == [line["step"] - 1 for line in heard] == list(range(8))
    assert [step["loss"] for step in report["steps"]] == [line["loss"] for line in heard]
    assert report["rounds"][-1]["kept"] == result.kept and report["images"] == 8
    rates = [step["lr"] for step in report["steps"]]
    assert rates[:7] == [1e-3] * 7 and rates[7] == pytest.approx(5e-4)


def test_text_guided_distillation_logs_its_terms_and_keeps_the_whole_tower(tmp_path: Path, distilled: Options) -> None:
    bundle = open_bundle(prune(**vars(distilled(distill="text-guided")), out=tmp_path / "b", device="cpu").path)
    steps = report_of(bundle)["steps"]
    assert all(set(step) == {"step", "loss", "lr", "visual", "affinity", "scale", "regions"} for step in steps)
    assert len({step["scale"] for step in steps}) > 1 and min(step["regions"] for step in steps) > 0
    assert "attnpool.q_proj.weight" in bundle.tower()


def test_text_guided_distillation_learns_from_own_label_maps(
    tmp_path: Path, distilled: Options, labelled_folder: Any
) -> None:
    where = {key: str(getattr(labelled_folder, key)) for key in ("images", "labels", "classes")}
    options = distilled(distill="text-guided", framework="maskclip", **where)
    bundle = open_bundle(prune(**vars(options), out=tmp_path / "b", device="cpu").path)
    assert len(report_of(bundle)["steps"]) == 8


def test_images_without_distillation_choose_weights_and_train_none(tmp_path: Path, distilled: Options) -> None:
    bundle = open_bundle(prune(**vars(distilled(distill="none")), out=tmp_path / "b", device="cpu").path)
    dense = open_bundle(prune("tiny", sparsity=0.0, out=tmp_path / "dense", device="cpu").path).tower()
    for layer, mask in bundle.masks().items():
        name = f"{layer}.weight"
        assert np.array_equal(bundle.tower()[name], np.where(mask, dense[name], 0))
    assert report_of(bundle)["steps"] == [] and bundle.manifest.steps[-1].options["criterion"] == "fisher"


def test_bfloat16_runs_and_holds_the_masks(tmp_path: Path, distilled: Options) -> None:
    wide = open_bundle(prune(**vars(distilled()), out=tmp_path / "wide", device="cpu").path)
    narrow = open_bundle(prune(**vars(distilled(precision="bfloat16")), out=tmp_path / "narrow", device="cpu").path)
    losses = [[step["loss"] for step in report_of(bundle)["steps"]] for bundle in (wide, narrow)]
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.2, abs=0.02)
    assert all(array.dtype != np.float16 for array in narrow.tower().values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_chooses_and_trains_as_the_cpu_does(precision: str, tmp_path: Path, distilled: Options) -> None:
    here = open_bundle(prune(**vars(distilled()), out=tmp_path / "cpu", device="cpu").path)
    there = open_bundle(prune(**vars(distilled(precision=precision)), out=tmp_path / "gpu", device="cuda").path)
    agree = sum(int((there.masks()[layer] == mask).sum()) for layer, mask in here.masks().items())
    assert agree / here.manifest.total > (0.999 if precision == "float32" else 0.98)
    losses = [[step["loss"] for step in report_of(bundle)["steps"]] for bundle in (here, there)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02 if precision == "float32" else 0.2, abs=0.02)
