"""Verify: the golden bundle passes, a damaged copy does not, and the result says why."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from opentrans_cli.errors import BundleError
from opentrans_cli.steps.look.verify import verify

GOLDEN = Path(__file__).parents[2] / "golden" / "bundle-v1"


def test_the_golden_bundle_passes() -> None:
    result = verify(GOLDEN)
    assert result.ok and len(result.checks) == 12 and result.path == str(GOLDEN)


def test_one_failed_check_makes_the_result_fail(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "b")
    path = tmp_path / "b" / "alpha.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    result = verify(tmp_path / "b")
    assert not result.ok
    assert [check.name for check in result.checks if not check.ok] == ["hashes"]
    assert "alpha.safetensors" in next(check.detail for check in result.checks if not check.ok)


def test_no_bundle_raises(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        verify(tmp_path / "none")


def test_fine_tuning_is_proved_against_the_bundle_it_started_from(tiny_segmentor: Path, tiny_bundle: Path) -> None:
    result = verify(tiny_segmentor, parents=[tiny_bundle])
    details = {check.name: check.detail for check in result.checks}
    assert result.ok, details
    assert "frozen tensors are bit-identical" in details["parent"] and "0 frozen" not in details["parent"]
    assert verify(tiny_bundle, parents=[tiny_segmentor]).ok is False
