"""push: what lies on the Hub is the bundle that was verified, and nothing of the user's is lost.

With --dense other programs load it; with --mask-only it needs no right to the weights.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from opentrans_cli.bundle.hub.client import client
from opentrans_cli.bundle.layout import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS
from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.bundle.verify.verify import verify_bundle
from opentrans_cli.errors import BundleError, HubError, OptionError
from opentrans_cli.files.tensorfile import parse_tensors
from opentrans_cli.steps.hub.push import push as publish

if TYPE_CHECKING:
    from tests.hub.conftest import Hub

pytestmark = pytest.mark.usefixtures("no_waits", "charts_drawn_once", "reads_here")
REPO = "org/name"
push = partial(publish, license="mit")
OPEN_CLIP_FILES = (OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS)


def declared(bundle: Path) -> dict[str, bytes]:
    """The files of a bundle, its manifest among them."""
    names = ["manifest.json", *(entry.name for entry in open_bundle(bundle).manifest.files)]
    return {name: (bundle / name).read_bytes() for name in names}


def written(files: dict[str, bytes], folder: Path) -> Path:
    """Files of a repo as a folder."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def add(hub: Hub, files: dict[str, bytes]) -> None:
    """Somebody's own commit to the repo, which is made if need be."""
    client().create_repo(REPO, exist_ok=True)
    for name, data in files.items():
        client().upload_file(path_or_fileobj=data, path_in_repo=name, repo_id=REPO)


def whole(hub: Hub, bundle: Path, revision: str = "main") -> bool:
    """Whether the repo holds that very bundle."""
    found = hub.server.repos[REPO].files(revision)
    return all(found.get(name) == data for name, data in declared(bundle).items())


@pytest.fixture
def other(tmp_path: Path, nested_bundle: Callable[[str], Path]) -> Path:
    """Another bundle, with files that the tiny one lacks."""
    return Path(shutil.copytree(nested_bundle("trained"), tmp_path / "other"))


def test_a_bundle_lies_on_the_hub_as_it_is_with_card_and_tag(hub: Hub, tiny_bundle: Path) -> None:
    hub.server.lfs_above = 2000
    result = push(tiny_bundle, REPO, license="apache-2.0")
    repo = hub.server.repos[REPO]
    assert repo.tags == {"v1": repo.branches["main"]} == {"v1": result.commit}
    assert whole(hub, tiny_bundle, "v1") and not repo.private
    beside = set(repo.files()) - set(declared(tiny_bundle))
    assert beside == {".gitattributes", "README.md", "card/sparsity.png"}
    assert b"apache-2.0" in repo.files()["README.md"] and b"v1" in repo.files()["README.md"]
    assert (
        result.address == f"hf://{REPO}@v1" and result.committed and result.uploaded_bytes == sum(result.files.values())
    )
    check_document(result.to_json(), "push_report")


def test_the_repo_as_it_is_downloaded_verifies_even_after_its_card_was_edited(
    hub: Hub, tiny_bundle: Path, tmp_path: Path
) -> None:
    push(tiny_bundle, REPO)
    add(hub, {"README.md": b"---\nlicense: mit\n---\nmine\n"})
    folder = written(hub.server.repos[REPO].files(), tmp_path / "down")
    assert all(check.ok for check in verify_bundle(folder))
    again = push(tiny_bundle, REPO)
    assert not again.committed and again.revision == "v1"
    assert b"mine" in hub.server.repos[REPO].files()["README.md"]


def test_pushing_the_same_again_sends_and_changes_nothing(hub: Hub, tiny_bundle: Path) -> None:
    first = push(tiny_bundle, REPO)
    puts = len(hub.server.requests("PUT"))
    again = push(tiny_bundle, REPO)
    named = push(tiny_bundle, f"{REPO}@v1")
    assert (again.commit, again.revision, again.committed) == (first.commit, "v1", False) and named == again
    assert again.uploaded_bytes == 0 and len(hub.server.requests("PUT")) == puts
    asked = push(tiny_bundle, REPO, tag="paper")
    assert asked.commit == first.commit and not asked.committed
    assert hub.server.repos[REPO].tags == {"v1": first.commit, "paper": first.commit}
    assert len(hub.server.repos[REPO].commits) == 2


def test_a_tag_never_moves(hub: Hub, tiny_bundle: Path, other: Path) -> None:
    first = push(tiny_bundle, f"{REPO}@v1")
    with pytest.raises(HubError, match="tag names something else: hf://org/name@v1; choose another --revision"):
        push(other, f"{REPO}@v1")
    assert hub.server.repos[REPO].tags == {"v1": first.commit} and whole(hub, tiny_bundle)


