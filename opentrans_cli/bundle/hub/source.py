"""Sources on the Hugging Face Hub: hf://org/name[@revision] as a folder on this disk. No torch is loaded.

A local source makes no network call, and does not load the Hub's client.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from opentrans_cli.bundle.folder import MANIFEST
from opentrans_cli.bundle.hub.cache import bundle_folder, remember, remembered
from opentrans_cli.bundle.hub.client import HubRef, hub_errors, is_transient, offline, parse_ref
from opentrans_cli.bundle.hub.download import download, holds_all
from opentrans_cli.bundle.hub.remote import RemoteRepo, resolve
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.errors import BundleError, HubError
from opentrans_cli.reporter import Reporter

# A Path made of an address has lost one of its slashes.
_ADDRESS = re.compile(r"hf:/+(?=[^/])")


def hub_ref(source: str | Path) -> HubRef | None:
    """The repo that a source on the Hub names, None for any other source.

    Raises OptionError for an address that cannot be one.
    """
    address = _ADDRESS.match(str(source))
    return parse_ref(str(source)[address.end() :]) if address else None


def local_bundle(source: str | Path, reporter: Reporter) -> Path:
    """The folder of a bundle: `source` itself, or what hf://org/name[@revision] holds, pulled into the cache.

    Raises HubError or BundleError; whether a folder of this disk is a bundle is left to the one who opens it.
    """
    ref = hub_ref(source)
    if ref is None:
        return Path(source)
    found = cached_bundle(ref, reporter)
    if found is None:
        raise no_bundle(ref)
    return found.path


def local_source(source: str, reporter: Reporter) -> str:
    """`source` itself, or where the bundle lies that hf://org/name[@revision] holds.

    An address whose repo holds no bundle stays what it is: open_clip's layout is read from the Hub's own cache, and so
    does one that cannot be asked for, since it may lie there.
    """
    ref = hub_ref(source)
    if ref is None or (offline() and remembered(ref) is None):
        return source
    found = cached_bundle(ref, reporter)
    return source if found is None else str(found.path)


def no_bundle(ref: HubRef) -> HubError:
    """The error for a repo without a manifest."""
    return HubError(
        f"no bundle in the repo: {ref} has no {MANIFEST}; a CLIP in open_clip's layout is a source for prune, analyze, "
        "eval and segment, bundles come from `opentrans push`"
    )


@dataclass(frozen=True)
class Cached:
    """A bundle in the cache."""

    path: Path
    commit: str
    fetched: int  # bytes that came over the network for it now
    asked: bool  # the Hub was asked what the revision is now


def cached_bundle(ref: HubRef, reporter: Reporter, *, hashed: bool = False) -> Cached | None:
    """The bundle of a repo in the cache, pulled if it is not there; None if the repo holds none.

    Without the Hub a revision is what it was when it was pulled last, and that is said. hashed: one that is there is
    hashed again now, not only where its tensors are read. Raises HubError or BundleError.
    """
    repo, asked = find_repo(ref, reporter)
    folder = bundle_folder(ref, repo.commit)
    if folder.is_dir():
        try:
            bundle = open_bundle(folder)
            if hashed and not holds_all(folder, bundle.manifest):
                raise BundleError(f"damaged in the cache: {str(folder)!r}; delete this folder and pull {ref} again")
            return Cached(folder, repo.commit, 0, asked)
        except BundleError:
            if not asked and offline():
                raise
            shutil.rmtree(folder, ignore_errors=True)
    text = repo.manifest_bytes()
    if text is None:
        return None
    fetched = download(repo, text, folder, force=False, seed=None, reporter=reporter)
    remember(ref, repo.commit)
    return Cached(folder, repo.commit, fetched, asked)


def find_repo(ref: HubRef, reporter: Reporter) -> tuple[RemoteRepo, bool]:
    """The repo at the commit its revision names, and whether the Hub was asked; a commit in the cache needs no Hub."""
    known = remembered(ref)
    if known is not None and ref.revision == known:
        return RemoteRepo(ref, known), False
    if offline():
        if known is None:
            raise HubError(f"not in the cache: {ref}, and HF_HUB_OFFLINE forbids to ask the Hub; unset it")
        return _stale(ref, known, "HF_HUB_OFFLINE is set", reporter), False
    try:
        repo = resolve(ref, attempts=5 if known is None else 3)
    except Exception as error:
        if known is None or not is_transient(error):
            with hub_errors(str(ref)):
                raise
        return _stale(ref, known, "the Hub gives no answer", reporter), False
    if bundle_folder(ref, repo.commit).is_dir():
        remember(ref, repo.commit)
    return repo, True


def _stale(ref: HubRef, commit: str, why: str, reporter: Reporter) -> RemoteRepo:
    revision = ref.revision or "its newest revision"
    reporter.say(
        f"{ref} from the cache, {why}: {revision} as it was pulled last, commit {commit[:12]}; it may have moved"
    )
    return RemoteRepo(ref, commit)
