"""Sources on the Hugging Face Hub: hf://org/name[@revision] as a folder on this disk. No torch is loaded.

A local source makes no network call, and does not load the Hub's client. What was pulled is kept, checked:

    $OPENTRANS_CACHE/hub/ORG--NAME/COMMIT/          a bundle
    $OPENTRANS_CACHE/hub/ORG--NAME/revisions.json   tag or branch -> commit; "" is the newest

The cache is ~/.cache/opentrans if OPENTRANS_CACHE is not set; anything in it may be deleted. The client's own cache
holds links, which no reader of bundles follows, and does not tell what was checked.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from opentrans_cli.bundle.folder import MANIFEST
from opentrans_cli.bundle.hub.client import HubRef, hub_errors, is_transient, offline, parse_ref
from opentrans_cli.bundle.hub.download import download, holds_all
from opentrans_cli.bundle.hub.remote import COMMIT, RemoteRepo, resolve
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.errors import BundleError, HubError
from opentrans_cli.files.atomic import locked, write_file
from opentrans_cli.files.records import json_bytes
from opentrans_cli.files.tensorfile import read_bytes
from opentrans_cli.reporter import Reporter
from opentrans_cli.source_name import plain_source

# A Path made of an address has lost one of its slashes.
_ADDRESS = re.compile(r"hf:/+(?=[^/])")
_REVISIONS = "revisions.json"


def hub_ref(source: str | Path) -> HubRef | None:
    """The repo that a source on the Hub names, None for any other source.

    Raises OptionError for an address that cannot be one.
    """
    plain = plain_source(str(source))
    address = _ADDRESS.match(plain)
    return parse_ref(plain[address.end() :]) if address else None


def local_bundle(source: str | Path, reporter: Reporter) -> Path:
    """The folder of a bundle: `source` itself, or what hf://org/name[@revision] holds, pulled into the cache.

    Raises HubError or BundleError; whether a folder of this disk is a bundle is left to the one who opens it.
    """
    ref = hub_ref(source)
    if ref is None:
        return Path(plain_source(str(source)))
    found = cached_bundle(ref, reporter)
    if found is None:
        raise no_bundle(ref)
    return found.path


def local_source(source: str, reporter: Reporter) -> str:
    """`source` itself in our spelling, or where the bundle lies that hf://org/name[@revision] holds.

    An address whose repo holds no bundle stays what it is: open_clip's layout is read from the Hub's own cache, and so
    does one that cannot be asked for, since it may lie there.
    """
    source, ref = plain_source(source), hub_ref(source)
    if ref is None or (offline() and _remembered(ref) is None):
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
class Pulled:
    """A bundle of the Hub on this disk."""

    path: Path
    commit: str
    fetched: int  # bytes that came over the network for it now
    asked: bool  # the Hub was asked what the revision is now


def cached_bundle(ref: HubRef, reporter: Reporter, *, hashed: bool = False) -> Pulled | None:
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
            return Pulled(folder, repo.commit, 0, asked)
        except BundleError:
            if not asked and offline():
                raise
            shutil.rmtree(folder, ignore_errors=True)
    text = repo.manifest_bytes()
    if text is None:
        return None
    fetched = download(repo, text, folder, force=False, seed=None, reporter=reporter)
    _remember(ref, repo.commit)
    return Pulled(folder, repo.commit, fetched, asked)


def bundle_at(ref: HubRef, out: Path, reporter: Reporter, *, force: bool) -> Pulled:
    """The bundle of a repo written at `out`; what the cache has of it is copied. Raises HubError or BundleError."""
    repo, asked = find_repo(ref, reporter)
    seed = bundle_folder(ref, repo.commit)
    there = (seed / MANIFEST).is_file()
    text = read_bytes(seed / MANIFEST) if there else repo.manifest_bytes()
    if text is None:
        raise no_bundle(ref)
    fetched = download(repo, text, out, force=force, seed=seed if there else None, reporter=reporter)
    return Pulled(out, repo.commit, fetched, asked)


def find_repo(ref: HubRef, reporter: Reporter) -> tuple[RemoteRepo, bool]:
    """The repo at the commit its revision names, and whether the Hub was asked; a commit in the cache needs no Hub."""
    known = _remembered(ref)
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
        _remember(ref, repo.commit)
    return repo, True


def _stale(ref: HubRef, commit: str, why: str, reporter: Reporter) -> RemoteRepo:
    revision = ref.revision or "its newest revision"
    reporter.say(
        f"{ref} from the cache, {why}: {revision} as it was pulled last, commit {commit[:12]}; it may have moved"
    )
    return RemoteRepo(ref, commit)


# The cache.


def cache_folder() -> Path:
    """Where pulled bundles are kept."""
    given = os.environ.get("OPENTRANS_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "opentrans"


def is_cached(path: Path) -> bool:
    """Whether `path` lies in the cache, where nothing is to be added to a bundle."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(cache_folder()))


def _repo_folder(ref: HubRef) -> Path:
    """Everything about one repo; its name may not hold two dashes in a row, so no two repos share a folder."""
    return cache_folder() / "hub" / ref.repo.replace("/", "--")


def bundle_folder(ref: HubRef, commit: str) -> Path:
    """Where the bundle of one commit is, or goes."""
    return _repo_folder(ref) / commit


def pulled_bundles() -> Iterator[tuple[str, Path]]:
    """The bundles in the cache, each with the addresses by which it was pulled, or with that of its commit."""
    for folder in sorted((cache_folder() / "hub").glob("*--*")):
        repo, revisions = folder.name.replace("--", "/"), _read(folder)
        for path in sorted(each for each in folder.iterdir() if COMMIT.fullmatch(each.name)):
            names = sorted(name for name, commit in revisions.items() if commit == path.name) or [path.name]
            yield from ((str(HubRef(repo, name or None)), path) for name in names)


def _remembered(ref: HubRef) -> str | None:
    """The commit of the revision when it was asked for last, if the bundle of that commit is there."""
    commit = ref.revision or ""
    if not COMMIT.fullmatch(commit):
        commit = _read(_repo_folder(ref)).get(commit, "")
    return commit if commit and bundle_folder(ref, commit).is_dir() else None


def _remember(ref: HubRef, commit: str) -> None:
    """Keep the commit of a revision. Raises BundleError if the disk refuses."""
    folder = _repo_folder(ref)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            known = _read(folder)
            if known.get(ref.revision or "") != commit:
                write_file(folder / _REVISIONS, [json_bytes({**known, ref.revision or "": commit})])
    except OSError as error:
        raise BundleError(
            f"cannot write the cache: {str(folder)!r}, {error.strerror or error}; set OPENTRANS_CACHE to another folder"
        ) from error


def _read(folder: Path) -> dict[str, str]:
    try:
        known = json.loads((folder / _REVISIONS).read_bytes())
    except (OSError, ValueError):
        return {}  # a damaged file is treated as missing: the Hub is asked again
    items = known.items() if isinstance(known, dict) else ()
    return {name: commit for name, commit in items if isinstance(commit, str) and COMMIT.fullmatch(commit)}