def test_a_new_version_takes_away_files_of_the_old_one_and_no_others(
    hub: Hub, tiny_bundle: Path, other: Path, tmp_path: Path
) -> None:
    push(other, REPO, dense=True)
    mine = {"notes.txt": b"mine", "reports/mine.json": b"{}", "card/mine.png": b"mine"}
    add(hub, mine)
    result = push(tiny_bundle, REPO)
    gone = {"round_weights.safetensors", "rounds.safetensors", *OPEN_CLIP_FILES}
    assert set(result.deleted) == gone - set(declared(tiny_bundle)) and result.revision == "v2"
    found = hub.server.repos[REPO].files()
    assert {name: found[name] for name in mine} == mine and whole(hub, tiny_bundle)
    assert whole(hub, other, "v1") and {*OPEN_CLIP_FILES} <= set(hub.server.repos[REPO].files("v1"))
    assert not {*OPEN_CLIP_FILES} & set(found)


def test_files_of_a_repo_that_is_no_bundle_are_not_overwritten(hub: Hub, tiny_bundle: Path) -> None:
    add(hub, {"open_clip_config.json": b"{}"})
    before = dict(hub.server.repos[REPO].commits)
    for dense in (True, False):
        with pytest.raises(
            HubError, match=r"repo holds a file of its own: 'open_clip_config\.json' in hf://org/name; push"
        ):
            push(tiny_bundle, REPO, dense=dense)
    assert hub.server.repos[REPO].commits == before and hub.server.repos[REPO].tags == {}


