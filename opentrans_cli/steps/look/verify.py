"""The full integrity check of a bundle: reads every byte, loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from opentrans_cli.bundle.hub.source import local_bundle
from opentrans_cli.bundle.verify.verify import Check, verify_bundle
from opentrans_cli.reporter import LOGGED, Reporter


@dataclass(frozen=True)
class VerifyResult:
    """Every law of the format and whether the bundle follows it."""

    path: str
    ok: bool  # all checks passed
    checks: tuple[Check, ...]


def verify(source: str | Path, *, parents: Sequence[str | Path] = (), reporter: Reporter | None = None) -> VerifyResult:
    """Check the bundle `source`; damage is reported as failed checks.

    parents: bundles of its history. Their digests are checked too, and tensors that were frozen since then are compared
    bit by bit. Any bundle may be hf://org/name[@revision], which is pulled into the cache first. Raises BundleError for
    what is no bundle at all, and HubError for a bundle that cannot be pulled.
    """
    reporter = reporter or LOGGED
    given = [local_bundle(parent, reporter) for parent in parents]
    checks = verify_bundle(local_bundle(source, reporter), parents=given)
    return VerifyResult(path=str(source), ok=all(check.ok for check in checks), checks=checks)
