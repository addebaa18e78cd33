"""transfer: every tensor arrives bit for bit, and the receipt says where."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.errors import BundleError, OptionError
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.steps.analyze.analyze import analyze
from opentrans_cli.steps.look.verify import verify
from opentrans_cli.steps.transfer.transfer import transfer

Content = Callable[[Path], dict[str, bytes]]
every_framework = pytest.mark.parametrize("to", FRAMEWORKS.names())


@every_framework
def test_tower_and_masks_are_the_parent_s_and_all_in_the_receipt(to: str, tiny_bundle: Path, tmp_path: Path) -> None:
    result = transfer(tiny_bundle, to=to, out=tmp_path / "t")
    parent, child = open_bundle(tiny_bundle), open_bundle(tmp_path / "t")
    before, after = parent.tower(), child.tower()
    assert sorted(key["source"] for key in result.keys) == sorted(before)
    for key in result.keys:
        assert key["shape"] == list(before[key["source"]].shape)
        assert key["verdict"] == ("moved" if key["target"] else "left out")
    targets = [key["target"] for key in result.keys if key["target"] is not None]
    assert len(targets) == len(set(targets))
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert after[name].tobytes() == value.tobytes() and after[name].shape == value.shape, name
    for layer, mask in parent.masks().items():
        assert np.array_equal(child.masks()[layer], mask)
    assert child.manifest.base == parent.manifest.base
    assert child.manifest.steps[:-1] == parent.manifest.steps
    assert (child.manifest.steps[-1].verb, child.manifest.steps[-1].parent) == ("transfer", parent.digest)
    assert child.manifest.segmentor is not None and child.manifest.segmentor.framework == to
    assert verify(child.path).ok


@every_framework
def test_the_same_seed_gives_the_same_bytes_and_another_one_another_head(
    to: str, tiny_bundle: Path, tmp_path: Path, content: Content
) -> None:
    one, again, other = (
        content(transfer(tiny_bundle, to=to, out=tmp_path / name, seed=seed).path or tmp_path)
        for name, seed in (("one", 0), ("again", 0), ("other", 1))
    )
    assert one == again
    assert one["weights.safetensors"] == other["weights.safetensors"]
    if FRAMEWORKS.load(to).trainable:
        assert one["segmentor.safetensors"] != other["segmentor.safetensors"]


def test_building_a_head_leaves_the_caller_s_generator_alone(tiny_bundle: Path) -> None:
    import torch

    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    transfer(tiny_bundle, to="deeplabv3", out=None)
    assert torch.equal(torch.rand(3), expected)


def test_a_dry_run_writes_nothing_and_gives_the_receipt_of_the_real_one(tiny_bundle: Path, tmp_path: Path) -> None:
    dry = transfer(tiny_bundle, to="deeplabv3", out=None)
    assert dry.path is None
    real = transfer(tiny_bundle, to="deeplabv3", out=tmp_path / "t")
    assert real.to_json() == dry.to_json() == json.loads(open_bundle(tmp_path / "t").read("reports/transfer.json"))


def test_the_alpha_report_comes_along(tiny_bundle: Path, tmp_path: Path) -> None:
    analyzed = Path(shutil.copytree(tiny_bundle, tmp_path / "b"))
    analyze(str(analyzed))
    transfer(analyzed, to="deeplabv3", out=tmp_path / "t")
    before, after = open_bundle(analyzed).alpha(), open_bundle(tmp_path / "t").alpha()
    assert before is not None and after is not None
    assert after[1] == before[1]
    assert all(np.array_equal(after[0][name], values) for name, values in before[0].items())


def test_what_cannot_be_transferred_is_told_before_anything_is_written(tiny_bundle: Path, tmp_path: Path) -> None:
    targets = "deeplabv3, han, fcclip, mask2former, maskclip, open-clip, onnx, patch"
    with pytest.raises(OptionError, match=f"unknown target: 'onx'; choose one of {targets}; did you mean onnx"):
        transfer(tiny_bundle, to="onx", out=tmp_path / "x")
    with pytest.raises(OptionError, match="'timm' names the tensors of a checkpoint: --to timm; add --checkpoint"):
        transfer(tiny_bundle, to="timm", out=tmp_path / "x")
    with pytest.raises(OptionError, match="unknown target: 'fcn'"):
        transfer(tiny_bundle, to="fcn", out=tmp_path / "t")
    with pytest.raises(OptionError, match="deeplabv3 has no output stride: 5"):
        transfer(tiny_bundle, to="deeplabv3", out=tmp_path / "t", **{"output_stride": 5})
    with pytest.raises(BundleError, match="no such bundle"):
        transfer(tmp_path / "none", to="deeplabv3", out=tmp_path / "t")
    assert list(tmp_path.iterdir()) == []
