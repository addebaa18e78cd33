"""What libraries log and warn about does not reach the screen of the command."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator

import pytest

from opentrans_cli import quiet
from opentrans_cli.cli import app
from opentrans_cli.quiet import quiet_libraries


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Warnings are shown as without pytest; filters, loggers and environment are as before after the test."""
    for name in (*quiet._ENVIRONMENT, "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "warnoptions", [])
    disabled = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(message, file=sys.stderr)  # pytest would keep them
        yield
    logging.disable(disabled)


def noisy() -> None:
    """A library that warns and logs, and turns its own warnings on."""
    warnings.simplefilter("always")
    warnings.warn("QuickGELU mismatch", UserWarning, stacklevel=1)
    warnings.warn_explicit("old", DeprecationWarning, "lib.py", 1)
    for logger in (logging.getLogger("matplotlib.noisy"), logging.getLogger("transformers.noisy")):
        handler = logging.StreamHandler(sys.stderr)
        logger.addHandler(handler)
        logger.error("Some weights were not initialized")
        logger.removeHandler(handler)


def test_the_command_shows_nothing_of_libraries(
    restored: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy()
    shown = capsys.readouterr().err
    assert all(word in shown for word in ("QuickGELU", "old", "Some weights"))
    monkeypatch.setattr(app, "app", noisy)
    app.main()
    assert capsys.readouterr() == ("", "")
    assert os.environ["TORCH_CPP_LOG_LEVEL"] == "ERROR" and os.environ["PYTHONWARNINGS"] == "ignore"


def test_python_users_keep_their_own_warnings_outside_and_w_shows_all(
    restored: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with quiet_libraries():
        noisy()
    assert capsys.readouterr() == ("", "")
    noisy()
    assert "QuickGELU" in capsys.readouterr().err
    monkeypatch.setattr(sys, "warnoptions", ["default"])
    monkeypatch.setattr(app, "app", noisy)
    app.main()
    assert "Some weights" in capsys.readouterr().err
