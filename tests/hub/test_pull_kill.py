"""Pulls that are killed, and pulls that meet: the target is absent or whole, and nothing is fetched twice."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from opentrans_cli.bundle.layout import WEIGHTS
from opentrans_cli.bundle.verify.verify import verify_bundle
from opentrans_cli.steps.hub.pull import pull

if TYPE_CHECKING:
    from tests.hub.conftest import Hub

pytestmark = pytest.mark.usefixtures("no_waits", "cache")
REPO = "org/name"
FILE = "GET /org/name/resolve/.*/weights.safetensors"


def _command(*line: str) -> list[str]:
    small = "from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = 1000"
    return [sys.executable, "-c", f"{small}; from opentrans_cli.cli.app import main; main()", "pull", *line]


def test_a_killed_pull_leaves_nothing_at_the_target_and_goes_on_where_it_was(
    hub: Hub, published: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    out, part, size = tmp_path / "b", tmp_path / ".b.pull", (tiny_bundle / WEIGHTS).stat().st_size
    half = size // 2 // 1000 * 1000  # whole chunks of the first half
    hub.server.slow(FILE)
    process = subprocess.Popen(_command(REPO, "-o", str(out)), env=hub.env, stderr=subprocess.DEVNULL)
    try:
        assert hub.server.wait_for(FILE, seconds=600)
        _wait(lambda: any(path.stat().st_size >= half for path in part.glob("*.part")))
    finally:
        process.kill()
        process.wait()
    assert not out.exists()
    result = pull(REPO, out=out)
    assert hub.content(out) == hub.content(tiny_bundle) and not part.exists()
    assert hub.ranges() == [None, f"bytes={half}-"]
    assert result.fetched_bytes < sum(len(data) for data in hub.content(tiny_bundle).values()) - size // 3


def _wait(condition: Callable[[], bool], seconds: float = 600) -> None:
    pause = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        pause.wait(0.02)
    raise AssertionError("nothing happened")


def test_two_pulls_at_once_do_not_harm_each_other(hub: Hub, published: str, tiny_bundle: Path, cache: Path) -> None:
    hub.server.slow(FILE, seconds=0.3)
    line = _command(f"{REPO}@v1", "--json")
    processes = [subprocess.Popen(line, env=hub.env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    documents = [json.loads(process.communicate()[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    repo = cache / "hub" / "org--name"
    assert hub.content(repo / published) == hub.content(tiny_bundle)
    assert {document["path"] for document in documents} == {str(repo / published)}
    assert len(hub.ranges()) == 1
    assert sorted(path.name for path in repo.iterdir()) == [published, "revisions.json"]


def test_kills_at_random_moments_leave_the_old_bundle_or_the_new_one(
    hub: Hub, published: str, tiny_bundle: Path, nested_bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    rng, old, new = random.Random(0), hub.content(nested_bundle("bare")), hub.content(tiny_bundle)
    out = Path(shutil.copytree(nested_bundle("bare"), tmp_path / "b"))
    for _ in range(5):
        seen = len(hub.server.log)
        process = subprocess.Popen(_command(REPO, "-o", str(out), "--force", "-q"), env=hub.env)
        try:
            hub.server.wait_for("GET", seen + 2)
            threading.Event().wait(rng.random() * 0.1)
        finally:
            process.kill()
            process.wait()
        assert hub.content(out) in (old, new) and all(check.ok for check in verify_bundle(out))
    pull(REPO, out=out, force=True)
    assert hub.content(out) == new and sorted(path.name for path in tmp_path.iterdir()) == ["b", "hf-home"]
