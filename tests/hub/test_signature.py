"""Signatures: made by push, brought by pull, checked by verify, all by the real package, without a network."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from opentrans_cli.bundle.layout import SIGNATURE
from opentrans_cli.bundle.verify.signature import Signer, sign_folder
from opentrans_cli.errors import BundleError, OptionError
from opentrans_cli.steps.hub.pull import pull
from opentrans_cli.steps.hub.push import push as publish
from opentrans_cli.steps.look.verify import VerifyResult, verify

if TYPE_CHECKING:
    from tests.hub.conftest import Hub

pytestmark = pytest.mark.usefixtures("no_waits", "charts_drawn_once", "reads_here", "cache")
REPO = "org/name"
push = partial(publish, license="mit")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two pairs of keys, as `openssl ecparam -genkey` makes them."""
    pytest.importorskip("model_signing", reason="needs the extra opentrans-cli[sign]")
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("keys")
    for name in ("own", "other"):
        key = ec.generate_private_key(ec.SECP256R1())
        private = (pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
        (folder / f"{name}.pem").write_bytes(key.private_bytes(*private))
        public = key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{name}.pub").write_bytes(public)
    return {path.name: path for path in folder.iterdir()}


def signature(result: VerifyResult) -> tuple[bool, str]:
    """The verdict on the signature."""
    return next((check.ok, check.detail) for check in result.checks if check.name == "signature")


def test_what_was_signed_verifies_after_the_hub_and_what_was_changed_does_not(
    hub: Hub, tiny_bundle: Path, keys: dict[str, Path], tmp_path: Path, run_cli: Any
) -> None:
    first = push(tiny_bundle, REPO, sign_key=keys["own.pem"])
    assert SIGNATURE in hub.server.repos[REPO].files() and SIGNATURE in first.files
    assert not push(tiny_bundle, REPO, sign_key=keys["own.pem"]).committed, "each signing gives other bytes"
    assert not push(tiny_bundle, REPO).committed and SIGNATURE in hub.server.repos[REPO].files()
    path = pull(REPO, out=tmp_path / "b").path
    good = verify(path, key=keys["own.pub"])
    assert good.ok and signature(good)[0] and f"signed by {keys['own.pub']}" in signature(good)[1]
    assert signature(verify(f"hf://{REPO}", key=keys["own.pub"]))[0]
    stranger = verify(path, key=keys["other.pub"])
    assert not stranger.ok and signature(stranger)[1].startswith("signature does not hold: ")
    said = run_cli("verify", path)
    assert said.exit_code == 0 and "model.sig was not checked: name its signer with --key" in said.stderr
    # A manifest that agrees with its files, as whoever changes a bundle would write it, but not with the signature.
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "target_sparsity": 0.123}, indent=2))
    changed = verify(path, key=keys["own.pub"])
    assert [check.name for check in changed.checks if not check.ok] == ["signature"]
    assert "changed since: manifest.json; check" in signature(changed)[1]


def test_the_package_s_own_command_verifies_the_repo(
    hub: Hub, tiny_bundle: Path, keys: dict[str, Path], tmp_path: Path
) -> None:
    push(tiny_bundle, REPO, sign_key=keys["own.pem"])
    for name, data in hub.server.repos[REPO].files().items():
        (tmp_path / "down" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "down" / name).write_bytes(data)
    line = [sys.executable, "-m", "model_signing", "verify", "key", str(tmp_path / "down"), "--ignore_unsigned_files"]
    line += ["--signature", str(tmp_path / "down" / SIGNATURE), "--public_key", str(keys["own.pub"])]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_signature_that_leaves_the_manifest_out_or_is_none_vouches_for_nothing(
    tiny_bundle: Path, keys: dict[str, Path], tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "b"))
    assert signature(verify(bundle, key=keys["own.pub"])) == (
        False,
        f"not signed: '{bundle}' has no model.sig; ask its publisher for a signed one",
    )
    (tmp_path / "part").mkdir()
    shutil.copy(bundle / "mask.safetensors", tmp_path / "part")
    shutil.copy(sign_folder(tmp_path / "part", keys["own.pem"]), bundle)
    assert "leaves manifest.json out" in signature(verify(bundle, key=keys["own.pub"]))[1]
    for data in (b"", b"{}", b"x" * 100, b"[" * 5000):
        (bundle / SIGNATURE).write_bytes(data)
        ok, said = signature(verify(bundle, key=keys["own.pub"]))
        assert not ok and "\n" not in said and "signature does not hold" in said
    with pytest.raises(BundleError, match="cannot sign: "):
        sign_folder(tmp_path / "part", keys["own.pub"])


def test_an_identity_is_checked_against_a_trust_root_and_nothing_else(
    tiny_bundle: Path, keys: dict[str, Path], tmp_path: Path
) -> None:
    """A signature by a key has no certificate, so that no identity is found in it."""
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "b"))
    sign_folder(bundle, keys["own.pem"])
    who = {"identity": "a@b.org", "issuer": "https://accounts.example.org"}
    assert not signature(verify(bundle, **who, trust_root=trust_root(tmp_path)))[0]


def trust_root(folder: Path) -> Path:
    """Sigstore's public trust root, which its package holds, in the form that it takes from a file."""
    import sigstore

    store = Path(str(sigstore.__file__)).parent / "_store" / "https%3A%2F%2Ftuf-repo-cdn.sigstore.dev"
    document = {
        "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
        "trustedRoot": json.loads((store / "trusted_root.json").read_text()),
        "signingConfig": json.loads((store / "signing_config.v0.2.json").read_text()),
    }
    (folder / "trust.json").write_text(json.dumps(document))
    return folder / "trust.json"


def test_a_signer_is_named_in_one_way() -> None:
    for given in (
        {},
        {"key": Path("k"), "identity": "a", "issuer": "b"},
        {"identity": "a"},
        {"key": Path("k"), "issuer": "b"},
        {"key": Path("k"), "trust_root": Path("t")},
    ):
        with pytest.raises(OptionError):
            Signer(**given)


def test_without_the_package_it_is_said_which_extra_is_missing(
    hub: Hub, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Any
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    for line in (("verify", tiny_bundle, "--key", "k.pub"), ("push", tiny_bundle, REPO, "--license", "mit", "--sign")):
        result = run_cli(*line)
        assert result.exit_code == 2 and "pip install 'opentrans-cli[sign]'" in result.stderr
    both = run_cli("push", tiny_bundle, REPO, "--license", "mit", "--sign", "--sign-key", "k.pem")
    assert both.exit_code == 2 and "two signatures at once" in both.stderr and hub.server.log == []
