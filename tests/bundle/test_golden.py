"""The committed bundle of every format version stays readable, and its bytes do not change."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from opentrans_cli.bundle.store import open_bundle, write_bundle
from opentrans_cli.bundle.verify import verify_bundle

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_golden", GOLDEN / "make_golden.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_writing_the_golden_contents_gives_the_committed_bytes(tmp_path: Path, maker: ModuleType) -> None:
    write_bundle(tmp_path / "b", maker.golden_contents())
    for folder, other in ((maker.GOLDEN, tmp_path / "b"), (tmp_path / "b", maker.GOLDEN)):
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
