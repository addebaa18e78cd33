"""push --dense and --mask-only: what other programs load from the Hub, and what needs no right to the weights."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.bundle.verify.verify import verify_bundle
from opentrans_cli.files.tensorfile import parse_tensors
from opentrans_cli.steps.hub.push import push
from opentrans_cli.steps.transfer.open_clip import CONFIG, WEIGHTS

if TYPE_CHECKING:
    from tests.hub.conftest import Hub

pytestmark = pytest.mark.usefixtures("no_waits", "charts_drawn_once")
REPO = "org/name"
LOAD = """
import sys
import numpy as np
import open_clip
model = open_clip.create_model("hf-hub:" + sys.argv[1])
np.savez(sys.argv[2], **{name: value.numpy() for name, value in model.visual.state_dict().items()})
"""


def load(hub: Hub, out: Path) -> subprocess.CompletedProcess[str]:
    """open_clip by itself, in a process that knows nothing of this program."""
    line = [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", LOAD, REPO, str(out)]
    return subprocess.run(line, env=hub.env, capture_output=True, text=True, timeout=600)


def test_open_clip_loads_the_dense_files_from_the_hub(hub: Hub, tiny_bundle: Path, tmp_path: Path) -> None:
    push(tiny_bundle, REPO, dense=True)
    done = load(hub, tmp_path / "loaded.npz")
    assert done.returncode == 0, done.stderr
    loaded = np.load(tmp_path / "loaded.npz")
    tower = open_bundle(tiny_bundle).tower()
    assert set(loaded) == set(tower)
    assert all(np.array_equal(loaded[name], tower[name]) for name in tower)


def test_open_clip_refuses_a_repo_without_them_instead_of_making_weights_up(
    hub: Hub, tiny_bundle: Path, tmp_path: Path
) -> None:
    push(tiny_bundle, REPO, dense=True)
    push(tiny_bundle, REPO)
    assert CONFIG not in hub.server.repos[REPO].files() and WEIGHTS not in hub.server.repos[REPO].files()
    done = load(hub, tmp_path / "loaded.npz")
    assert done.returncode != 0 and CONFIG in done.stderr and not (tmp_path / "loaded.npz").exists()


def test_dense_files_are_added_to_what_is_there(hub: Hub, tiny_bundle: Path) -> None:
    plain, dense = push(tiny_bundle, REPO), push(tiny_bundle, REPO, dense=True)
    assert (plain.revision, dense.revision) == ("v1", "v2") and dense.committed
    assert {CONFIG, WEIGHTS} <= set(hub.server.repos[REPO].files("v2")) - set(hub.server.repos[REPO].files("v1"))
    assert len(hub.server.requests("PUT")) == 3  # mask and weights once, and the dense tower
    stored = parse_tensors(hub.server.repos[REPO].files()[WEIGHTS], WEIGHTS)
    assert all(np.isfinite(array).all() for array in stored.values())


def test_a_mask_alone_carries_no_weight(hub: Hub, nested_bundle: Callable[[str], Path], tmp_path: Path) -> None:
    source = open_bundle(nested_bundle("trained"))
    result = push(source.path, REPO, mask_only=True)
    files = hub.server.repos[REPO].files("v1")
    assert {name for name in files if name.endswith(".safetensors")} == {"mask.safetensors"}
    assert files["mask.safetensors"] == source.read("mask.safetensors")
    for name, data in files.items():
        (tmp_path / "down" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "down" / name).write_bytes(data)
    found = open_bundle(tmp_path / "down")
    assert all(check.ok for check in verify_bundle(found.path))
    assert found.digest == result.digest and found.manifest.steps[-1].parent == source.digest
    assert b"mask-only" in files["README.md"]
    assert not push(source.path, REPO, mask_only=True).committed


def test_a_mask_alone_replaces_the_values_that_were_there(hub: Hub, tiny_bundle: Path) -> None:
    push(tiny_bundle, REPO)
    result = push(tiny_bundle, REPO, mask_only=True)
    assert "weights.safetensors" in result.deleted
    assert "weights.safetensors" not in hub.server.repos[REPO].files()
