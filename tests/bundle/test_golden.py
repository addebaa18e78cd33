"""The committed bundle of every format version stays readable, and its bytes do not change."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from opentrans_cli.bundle.store import open_bundle, write_bundle
from opentrans_cli.bundle.verify.verify import verify_bundle

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_golden", GOLDEN / "make_golden.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["golden", "nested"])
def test_writing_the_golden_contents_gives_the_committed_bytes(tmp_path: Path, maker: ModuleType, name: str) -> None:
    write_bundle(tmp_path / "b", getattr(maker, f"{name}_contents")())
    committed = getattr(maker, name.upper())
    for folder, other in ((committed, tmp_path / "b"), (tmp_path / "b", committed)):
        for path in folder.rglob("*.*"):
            assert path.read_bytes() == (other / path.relative_to(folder)).read_bytes(), path.name


def test_the_golden_bundle_verifies_and_reads_as_committed() -> None:
    bundle = open_bundle(GOLDEN / "bundle-v1")
    assert [check.name for check in verify_bundle(bundle.path) if not check.ok] == []
    assert bundle.digest == "sha256:87d9573558143c5eeef8aa242778518e10bd65226831fd15767542951d58e810"
    assert bundle.masks()["conv2"].reshape(-1).tolist() == [True, False] * 5
    weight = bundle.tower()["conv2.weight"].reshape(-1)
    # -4/7, -2/7, 0, 2/7, 4/7 to eight significant bits
    assert weight[::2].tolist() == [-0.5703125, -0.28515625, 0.0, 0.28515625, 0.5703125]
    assert not weight[1::2].any()
    rounds, head, alpha = bundle.rounds(), bundle.head(), bundle.alpha()
    assert rounds is not None and rounds["conv2"].reshape(-1).tolist() == [0, 1, 0, 2, 0, 3, 0, 1, 0, 2]
    assert head is not None and np.array_equal(head["decode.weight"], [[1, -2], [0.5, 0]])
    assert alpha is not None and alpha[1]["estimator"] == "xmin_peak"


def test_the_towers_of_its_earlier_rounds_read_as_committed() -> None:
    bundle = open_bundle(GOLDEN / "bundle-v1-rounds")
    assert [check.name for check in verify_bundle(bundle.path) if not check.ok] == []
    assert bundle.digest == "sha256:349e890a4eb5a61219de574851cc5a360d5bcaa51da24e02df4181cfd5ecf4c3"
    assert bundle.saved_rounds() == (1, 2)
    tower = bundle.round_tower(2)
    # After round 2 the weights with round 0 or 3 are left; (i + 2) / 8 is exact in bfloat16.
    assert tower["conv2.weight"].reshape(-1).tolist() == [0.25, 0, 0.5, 0, 0.75, 0.875, 1.0, 0, 1.25, 0]
    assert bundle.round_tower(1)["bn1.running_var"].tolist() == [1, 1.25, 2]
    assert tower["bn1.num_batches_tracked"] == 3
    old = open_bundle(GOLDEN / "bundle-v1")
    assert old.digest != bundle.digest and old.saved_rounds() == ()
    assert all(array.tobytes() == bundle.tower()[name].tobytes() for name, array in old.tower().items())
