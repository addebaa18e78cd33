"""Options out of range and unknown names: exit code 2, one line that says what is allowed, nothing written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

DISTIL = ("--images", "shapes", "--image-limit", 4, "--batch-size", 2, "--steps-per-round", 1, "--final-steps", 1)
SHORT = ("--steps", 1, "--batch-size", 2, "--crop", 64, "--limit", 2)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--pattern", "checkers"), "unknown pattern: 'checkers'; choose one of unstructured"),
        (("--device", "tpu"), "device is not available here: 'tpu'; choose auto or one of cpu"),
        (("--sparsity", "nan"), "out of range: --sparsity nan; give 0 or more, below 1"),
        (("--dtype", "int8"), "unknown dtype: 'int8'; choose one of float32, float16, bfloat16"),
        (("--batch-size", 5), "fewer images than --batch-size: 4 < 5"),
    ],
)
def test_options_of_prune(options: tuple[Any, ...], named: str, refused: Any, desk: Path) -> None:
    assert named in refused("prune", "tiny", "-s", 0.5, *DISTIL, *options, "-o", desk / "b", code=2)


def test_like_without_random_and_twins_of_something_else(refused: Any, desk: Path, tiny_bundle: Path) -> None:
    out = ("-o", desk / "b")
    assert "add --random" in refused("prune", "tiny", "-s", 0.5, "--like", tiny_bundle, *out, code=2)
    twin = ("prune", "tiny", "--random", "--like")
    assert "not the twin of this run" in refused(*twin, tiny_bundle, "-s", 0.6, *out, code=2)
    assert "not the twin of this run" in refused(*twin, tiny_bundle, "-s", 0.5, *DISTIL, *out, code=2)
    assert "no such bundle" in refused(*twin, desk / "none", "-s", 0.5, *out)
    assert "starts from the dense tower" in refused("prune", tiny_bundle, "-s", 0.9, "--random", *out, code=2)
    assert "source is sparser than the target" in refused("prune", tiny_bundle, "-s", 0.4, *out, code=2)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--framework", "fcn"), "unknown framework: 'fcn'; choose one of deeplabv3"),
        (("--framework", "maskclip"), "segmentor has nothing to train: maskclip"),
        (("--estimator", "guess"), "unknown estimator: 'guess'; choose one of xmin_peak"),
        (("--estimator", "guess", "--freeze", "none"), "unknown estimator: 'guess'"),
        (("--freeze", "ice"), "unknown freeze mode: 'ice'; choose one of heavy, light, random, none"),
        (("--freeze-ratio", 1.5), "freeze ratio out of range: 1.5; choose a number from 0 to 1"),
        (("--freeze-ratio", "nan"), "freeze ratio out of range: nan"),
        (("--freeze-ratio", 1.5, "--freeze", "none"), "freeze ratio out of range: 1.5"),
        (("--device", "tpu"), "device is not available here: 'tpu'"),
        (("--dataset", "imagenet"), "unknown data set: 'imagenet'; choose one of shapes, folder"),
        (("--dataset", "folder"), "--images and --labels and --classes missing"),
        (("--steps", 0), "steps"),
        (("--batch-size", 0), "--batch-size must be at least 1: 0"),
        (("--crop", 0), "--crop 0"),
        (("--crop", -5), "--crop -5"),
        (("--crop", 31), "--crop 31; use 32 or more"),
        (("--lr", 0), "--lr"),
        (("--weight-decay", "nan"), "--weight-decay"),
        (("--limit", 0), "--limit 0"),
        (("--hold-out", "grass"), "has no use for: --hold-out"),
    ],
)
def test_options_of_finetune(options: tuple[Any, ...], named: str, refused: Any, desk: Path, bundle: Path) -> None:
    assert named in refused("finetune", bundle, *SHORT, *options, "-o", desk / "f", code=2)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--estimator", "guess"), "unknown estimator: 'guess'"),
        (("--freeze", "ice"), "unknown freeze mode: 'ice'"),
        (("--freeze-ratio", 1.5), "freeze ratio out of range: 1.5"),
    ],
)
def test_options_of_analyze(options: tuple[Any, ...], named: str, refused: Any, bundle: Path) -> None:
    before = (bundle / "manifest.json").read_bytes()
    assert named in refused("analyze", bundle, *options, code=2)
    assert (bundle / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--to", "fcn"), "unknown framework: 'fcn'"),
        (("--option", "colour=red"), "deeplabv3 has no option: 'colour'; choose from output_stride"),
        (("--option", "output_stride=7"), "deeplabv3 has no output stride: 7; choose 8, 16 or 32"),
        (("--option", "output_stride=many"), "wrong value for deeplabv3 output_stride: 'many'"),
        (("--option", "output_stride"), "not NAME=VALUE: --option output_stride"),
    ],
)
def test_options_of_transfer(options: tuple[Any, ...], named: str, refused: Any, desk: Path, bundle: Path) -> None:
    assert named in refused("transfer", bundle, *options, "-o", desk / "t", code=2)
