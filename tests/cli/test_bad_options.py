"""Options out of range and unknown names: exit code 2, one line that says what is allowed, nothing written.

Every range and every choice is tried in tests/test_option.py; here, that commands say what the options say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

DISTIL = ("--images", "shapes", "--image-limit", 4, "--batch-size", 2, "--steps-per-round", 1, "--final-steps", 1)


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
        (("--to", "fcn"), "unknown framework: 'fcn'"),
        (("--option", "colour=red"), "deeplabv3 has no option: 'colour'; choose from output_stride"),
        (("--option", "output_stride=7"), "deeplabv3 has no output stride: 7; choose 8, 16 or 32"),
        (("--option", "output_stride=many"), "wrong value for deeplabv3 output_stride: 'many'"),
        (("--option", "output_stride"), "not NAME=VALUE: --option output_stride"),
    ],
)
def test_options_of_transfer(options: tuple[Any, ...], named: str, refused: Any, desk: Path, bundle: Path) -> None:
    assert named in refused("transfer", bundle, *options, "-o", desk / "t", code=2)
