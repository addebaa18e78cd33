"""The full integrity check of a bundle: reads every byte, loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from opentrans_cli.bundle.verify import Check, verify_bundle


@dataclass(frozen=True)
class VerifyResult:
    """Every law of the format and whether the bundle keeps it."""

    path: str
    ok: bool  # all checks passed
    checks: tuple[Check, ...]


def verify(path: Path | str) -> VerifyResult:
    """Checks the bundle at `path`; damage shows as failed checks.

    Raises BundleError when it is no bundle at all.
    """
    checks = verify_bundle(path)
    return VerifyResult(path=str(path), ok=all(check.ok for check in checks), checks=checks)
