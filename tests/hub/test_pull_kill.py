"""Pulls that are killed, and pulls that meet: the target is absent or whole, and nothing is fetched twice."""

from __future__ import annotations

import json
import os
import random
import signal
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


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def published(hub: Hub, tiny_bundle: Path) -> str:
    """The tiny bundle on the Hub, tagged v1; its commit."""
    server = sys.modules["opentrans_test_hub_server"]
    repo = hub.server.repos[REPO] = server.Repo()
    files = content(tiny_bundle).items()
    commit: str = repo.add_commit("main", {name: server.Blob(data, True) for name, data in files}, "bundle")
    repo.tags["v1"] = commit
    return commit


def fetched(hub: Hub) -> list[str | None]:
    """The ranges in which the weights were asked for."""
    return [request.range for request in hub.server.requests(FILE)]


def _command(*line: str) -> list[str]:
    small = "from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = 1000"
    return [sys.executable, "-c", f"{small}; from opentrans_cli.cli.app import main; main()", *line]


def test_a_killed_pull_leaves_nothing_at_the_target_and_goes_on_where_it_was(
    hub: Hub, published: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    out, size = tmp_path / "b", (tiny_bundle / WEIGHTS).stat().st_size
    hub.server.slow(FILE)
    process = subprocess.Popen(_command("pull", REPO, "-o", str(out)), env=hub.env, stderr=subprocess.DEVNULL)
    part = tmp_path / ".b.pull"
    try:
        assert hub.server.wait_for(FILE)
        _wait(lambda: any(path.stat().st_size >= size // 2 - 1000 for path in part.glob("*.part")))
        assert not out.exists()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not out.exists()
    result = pull(REPO, out=out)
    assert content(out) == content(tiny_bundle) and not part.exists()
    assert fetched(hub) == [None, f"bytes={size // 2 // 1000 * 1000}-"]
    assert result.fetched_bytes < sum(len(data) for data in content(tiny_bundle).values()) - size // 3


def _wait(condition: Callable[[], bool], seconds: float = 30) -> None:
    pause = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        pause.wait(0.02)
    raise AssertionError("nothing happened")


def test_two_pulls_at_once_do_not_harm_each_other(hub: Hub, published: str, tiny_bundle: Path, cache: Path) -> None:
    hub.server.slow(FILE, seconds=0.3)
    processes = [
        subprocess.Popen(_command("pull", f"{REPO}@v1", "--json"), env=hub.env, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    documents = [json.loads(process.communicate()[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert content(cache / "hub" / "org--name" / published) == content(tiny_bundle)
    repo = cache / "hub" / "org--name"
    assert {document["path"] for document in documents} == {str(repo / published)}
    assert len(fetched(hub)) == 1
    assert sorted(path.name for path in repo.iterdir()) == [published, "revisions.json"]


def test_kills_at_random_moments_leave_the_old_bundle_or_the_new_one(
    hub: Hub, published: str, tiny_bundle: Path, nested_bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    rng, old, new = random.Random(0), nested_bundle("bare"), content(tiny_bundle)
    out = tmp_path / "b"
    pull_old = content(old)
    out.mkdir()
    for name, data in pull_old.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(data)
    for _ in range(5):
        seen = len(hub.server.log)
        process = subprocess.Popen(_command("pull", REPO, "-o", str(out), "--force", "-q"), env=hub.env)
        try:
            hub.server.wait_for("GET", seen + 2)
            threading.Event().wait(rng.random() * 0.1)
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        assert content(out) in (pull_old, new) and all(check.ok for check in verify_bundle(out))
    pull(REPO, out=out, force=True)
    assert content(out) == new and sorted(path.name for path in tmp_path.iterdir()) == ["b", "hf-home"]
