"""Signatures of bundles: who published this, and that nobody changed it since.

`model.sig` beside the manifest is a Sigstore bundle in the format of OpenSSF Model Signing 1.0 (package model-signing):
an in-toto statement with the SHA-256 of every signed file, inside a DSSE envelope. Signed are `manifest.json` and the
files that it declares; a verifier of other programs finds them all. It is made with an elliptic curve key, without any
network, or by Sigstore with the publisher's identity. The package is only loaded where a signature is made or checked.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentrans_cli.bundle.folder import MANIFEST
from opentrans_cli.bundle.layout import MAX_SIGNATURE, SIGNATURE
from opentrans_cli.errors import BundleError, OptionError
from opentrans_cli.files.tensorfile import read_bytes


@dataclass(frozen=True)
class Signer:
    """Whose signature a bundle must have: that of a key, or of an identity that an issuer vouched for."""

    key: Path | None = None  # PEM, elliptic curve, public
    identity: str | None = None  # address or workflow, as in the certificate
    issuer: str | None = None  # of the identity, an address
    trust_root: Path | None = None  # Sigstore's ClientTrustConfig as JSON; None: asked for over the network

    def __post_init__(self) -> None:
        """Raises OptionError unless exactly one of key and identity is named, the latter with its issuer."""
        if (self.key is None) == (self.identity is None):
            raise OptionError("whose signature? pass --key FILE, or --identity WHO with --issuer URL; exactly one")
        if (self.identity is None) != (self.issuer is None):
            raise OptionError("an identity needs the issuer that vouched for it: pass --identity and --issuer together")
        if self.key is not None and self.trust_root is not None:
            raise OptionError("a key needs no trust root: leave --trust-root out")


def need_signing() -> None:
    """Raises OptionError unless the package for signatures is installed and can be loaded."""
    try:
        import model_signing  # noqa: F401
    except ImportError as error:
        raise OptionError(
            f"signatures need a package that is missing: {error.name}; pip install 'opentrans-cli[sign]'"
        ) from error


def sign_folder(folder: Path, key: Path | None) -> Path:
    """Sign every file in `folder`, which holds a bundle and nothing else, and return where the signature is: in it.

    key: an elliptic curve key, PEM, private, not encrypted; None: by Sigstore, over the network, with the identity of
    the job that runs or of whoever logs in. Raises BundleError with the reason if it cannot be signed, OptionError
    without the package.
    """
    need_signing()
    from model_signing import hashing, signing

    target = folder / SIGNATURE
    with _told("cannot sign", str(key or "by Sigstore")):
        config = signing.Config().set_hashing_config(hashing.Config().set_ignored_paths(paths=[SIGNATURE]))
        if key is not None:
            config.use_elliptic_key_signer(private_key=key)
        else:
            config.use_sigstore_signer(use_ambient_credentials=True)
        config.sign(folder, target)
    return target


def check_signature(folder: Path, signer: Signer) -> str:
    """What is signed, and by whom. Raises BundleError unless `folder` has a signature of `signer` over its manifest, by
    whose hashes it vouches for every declared file.
    """
    need_signing()
    from model_signing import verifying

    path = folder / SIGNATURE
    if not path.is_file():
        raise BundleError(f"not signed: {str(folder)!r} has no {SIGNATURE}; ask its publisher for a signed one")
    if path.is_symlink() or path.stat().st_size > MAX_SIGNATURE:
        raise BundleError(f"not a signature: {str(path)!r}; download the bundle again")
    who = str(signer.key) if signer.key is not None else f"{signer.identity} ({signer.issuer})"
    with _told("signature does not hold", f"{str(path)!r} for {who}"):
        config = verifying.Config().set_ignore_unsigned_files(True)
        if signer.key is not None:
            config.use_elliptic_key_verifier(public_key=signer.key)
        else:
            config.use_sigstore_verifier(
                identity=signer.identity, oidc_issuer=signer.issuer, trust_config=signer.trust_root
            )
        config.verify(folder, path)
        names = _signed_names(path)
    if MANIFEST not in names:
        raise BundleError(f"signature is of something else: {str(path)!r} leaves {MANIFEST} out; do not trust it")
    return f"{len(names)} files signed by {who}"


def _signed_names(path: Path) -> list[str]:
    """Names of the files in a signature that holds."""
    envelope = json.loads(read_bytes(path))["dsseEnvelope"]
    statement: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
    return [resource["name"] for resource in statement["predicate"]["resources"]]


@contextmanager
def _told(what: str, which: str) -> Iterator[None]:
    """Turns whatever the package raises into one line, and keeps what it prints off stdout."""
    try:
        with redirect_stdout(io.StringIO()):
            yield
    except Exception as error:  # the package has no error class of its own, and passes on those of five others
        said = " ".join(str(error).split())
        changed = re.findall(r"Hash mismatch for '(.+?)'", said.replace("\\'", "'"))
        said = f"changed since: {', '.join(changed)}" if changed else said[:300] or type(error).__name__
        raise BundleError(f"{what}: {which}, {said}; check the key, the identity and the files") from error
