"""Keeps what libraries print about themselves off the screen."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# What libraries read before their first line of C++ or their first progress bar; programs started by ours inherit it.
_ENVIRONMENT = {
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "PYTHONWARNINGS": "ignore",
}


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide all warnings and log lines inside the block; what matters of them, callers check and say in their words."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # Some libraries turn their own warnings on again, so the filter alone does not do.
            warnings.simplefilter("ignore")
            warnings.showwarning = _dropped
            yield
    finally:
        logging.disable(disabled)


def quiet_process() -> None:
    """Set the variables of the environment that keep libraries quiet which are not loaded yet; the user's own stay."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _dropped(*warning: object, **more: object) -> None:
    """Takes a warning, and shows nothing."""
