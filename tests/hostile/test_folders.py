"""Folders that are not what they seem: links out and in circles, pipes, sockets, devices, stand-ins, pickles."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.errors import BundleError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes, sockets and links are those of POSIX")


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _link(target: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        _remove(path)
        path.symlink_to(target)

    return make


def _out(path: Path) -> None:
    outside = next(parent for parent in path.parents if parent.name == "bundle").with_name("outside")
    shutil.move(path, outside)
    path.symlink_to(outside)


def _out_in_two_steps(path: Path) -> None:
    _out(path)
    step = path.with_name("step.txt")
    step.symlink_to(os.readlink(path))
    path.unlink()
    path.symlink_to(step)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _socket(path: Path) -> None:
    path.unlink()
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket has a hundred characters at most
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pointer(path: Path) -> None:
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n")


INSTEAD: dict[str, Callable[[Path], None]] = {
    "link out": _out,
    "link out in two steps": _out_in_two_steps,
    "link to a file of the system": _link("/etc/hostname"),
    "link to an endless device": _link("/dev/zero"),
    "link to nowhere": _link("/nonexistent/file"),
    "link to itself": lambda path: _link(path.name)(path),
    "links in a circle": lambda path: (_link("circle")(path), (path.parent / "circle").symlink_to(path.name)),
    "pipe": _pipe,
    "socket": _socket,
    "folder": _folder,
    "git lfs pointer": _pointer,
    "pickle": lambda path: path.write_bytes(pickle.dumps({"conv2": [1, 2, 3]})),
    "empty": lambda path: path.write_bytes(b""),
}


REASONS = {  # of opening, where it is always the same
    "link out": "link leaves the bundle",
    "git lfs pointer": "git lfs pull|not readable as JSON",
    "empty": "wrong size|not readable as JSON",
    "folder": "is missing|not a bundle",
}


def test_something_else_instead_of_a_file(victims: Any, refused: Any) -> None:
    for kind, put in INSTEAD.items():
        for number, name in enumerate(("manifest.json", "weights.safetensors", "reports/note.json")):
            victim = victims(f"{kind} {number}")
            put(victim.path / name)
            refused(victim.path, REASONS.get(kind, ""))


def test_reports_that_lie_elsewhere(victims: Any, refused: Any) -> None:
    for kind in ("link out", "link out in two steps", "links in a circle", "link to nowhere"):
        victim = victims(kind)
        INSTEAD[kind](victim.path / "reports")
        refused(victim.path, "link leaves the bundle|link leads nowhere|is missing")


def test_a_folder_that_is_no_bundle_and_a_file_that_is_not_there(victims: Any, refused: Any) -> None:
    victim = victims("manifest.json")
    (victim.path / "manifest.json").unlink()
    refused(victim.path, "not a bundle: .*opentrans prune")
    victim = victims("weights")
    (victim.path / "weights.safetensors").unlink()
    refused(victim.path, "is missing: .*weights.safetensors")


BESIDE = ("a.safetensors", "x.pt", "X.PTH", "data.pkl", "m.pickle", "pytorch_model.bin", "a.ckpt", "s.joblib", "a.npy")
BESIDE += ("a.npz", "setup.py", "evil.so", "reports/model.PT", "deep/er/model.Safetensors", "mask.safetensors.pkl")


def test_files_beside_that_another_program_might_load(victim: Any, refused: Any) -> None:
    for name in BESIDE:
        path = victim.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(1))
        refused(victim.path, f"undeclared file in the bundle: .*{re.escape(name)}")
        path.unlink()


def test_harmless_files_beside_and_links_inside_are_allowed(victim: Any, judged: Any) -> None:
    (victim.path / "notes.txt").write_text("hello")
    (victim.path / "again.txt").symlink_to("notes.txt")
    assert judged(victim.path) == {}


def test_undeclared_links_and_pipes_of_such_names(victim: Any, refused: Any) -> None:
    os.mkfifo(victim.path / "x.pt")
    refused(victim.path, "undeclared file")
    (victim.path / "x.pt").unlink()
    (victim.path / "notes.txt").symlink_to("/etc/hostname")
    refused(victim.path, "link leaves the bundle")


def test_a_harmless_pipe_beside_is_never_opened(victim: Any, judged: Any) -> None:
    os.mkfifo(victim.path / "notes.txt")
    assert judged(victim.path) == {}


def test_a_pending_file_that_is_a_link_or_a_pipe(victim: Any, judged: Any) -> None:
    """Only content of the declared hash is taken, wherever it pretends to be."""

    entry = open_bundle(victim.path).manifest.file("mask.safetensors")
    assert entry is not None
    pending = victim.path / f".mask.safetensors.{entry.sha256[:16]}.next"
    os.mkfifo(pending)
    assert judged(victim.path) == {}
    pending.unlink()
    pending.symlink_to("/etc/hostname")
    assert {"open", "verify", "inspect"} <= judged(victim.path).keys()
    pending.unlink()
    pending.write_bytes(b"x" * entry.bytes)
    assert {"masks", "verify"} <= judged(victim.path).keys()


def test_a_link_made_after_opening(victim: Any) -> None:

    bundle = open_bundle(victim.path)
    _out(victim.path / "mask.safetensors")
    with pytest.raises(BundleError, match="link leaves the bundle"):
        bundle.masks()


def test_folders_nested_without_end(victim: Any, refused: Any) -> None:
    here = os.getcwd()
    try:
        os.chdir(victim.path)
        for _ in range(1200):  # deeper than python calls, and a path longer than the system opens
            os.mkdir("d" * 8)
            os.chdir("d" * 8)
    finally:
        os.chdir(here)
    refused(victim.path, "nested too deeply")
    subprocess.run(["rm", "-rf", str(victim.path / ("d" * 8))], check=True)  # pytest cannot clear up so deep a folder


def test_paths_that_no_bundle_can_have(tmp_path: Path) -> None:
    for path in ("no\0where", "x" * 5000, "", "a/../../nothing"):
        with pytest.raises(BundleError) as caught:
            open_bundle(f"{tmp_path}/{path}")
        assert "\n" not in str(caught.value)
