"""Shared fixtures: one thread, fixed seeds, no network, and the optional reference data."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

# Read by torch and OpenMP at import, so this must come before any test imports them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with reference figures and sample data that are not part of the package."""
    root = Path(os.environ.get("OPENTRANS_SHARED", Path(__file__).parents[2] / "shared"))
    if not (root / "reference").is_dir():
        pytest.skip(f"reference data not found at {root}; set OPENTRANS_SHARED to run this test")
    return root


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Any connection that leaves this machine fails at once, by name."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else address
        if self.family != socket.AF_UNIX and host not in ("127.0.0.1", "localhost", "::1"):
            raise ConnectionRefusedError(f"tests make no network calls, this one wanted {address}")
        return connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)
    yield