def test_a_damaged_bundle_is_never_sent(hub: Hub, tiny_bundle: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(tiny_bundle, tmp_path / "damaged"))
    data = bytearray((damaged / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (damaged / "weights.safetensors").write_bytes(data)
    with pytest.raises(BundleError, match="bundle is not valid"):
        push(damaged, REPO)
    assert hub.server.log == []


def test_a_private_repo_is_private_and_a_public_one_takes_nothing_private(hub: Hub, tiny_bundle: Path) -> None:
    push(tiny_bundle, REPO, private=True)
    assert hub.server.repos[REPO].private
    hub.server.repos[REPO].private = False
    before = dict(hub.server.repos[REPO].commits)
    with pytest.raises(HubError, match="repo is public: hf://org/name; make it private on its page"):
        push(tiny_bundle, f"{REPO}@v2", private=True)
    assert hub.server.repos[REPO].commits == before


def test_no_file_is_left_out_because_the_repo_ignores_it_and_large_ones_go_in_parts(
    hub: Hub, tiny_bundle: Path
) -> None:
    hub.server.part_bytes = 50_000
    add(hub, {".gitignore": b"*.safetensors\n*.json\n"})
    push(tiny_bundle, REPO)
    assert whole(hub, tiny_bundle, "v1") and len(hub.server.requests("PUT /lfs/.*/2$")) > 0


def test_a_declared_readme_stays_at_home(hub: Hub, tiny_bundle: Path, tmp_path: Path) -> None:
    from opentrans_cli.bundle.manifest import Step
    from opentrans_cli.bundle.store import add_file

    source = open_bundle(shutil.copytree(tiny_bundle, tmp_path / "b"))
    add_file(source, "README.md", b"# notes\n", step=Step("analyze", {}, None, {}, None, None, {}))
    push(source.path, REPO)
    folder = written(hub.server.repos[REPO].files(), tmp_path / "down")
    assert all(check.ok for check in verify_bundle(folder)) and open_bundle(folder).digest == source.digest
    assert b"# notes" not in (folder / "README.md").read_bytes()


def test_names_the_hub_does_not_know_are_refused_before_any_call(hub: Hub, tiny_bundle: Path) -> None:
    for ref in ("name", "a/b/c", "../b", "a/b@", "a/b@x y", "a/b@main", "a/b@abcdef0", "a/b.git", "a//b"):
        with pytest.raises(OptionError, match=r"^not a (repo of the Hub|revision|name for a tag): .*; write "):
            push(tiny_bundle, ref)
    assert hub.server.log == []


def test_options_that_contradict_each_other(hub: Hub, tiny_bundle: Path) -> None:
    for options, named in (
        ({"dense": True, "mask_only": True}, "--dense and --mask-only"),
        ({"patch": True, "mask_only": True}, "--patch and --mask-only"),
        ({"license": "my own\nlicense"}, "not an identifier of a license"),
        ({"tag": "v2"}, "two tags: org/name@v1 and --revision v2"),
    ):
        with pytest.raises(OptionError, match=named):
            push(tiny_bundle, f"{REPO}@v1", **options)  # type: ignore[arg-type]
    assert hub.server.log == []


def test_a_dry_run_names_every_file_and_calls_nobody(hub: Hub, tiny_bundle: Path, run_cli: Any) -> None:
    result = run_cli("push", tiny_bundle, REPO, "--license", "mit", "--dry-run", "--json", "--dense", "--quiet")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    check_document(report, "push_report")
    assert report["dry_run"] and report["commit"] is None and hub.server.log == []
    sizes = {name: len(data) for name, data in declared(tiny_bundle).items()}
    assert {**report["files"], **sizes} == report["files"] and {*OPEN_CLIP_FILES, "README.md"} <= set(report["files"])
    table = run_cli("push", tiny_bundle, f"{REPO}@v7", "--license", "mit", "--dry-run").stdout
    assert "hf://org/name@v7" in table and "weights.safetensors" in table
    done = push(tiny_bundle, REPO, dense=True)
    assert set(done.files) == set(report["files"])


def test_the_command_prints_the_address_into_a_pipe(hub: Hub, tiny_bundle: Path, run_cli: Any) -> None:
    result = run_cli("push", tiny_bundle, REPO, "--license", "mit", "--quiet")
    assert result.stdout == "hf://org/name@v1\n" and result.stderr == ""
    again = run_cli("push", tiny_bundle, "hf://org/name", "--license", "mit", "--revision", "v1")
    assert again.stdout == "hf://org/name@v1\n" and "nothing new to send" in again.stderr


def test_the_token_is_nowhere_to_be_seen(hub: Hub, tiny_bundle: Path, run_cli: Any, tmp_path: Path) -> None:
    good = run_cli("push", tiny_bundle, REPO, "--license", "mit")
    hub.server.token = "hf_another"
    refused = run_cli("push", tiny_bundle, REPO, "--license", "mit")
    assert refused.exit_code == 1 and re.fullmatch(
        r"opentrans: error: the Hub refuses: hf://org/name, it answers 403 \(.*\); log in .*\n",
        refused.stderr.splitlines(keepends=True)[-1],
    )
    seen = [good.stdout, good.stderr, refused.stdout, refused.stderr]
    seen += [data.decode("latin-1") for data in hub.server.repos[REPO].files().values()]
    seen += [path.read_text("latin-1") for path in hub.home.rglob("*") if path.is_file()]
    assert not [text for text in seen if hub.token in text]


def test_a_token_that_cannot_be_sent_is_not_quoted(
    hub: Hub, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "hf_secret\u2028\nline"
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(Exception) as caught:
        push(tiny_bundle, REPO)
    text = "".join(traceback.format_exception(caught.value))
    assert isinstance(caught.value, HubError) and "hf_secret" not in text and "\n" not in str(caught.value)


def test_without_a_token_and_offline_it_says_so(hub: Hub, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="no token to push with: hf://org/name; log in with `hf auth login`"):
        push(tiny_bundle, REPO)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match="calls to the Hub are forbidden: hf://org/name, HF_HUB_OFFLINE is set"):
        push(tiny_bundle, REPO)
    assert hub.server.log == []


# With --dense and --mask-only.


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


def test_open_clip_loads_the_dense_files_and_refuses_a_repo_without_them_instead_of_making_weights_up(
    hub: Hub, tiny_bundle: Path, tmp_path: Path
) -> None:
    push(tiny_bundle, REPO, dense=True)
    done = load(hub, tmp_path / "loaded.npz")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "loaded.npz") as opened:
        loaded = dict(opened)
    tower = open_bundle(tiny_bundle).tower()
    assert set(loaded) == set(tower)
    assert all(np.array_equal(loaded[name], tower[name]) for name in tower)
    push(tiny_bundle, REPO)
    assert not {*OPEN_CLIP_FILES} & set(hub.server.repos[REPO].files())
    done = load(hub, tmp_path / "other.npz")
    assert done.returncode != 0 and OPEN_CLIP_FILES[0] in done.stderr and not (tmp_path / "other.npz").exists()


def test_dense_files_are_added_to_what_is_there(hub: Hub, tiny_bundle: Path) -> None:
    plain, dense = push(tiny_bundle, REPO), push(tiny_bundle, REPO, dense=True)
    assert (plain.revision, dense.revision) == ("v1", "v2") and dense.committed
    assert {*OPEN_CLIP_FILES} <= set(hub.server.repos[REPO].files("v2")) - set(hub.server.repos[REPO].files("v1"))
    assert len(hub.server.requests("PUT")) == 3  # mask and weights once, and the dense tower
    stored = parse_tensors(hub.server.repos[REPO].files()[OPEN_CLIP_FILES[1]], OPEN_CLIP_FILES[1])
    assert all(np.isfinite(array).all() for array in stored.values())


def test_a_mask_alone_carries_no_weight(hub: Hub, nested_bundle: Callable[[str], Path], tmp_path: Path) -> None:
    source = open_bundle(nested_bundle("trained"))
    result = push(source.path, REPO, mask_only=True)
    files = hub.server.repos[REPO].files("v1")
    assert {name for name in files if name.endswith(".safetensors")} == {"mask.safetensors"}
    assert files["mask.safetensors"] == source.read("mask.safetensors")
    found = open_bundle(written(files, tmp_path / "down"))
    assert all(check.ok for check in verify_bundle(found.path))
    assert found.digest == result.digest and found.manifest.steps[-1].parent == source.digest
    assert b"mask-only" in files["README.md"]
    assert not push(source.path, REPO, mask_only=True).committed
    push(source.path, REPO)
    assert "weights.safetensors" in push(source.path, REPO, mask_only=True).deleted
    assert "weights.safetensors" not in hub.server.repos[REPO].files()
