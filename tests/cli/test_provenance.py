"""opentrans provenance: a script on stdout, or the chain as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import open_bundle


def test_stdout_is_the_script_and_stderr_is_empty(run_cli: Any, tiny_segmentor: Path) -> None:
    done = run_cli("provenance", tiny_segmentor)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("#!/bin/sh\n") and done.stdout.endswith('/2-finetune" >&3\n')
    assert subprocess.run(["sh", "-n"], input=done.stdout, text=True).returncode == 0


def test_json_is_the_chain(run_cli: Any, tiny_segmentor: Path) -> None:
    document = json.loads(run_cli("provenance", tiny_segmentor, "--json").stdout)
    check_document(document, "provenance_report")
    bundle = open_bundle(tiny_segmentor)
    assert document["digest"] == bundle.digest and document["reproducible"] is True
    assert document["base"] == {"source": "tiny", "digest": bundle.manifest.base.digest}
    first, second = document["steps"]
    assert [first["verb"], first["parent"], first["number"]] == ["prune", None, 1]
    assert [second["verb"], second["digest"], second["problem"]] == ["finetune", bundle.digest, None]
    assert first["digest"] == second["parent"] == bundle.manifest.steps[1].parent
    assert (first["options"]["sparsity"], second["seed"], second["data"]) == (0.5, 0, bundle.manifest.steps[1].data)
    assert "--sparsity=0.5" in first["command"]


def test_what_is_no_bundle_is_said_in_one_line(refused: Any, tmp_path: Path) -> None:
    assert "nowhere" in refused("provenance", tmp_path / "nowhere")


def test_a_signature_beside_the_manifest_disturbs_no_command(run_cli: Any, bundle: Path) -> None:
    for ending in ("minisig", "asc", "sigstore.json"):
        (bundle / f"manifest.json.{ending}").write_text("signature")
    for command in ("verify", "inspect", "provenance", "analyze"):
        assert run_cli(command, bundle).exit_code == 0


def test_the_script_runs_the_program_that_is_installed(run_cli: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    """With nothing of this process: `opentrans` as a program of its own, found through PATH."""
    program = tmp_path / "opentrans"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m opentrans_cli "$@"\n')
    program.chmod(0o755)
    script = run_cli("provenance", tiny_bundle).stdout
    path = f"{tmp_path}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(["sh", "-s"], input=script, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "reproduced/1-prune\n"), done.stderr
    assert open_bundle(tmp_path / done.stdout.strip()).digest == open_bundle(tiny_bundle).digest
