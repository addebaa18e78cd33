"""The full integrity check of a bundle: reads every byte, loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from opentrans_cli.bundle.hub.source import local_bundle
from opentrans_cli.bundle.layout import SIGNATURE
from opentrans_cli.bundle.verify.signature import Signer, need_signing
from opentrans_cli.bundle.verify.verify import Check, verify_bundle
from opentrans_cli.reporter import LOGGED, Reporter


@dataclass(frozen=True)
class VerifyResult:
    """Every law of the format and whether the bundle follows it."""

    path: str
    ok: bool  # all checks passed
    checks: tuple[Check, ...]


def verify(
    source: str | Path,
    *,
    parents: Sequence[str | Path] = (),
    key: str | Path | None = None,
    identity: str | None = None,
    issuer: str | None = None,
    trust_root: str | Path | None = None,
    reporter: Reporter | None = None,
) -> VerifyResult:
    """Check the bundle `source`; damage is reported as failed checks.

    parents: bundles of its history. Their digests are checked too, and tensors that were frozen since then are compared
    bit by bit. Any bundle may be hf://org/name[@revision], which is pulled into the cache first. key: file with the
    public key that must have signed it; or identity and issuer of a signature by Sigstore, with trust_root where no
    network is to be asked. Raises BundleError for what is no bundle at all, HubError for a bundle that cannot be
    pulled, and OptionError where the signer is not clear or the package for signatures is missing.
    """
    reporter = reporter or LOGGED
    given = [local_bundle(parent, reporter) for parent in parents]
    signer = None
    if not (key is identity is issuer is trust_root is None):
        paths = (None if path is None else Path(path) for path in (key, trust_root))
        signer = Signer(next(paths), identity, issuer, next(paths))
        need_signing()
    folder = local_bundle(source, reporter)
    checks = verify_bundle(folder, parents=given, signer=signer)
    if signer is None and (folder / SIGNATURE).is_file():
        reporter.say(f"{SIGNATURE} was not checked: name its signer with --key, or --identity and --issuer")
    return VerifyResult(path=str(source), ok=all(check.ok for check in checks), checks=checks)
