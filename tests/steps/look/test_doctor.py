"""doctor: what is broken is said, and everything else is still there; nothing secret is in it."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path

import pytest

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.steps.look import doctor as module
from opentrans_cli.steps.look.doctor import EXTRAS, MODULES, doctor

ROOT = Path(__file__).parents[3]


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Some packages in place of ours: one that works, and one for each way in which an import fails."""
    codes = {
        "good": "",
        "crashes": "import os, signal, sys\nprint('loading', file=sys.stderr)\nos.kill(os.getpid(), signal.SIGSEGV)",
        "lacks": "raise OSError('libcudart.so.13: cannot open shared object file')",
        "exits": "raise SystemExit(3)",
        "old": "print('{\"module\"')",
    }
    for name, code in codes.items():
        (tmp_path / f"{name}.py").write_text(code)
        (tmp_path / f"{name}-1.0.dist-info").mkdir()
        (tmp_path / f"{name}-1.0.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(module, "MODULES", {name: name for name in (*codes, "absent")})
    monkeypatch.setattr(module, "EXTRAS", {"more": ("prune", {"good": "good", "none": "none"})})
    monkeypatch.setattr(module, "_needs", lambda: {"old": ">=2", "good": ">=1", "absent": ">=3"})
    return tmp_path


def test_a_broken_package_is_named_and_the_others_are_still_looked_at(packages: Path) -> None:
    found = doctor()
    states = {state.name: state.problem for state in found.packages}
    assert states == {
        "good": None,
        "crashes": "cannot be imported, it ended Python with code -11: loading",
        "lacks": "cannot be imported, OSError: libcudart.so.13: cannot open shared object file",
        "exits": "cannot be imported, SystemExit: 3",
        "old": "version 1.0 does not fit; pip install 'old>=2'",
        "absent": "not installed; pip install 'absent>=3'",
    }
    assert {f"{name}: {problem}" for name, problem in states.items() if problem} <= set(found.problems)
    (extra,) = found.extras
    assert not extra.installed and not any("none" in problem for problem in found.problems)
    assert [device.available for device in found.devices] == [False] * 3 and found.caches and found.disks
    check_document(json.loads(json.dumps(found.to_json())), "doctor_report")


def test_an_import_without_end_is_ended(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (packages / "lacks.py").write_text("import time\ntime.sleep(600)")
    monkeypatch.setattr(module, "MODULES", {"lacks": "lacks"})
    monkeypatch.setattr(module, "EXTRAS", {})
    monkeypatch.setattr(module, "_PATIENCE", 0.5)
    assert [state.problem for state in doctor().packages] == ["cannot be imported, no end after 0.5 s"]


def test_a_part_that_fails_leaves_the_others(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> str:
        raise RuntimeError("no such system call")

    monkeypatch.setattr(platform, "platform", broken)
    monkeypatch.setattr(module, "_own_cache", broken)
    found = doctor(imports=False)
    assert found.system == {} and "system: RuntimeError: no such system call" in found.problems
    assert "cache of bundles from the Hub: RuntimeError: no such system call" in found.problems
    assert [cache.of for cache in found.caches] == ["Hugging Face Hub", "open_clip"] and found.devices == ()
    check_document(json.loads(json.dumps(found.to_json())), "doctor_report")


def test_no_token_no_password_and_no_home_is_shown(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = packages / "ada"
    cache = home / "cache" / "hub"
    cache.mkdir(parents=True)
    (cache / "file").write_bytes(b"x" * 1000)
    for name, value in (
        ("HOME", str(home)),
        ("OPENTRANS_CACHE", str(home / "cache")),
        ("HF_TOKEN", "hf_secret"),
        ("HTTPS_PROXY", "http://ada:hunter2@proxy:3128"),
        ("LD_PRELOAD", f"{home}.old/hf_secret.so:{home}/a.so"),
    ):
        monkeypatch.setenv(name, value)
    (packages / "lacks.py").write_text(f"raise OSError('{home}/lib.so with hf_secret')")
    found = doctor()
    assert found.environment["HF_TOKEN"] == "set, not shown"
    assert found.environment["HTTPS_PROXY"] == "http://***@proxy:3128"
    assert found.environment["LD_PRELOAD"] == f"{home}.old/***.so:~/a.so"
    assert "OSError: ~/lib.so with ***" in str(found.problems)
    assert [(c.path, c.bytes, c.files) for c in found.caches if c.of == "bundles from the Hub"] == [
        ("~/cache", 1000, 1)
    ]
    assert not re.search("hf_secret|hunter2", json.dumps(found.to_json()))


def test_it_knows_every_dependency_and_every_extra() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(lines: list[str]) -> set[str]:
        return {re.match(r"[\w-]+", line)[0] for line in lines if "python_version" not in line}  # type: ignore[index]

    assert set(MODULES) == names(project["dependencies"])
    extras = {name: names(lines) for name, lines in project["optional-dependencies"].items() if name != "dev"}
    assert {name: set(packages) for name, (_, packages) in EXTRAS.items()} == extras
