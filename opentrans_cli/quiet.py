"""Keeps off the screen what libraries log and warn about: what matters of it is checked and said in our words."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Read by what is written in C++ or Rust, and by the processes that ours starts.
_ENVIRONMENT = {
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "PYTHONWARNINGS": "ignore",
}


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No library logs or warns inside the block."""
    disabled = logging.root.manager.disable
    try:
        with warnings.catch_warnings():
            _silence()
            yield
    finally:
        logging.disable(disabled)


def quiet_process() -> None:
    """No library logs or warns from now on, here and in processes started later; called before any is loaded.

    Who wants to see all of it says so to Python, with -W or PYTHONWARNINGS.
    """
    if sys.warnoptions:
        return
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _silence()


def _silence() -> None:
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    # Some libraries turn their own warnings on again, which the filter alone would let through.
    warnings.showwarning = _dropped


def _dropped(*warning: object, **more: object) -> None:
    """Takes a warning, and shows nothing."""
