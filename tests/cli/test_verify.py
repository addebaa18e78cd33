"""verify: every check on stdout, and an exit code to rely on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def test_a_sound_bundle_passes_every_check(run_cli: Any, tiny_segmentor: Path) -> None:
    result = run_cli("verify", tiny_segmentor)
    assert (result.exit_code, result.stderr) == (0, "")
    assert all(line.startswith("ok ") for line in result.stdout.splitlines())


def test_json_lists_the_checks(run_cli: Any, tiny_segmentor: Path) -> None:
    document = json.loads(run_cli("verify", tiny_segmentor, "--json").stdout)
    assert document["ok"] is True and document["path"] == str(tiny_segmentor)
    assert {"manifest", "files", "hashes", "mask counts", "finite values"} <= {c["name"] for c in document["checks"]}


def test_one_flipped_bit_fails_with_exit_code_1(run_cli: Any, bundle: Path) -> None:
    path = bundle / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)
    result = run_cli("verify", bundle)
    assert result.exit_code == 1
    assert "failed hashes: weights.safetensors does not match its hash" in result.stdout
    assert result.stderr == (
        f"opentrans: error: bundle is not valid: {bundle} (hashes): "
        "weights.safetensors does not match its hash; write or download the bundle again\n"
    )
    as_json = run_cli("verify", bundle, "--json")
    assert as_json.exit_code == 1 and json.loads(as_json.stdout)["ok"] is False


def test_no_bundle_at_all_is_told_in_one_line(run_cli: Any, desk: Path) -> None:
    result = run_cli("verify", desk / "none")
    assert (result.exit_code, result.stdout) == (1, "")
    assert (
        result.stderr
        == f"opentrans: error: no such bundle: '{desk / 'none'}'; check the path, or make one with `opentrans prune`\n"
    )


def test_parents_are_proved_and_strangers_refused(run_cli: Any, tiny_segmentor: Path, tiny_bundle: Path) -> None:
    result = run_cli("verify", tiny_segmentor, "--parent", tiny_bundle)
    assert result.exit_code == 0 and "frozen tensors are bit-identical" in result.stdout
    result = run_cli("verify", tiny_bundle, "--parent", tiny_segmentor)
    assert result.exit_code == 1 and "not a parent of this bundle" in result.stderr
