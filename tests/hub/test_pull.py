"""pull: what appears on the disk is the bundle that was published, whole or not at all, whatever happens on the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from opentrans_cli.bundle.hub.source import local_bundle, local_source
from opentrans_cli.bundle.layout import WEIGHTS
from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.bundle.verify.verify import verify_bundle
from opentrans_cli.errors import BundleError, HubError, OptionError, OutputError, SourceError
from opentrans_cli.reporter import SILENT
from opentrans_cli.steps.hub.pull import pull
from opentrans_cli.steps.hub.push import push as publish

if TYPE_CHECKING:
    from tests.hub.conftest import Hub

pytestmark = pytest.mark.usefixtures("no_waits", "cache")
REPO = "org/name"
push = partial(publish, license="mit")
FILE = "GET /org/name/resolve/.*/weights.safetensors"


class Notes:
    """A reporter that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    bar = SILENT.bar


def left(desk: Path) -> list[str]:
    """What lies in a folder, hidden or not."""
    return sorted(path.name for path in desk.iterdir())


def flip_last(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def test_tag_branch_and_commit_bring_what_was_published_and_a_tag_stays_when_the_branch_moves(
    hub: Hub, published: str, tiny_bundle: Path, nested_bundle: Any, tmp_path: Path
) -> None:
    for number, revision in enumerate(("@v1", "@main", f"@{published}", "")):
        out = tmp_path / f"out{number}"
        result = pull(f"{'hf://' if number % 2 else ''}{REPO}{revision}", out=out)
        assert hub.content(out) == hub.content(tiny_bundle)
        assert (result.commit, result.path, result.digest) == (published, out, open_bundle(tiny_bundle).digest)
        assert result.fetched_bytes == sum(entry.bytes for entry in open_bundle(out).manifest.files)
        check_document(result.to_json(), "pull_report")
    assert left(tmp_path) == ["hf-home", *(f"out{number}" for number in range(4))]
    later = hub.publish(nested_bundle("trained"), tag=None)
    assert pull(f"{REPO}@v1", out=tmp_path / "a").commit == published != later == pull(REPO, out=tmp_path / "b").commit


def test_only_what_the_manifest_declares_is_fetched(hub: Hub, tiny_bundle: Path, tmp_path: Path) -> None:
    extra = {"model.pkl": b"cos\nsystem\n", "README.md": b"# card", "open_clip_model.safetensors": b"x" * 99}
    hub.publish(hub.content(tiny_bundle) | extra)
    pull(REPO, out=tmp_path / "b")
    assert hub.content(tmp_path / "b") == hub.content(tiny_bundle)
    asked = {request.path.rpartition("/")[2] for request in hub.server.requests("GET .*/resolve/")}
    assert not asked & set(extra)


def test_without_out_it_lies_in_the_cache_is_fetched_once_and_copied_from_there(
    hub: Hub, published: str, tiny_bundle: Path, cache: Path, tmp_path: Path
) -> None:
    first = pull(f"{REPO}@v1")
    assert first.path == cache / "hub" / "org--name" / published
    assert hub.content(first.path) == hub.content(tiny_bundle)
    hub.server.log.clear()
    again = pull(f"{REPO}@v1")
    assert (again.path, again.fetched_bytes) == (first.path, 0)
    assert [str(request) for request in hub.server.log] == [f"GET /api/models/{REPO}/revision/v1"]
    hub.server.log.clear()
    assert pull(f"{REPO}@{published}").path == first.path and hub.server.log == []
    assert pull(REPO, out=tmp_path / "b").fetched_bytes == 0
    assert hub.content(tmp_path / "b") == hub.content(tiny_bundle)


def test_a_damaged_bundle_is_fetched_anew_in_the_cache_and_with_force_elsewhere_but_not_offline(
    hub: Hub, published: str, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = pull(REPO).path
    (path / WEIGHTS).unlink()
    assert hub.content(pull(REPO).path) == hub.content(tiny_bundle)
    flip_last(path / WEIGHTS)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BundleError, match="damaged in the cache"):
        pull(REPO)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert pull(REPO).fetched_bytes > 0 and hub.content(path) == hub.content(tiny_bundle)
    out = pull(REPO, out=tmp_path / "b").path
    flip_last(out / WEIGHTS)
    pull(REPO, out=out, force=True)
    assert hub.content(out) == hub.content(tiny_bundle)


def test_without_the_hub_the_cache_serves_what_was_pulled_and_says_how_old_it_may_be(
    hub: Hub, published: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for revision in ("v1", "main"):
        pull(f"{REPO}@{revision}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.server.log.clear()
    for revision in ("v1", "main"):
        notes = Notes()
        result = pull(f"{REPO}@{revision}", out=tmp_path / revision, reporter=notes)
        assert (result.commit, result.asked) == (published, False)
        assert len(notes.said) == 1 and "HF_HUB_OFFLINE is set" in notes.said[0] and "may have moved" in notes.said[0]
    with pytest.raises(HubError, match="not in the cache"):
        pull(f"{REPO}@v2")
    assert hub.server.log == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    notes = Notes()
    assert pull(f"{REPO}@v1", reporter=notes).commit == published
    assert "the Hub gives no answer" in notes.said[0]
    with pytest.raises(HubError, match="cannot be reached"):
        pull("org/other")


def test_errors_of_the_server_are_outlived_at_every_endpoint_or_told_after_a_bounded_number_of_tries(
    hub: Hub, published: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    pull(REPO, out=tmp_path / "once")
    endpoints = {f"^{request.method} {request.path}$" for request in hub.server.log}
    for number, endpoint in enumerate(sorted(endpoints)):
        hub.server.fail(endpoint, times=2)
        assert hub.content(pull(REPO, out=tmp_path / str(number)).path) == hub.content(tiny_bundle)
    assert len(endpoints) >= 5
    before = len(hub.ranges())
    hub.server.fail(FILE, times=99)
    with pytest.raises(HubError, match=r"the Hub is out of order: hf://org/name, weights.safetensors, it answers 503"):
        pull(REPO, out=tmp_path / "b")
    assert not (tmp_path / "b").exists() and len(hub.ranges()) == before + 5


def test_a_connection_that_drops_goes_on_where_it_was_or_from_the_beginning_where_there_are_no_ranges(
    hub: Hub, published: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    hub.server.drop(FILE, after_bytes=1000, times=2)
    result = pull(REPO, out=tmp_path / "b")
    assert hub.content(result.path) == hub.content(tiny_bundle)
    assert hub.ranges() == [None, "bytes=1000-", "bytes=2000-"]
    assert result.fetched_bytes == sum(entry.bytes for entry in open_bundle(result.path).manifest.files)
    hub.server.refuse_range()
    hub.server.drop(FILE, after_bytes=1000)
    assert hub.content(pull(REPO, out=tmp_path / "c").path) == hub.content(tiny_bundle)
    assert len(hub.ranges()) == 5


def test_a_wrong_byte_is_fetched_once_more_and_then_refused(
    hub: Hub, published: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    hub.server.corrupt(WEIGHTS, times=1)
    notes = Notes()
    assert hub.content(pull(REPO, out=tmp_path / "a", reporter=notes).path) == hub.content(tiny_bundle)
    assert notes.said == ["weights.safetensors of hf://org/name arrived damaged; fetching it once more"]
    hub.server.corrupt(WEIGHTS)
    with pytest.raises(HubError, match=r"weights.safetensors of hf://org/name does not match its hash; nothing was"):
        pull(REPO, out=tmp_path / "b")
    with pytest.raises(HubError, match="does not match its hash"):
        local_bundle(f"hf://{REPO}", SILENT)
    assert not (tmp_path / "b").exists() and not list(tmp_path.rglob("*.part"))


def test_files_of_another_size_and_pointers_are_named_before_anything_is_fetched(
    hub: Hub, tiny_bundle: Path, tmp_path: Path
) -> None:
    files = hub.content(tiny_bundle)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
    for data in (files[WEIGHTS][:-10], files[WEIGHTS] + b"more", pointer):
        hub.publish(files | {WEIGHTS: data})
        with pytest.raises(HubError, match=r"not the declared one: weights\.safetensors of hf://org") as caught:
            pull(REPO, out=tmp_path / "b")
        assert ("Git LFS pointer" in str(caught.value)) is (data is pointer)
    assert not hub.server.requests("resolve/.*safetensors")
    hub.publish(files | {"manifest.json": pointer})
    with pytest.raises(HubError, match="Git LFS pointer instead of the manifest"):
        pull(REPO, out=tmp_path / "b")
    assert not (tmp_path / "b").exists()


def edited(files: dict[str, bytes], change: Callable[[dict[str, Any]], object]) -> dict[str, bytes]:
    manifest = json.loads(files["manifest.json"])
    change(manifest)
    return files | {"manifest.json": json.dumps(manifest).encode()}


def _file(manifest: dict[str, Any], **changes: object) -> None:
    next(file for file in manifest["files"] if file["name"] == WEIGHTS).update(changes)


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "escape": (lambda m: _file(m, name="../weights.safetensors"), "which is not allowed"),
    "absolute": (lambda m: _file(m, name="/etc/passwd"), "which is not allowed"),
    "pickle": (lambda m: m["files"].append({"name": "x.pkl", "sha256": "0" * 64, "bytes": 1}), "not allowed"),
    "huge": (lambda m: _file(m, bytes=2**41), "is out of range"),
    "no room": (lambda m: _file(m, bytes=2**40), "not enough room|not the declared one"),
    "future": (lambda m: m.update(version=9), "upgrade opentrans"),
    "twice": (lambda m: m["files"].append(m["files"][0]), "twice"),
    "lies about a count": (lambda m: m["layers"][0].update(total=7), "product of its shape"),
}


def test_a_hostile_manifest_is_refused_before_anything_is_fetched(hub: Hub, tiny_bundle: Path, tmp_path: Path) -> None:
    for name, (change, message) in HOSTILE.items():
        hub.publish(edited(hub.content(tiny_bundle), change))
        for out in (tmp_path / "b", None):
            with pytest.raises((BundleError, HubError), match=message) as caught:
                pull(REPO, out=out)
            assert "\n" not in str(caught.value), name
    hub.publish(hub.content(tiny_bundle) | {"manifest.json": b" " * (33 << 20)})
    with pytest.raises(HubError, match="too large"):
        pull(REPO, out=tmp_path / "b")
    assert not (tmp_path / "b").exists() and not list(tmp_path.rglob("*.part"))


def test_a_bundle_that_breaks_a_law_behind_good_hashes_never_appears(
    hub: Hub, tiny_bundle: Path, tmp_path: Path
) -> None:
    def lie(manifest: dict[str, Any]) -> None:
        entry, other = manifest["layers"][:2]
        entry["kept"], other["kept"] = entry["kept"] - 1, other["kept"] + 1

    hub.publish(edited(hub.content(tiny_bundle), lie))
    with pytest.raises(BundleError, match=r"bundle is not valid: hf://org/name \(headers\)"):
        pull(REPO, out=tmp_path / "b")
    assert left(tmp_path) == ["hf-home"]


def test_repos_without_a_bundle_and_repos_that_cannot_be_seen_are_told(hub: Hub, tmp_path: Path) -> None:
    hub.publish({"open_clip_config.json": b"{}", "pytorch_model.bin": b"x"})
    for call in (lambda: pull(REPO, out=tmp_path / "b"), lambda: local_bundle(f"hf://{REPO}", SILENT)):
        with pytest.raises(HubError, match=r"no bundle in the repo: hf://org/name has no manifest.json; .*push"):
            call()
    assert local_source(f"hf://{REPO}", SILENT) == f"hf://{REPO}"
    with pytest.raises(HubError, match="no such repo, or no right to see it: hf://org/none") as missing:
        pull("org/none", out=tmp_path / "b")
    with pytest.raises(HubError, match=r"no such revision: hf://org/name@v7"):
        pull(f"{REPO}@v7", out=tmp_path / "b")
    with pytest.raises(OptionError, match="not a repo of the Hub"):
        pull("../name", out=tmp_path / "b")
    assert hub.token not in str(missing.value) and left(tmp_path) == ["hf-home"]


def test_an_existing_bundle_is_only_replaced_with_force_and_only_by_a_whole_one(
    hub: Hub, published: str, tiny_bundle: Path, nested_bundle: Any, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(nested_bundle("trained"), tmp_path / "b"))
    before = hub.content(out)
    with pytest.raises(OutputError, match="already exists"):
        pull(REPO, out=out)
    hub.server.corrupt(WEIGHTS, times=2)
    with pytest.raises(HubError):
        pull(REPO, out=out, force=True)
    assert hub.content(out) == before
    pull(REPO, out=out, force=True)
    assert hub.content(out) == hub.content(tiny_bundle) and left(tmp_path) == ["b", "hf-home"]


def test_masks_alone_are_completed_with_the_users_own_base_and_with_no_other(
    hub: Hub, nested_bundle: Any, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    from opentrans_cli.clip.source import load_clip

    hub.publish(nested_bundle("bare"))
    result = pull(REPO, out=tmp_path / "whole", base="tiny")
    whole, untrained = open_bundle(tmp_path / "whole"), open_bundle(nested_bundle("untrained"))
    assert result.completed and all(check.ok for check in verify_bundle(whole.path))
    assert {k: v.tobytes() for k, v in whole.tower().items()} == {k: v.tobytes() for k, v in untrained.tower().items()}
    assert whole.manifest.steps[-1].verb == "pull"
    assert whole.manifest.steps[-1].parent == open_bundle(nested_bundle("bare")).digest
    with pytest.raises(OptionError, match="needs a place"):
        pull(REPO, base="tiny")
    state = {name: value.contiguous() for name, value in load_clip("tiny").model.state_dict().items()}
    save_file({**state, "visual.conv1.weight": state["visual.conv1.weight"] * 2}, tmp_path / "other.safetensors")
    with pytest.raises(SourceError, match="not the CLIP this bundle was cut from"):
        pull(REPO, out=tmp_path / "wrong", base=str(tmp_path / "other.safetensors"))
    hub.publish(nested_bundle("untrained"))
    with pytest.raises(OptionError, match="has all its weights"):
        pull(REPO, out=tmp_path / "wrong", base="tiny")
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize("mask_only", [False, True])
def test_what_was_pushed_is_pulled_and_verifies(
    hub: Hub, tiny_segmentor: Path, tmp_path: Path, mask_only: bool
) -> None:
    push(tiny_segmentor, f"{REPO}@v1", mask_only=mask_only)
    notes = Notes()
    result = pull(f"{REPO}@v1", out=tmp_path / "b", base="tiny" if mask_only else None, reporter=notes)
    assert all(check.ok for check in verify_bundle(result.path))
    assert (result.digest == open_bundle(tiny_segmentor).digest) is not mask_only
    assert any("trained after they were pruned" in line for line in notes.said) is mask_only
    masks = open_bundle(tiny_segmentor).masks()
    assert all((mask == masks[layer]).all() for layer, mask in open_bundle(result.path).masks().items())


def test_the_token_is_sent_to_the_hub_and_written_nowhere(
    hub: Hub, published: str, tmp_path: Path, run_cli: Any
) -> None:
    hub.server.repos[REPO].private = True
    result = run_cli("pull", REPO, "-o", tmp_path / "b", "--json")
    assert result.exit_code == 0 and all(request.authorized for request in hub.server.requests("resolve"))
    written = b"".join(hub.content(tmp_path).values())
    assert hub.token not in result.output and hub.token.encode() not in written
