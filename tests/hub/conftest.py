"""The Hub on loopback, and an environment in which the real client finds nothing else."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.hub.server import HubServer

CHUNK = 1000
"""Bytes that the client takes in before it writes them; its own ten megabytes are more than any file of the tests."""
TOKEN = "hf_thisTokenMustNeverBeSeenAnywhere"


def load_server() -> ModuleType:
    """`server.py` beside this file; tests are no package, so it is loaded by its path."""
    name = "opentrans_test_hub_server"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("server.py"))
        assert spec is not None and spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The client sends parts of files in a way that its own HTTP library calls old; not a warning of ours."""
    for item in items:
        if "hub" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"))


@dataclass
class Hub:
    """The server and what a process must know to talk to it."""

    server: HubServer
    home: Path  # HF_HOME
    token: str
    env: dict[str, str] = field(repr=False)  # whole environment of a subprocess

    def publish(self, files: Path | Mapping[str, bytes], repo: str = "org/name", *, tag: str | None = "v1") -> str:
        """One commit with exactly these files, or those of a folder; its name."""
        files = self.content(files) if isinstance(files, Path) else files
        kinds = load_server()
        there = self.server.repos.setdefault(repo, kinds.Repo())
        blobs = {name: kinds.Blob(data, self.server.is_lfs(name, len(data))) for name, data in files.items()}
        commit: str = there.add_commit("main", blobs, "bundle")
        if tag is not None:
            there.tags[tag] = commit
        return commit

    def ranges(self) -> list[str | None]:
        """The ranges in which the weights of org/name were asked for."""
        return [request.range for request in self.server.requests("GET /org/name/resolve/.*/weights.safetensors$")]

    @staticmethod
    def content(folder: Path) -> dict[str, bytes]:
        """Every file of a folder."""
        paths = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A fresh, empty Hub; this process and those started with `hub.env` talk to it alone, with a token."""
    home = tmp_path / "hf-home"
    home.mkdir()
    with load_server().HubServer() as server:
        settings = {
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(home),
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        _redirect_client(monkeypatch, server.url, home)
        yield Hub(server, home, TOKEN, {**os.environ, "OMP_NUM_THREADS": "1"})
        from huggingface_hub import close_session

        close_session()


def _redirect_client(monkeypatch: pytest.MonkeyPatch, url: str, home: Path) -> None:
    """The client read its environment when it was imported, so what it keeps of it is replaced as well."""
    from huggingface_hub import constants

    replaced = {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_ASSETS_CACHE": str(home / "assets"),
        "HF_XET_CACHE": str(home / "xet"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "DOWNLOAD_CHUNK_SIZE": CHUNK,
    }
    for name, value in replaced.items():
        monkeypatch.setattr(constants, name, value)


@pytest.fixture
def published(hub: Hub, tiny_bundle: Path) -> str:
    """The tiny bundle on the Hub, tagged v1; its commit."""
    return hub.publish(tiny_bundle)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pulled bundles are kept: a folder of the test's own."""
    monkeypatch.setenv("OPENTRANS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client and ours retry at once, instead of after 1, 2, 4, 8 seconds."""
    import time
    from types import SimpleNamespace

    from huggingface_hub import file_download
    from huggingface_hub.utils import _http

    from opentrans_cli.bundle.hub import client as hub

    clock = {name: getattr(time, name) for name in ("time", "monotonic", "perf_counter")}
    for module in (_http, file_download):
        monkeypatch.setattr(module, "time", SimpleNamespace(**clock, sleep=lambda seconds: None))
    monkeypatch.setattr(hub, "FIRST_WAIT", 0.0)


_drawn: dict[object, bytes] = {}


@pytest.fixture
def charts_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same chart of a card is drawn by one test alone: it takes longer than everything else in a push."""
    from opentrans_cli.steps.hub import card

    draw = card.density_chart

    def drawn(path: Path, layers: Sequence[tuple[str, int, int]], **options: Any) -> None:
        key = (tuple(layers), *sorted(options.items()))
        if key not in _drawn:
            draw(path, layers, **options)
            _drawn[key] = path.read_bytes()
        path.write_bytes(_drawn[key])

    monkeypatch.setattr(card, "density_chart", drawn)


@pytest.fixture
def reads_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to be published is read again in this process: a fresh interpreter takes longer than the rest of a push.

    One test of the gate has the real one.
    """
    from opentrans_cli.steps.hub import reload

    monkeypatch.setattr(reload, "reload_afresh", reload.reload)
