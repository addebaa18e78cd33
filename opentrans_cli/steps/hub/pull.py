"""pull: a bundle from the Hugging Face Hub, pinned, resumable, and checked to the last byte before it appears."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from opentrans_cli.bundle.folder import MANIFEST, check_replaceable
from opentrans_cli.bundle.hub.cache import bundle_folder
from opentrans_cli.bundle.hub.client import HubRef, parse_ref
from opentrans_cli.bundle.hub.download import download
from opentrans_cli.bundle.hub.source import cached_bundle, find_repo, hub_ref, no_bundle
from opentrans_cli.bundle.layout import WEIGHTS
from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.errors import OptionError
from opentrans_cli.files.targets import prepare_parent
from opentrans_cli.files.tensorfile import read_bytes
from opentrans_cli.reporter import LOGGED, Reporter


@dataclass(frozen=True)
class PullResult:
    """What `pull` brought."""

    path: Path
    repo: str  # "org/name"
    revision: str | None  # as it was asked for
    commit: str
    digest: str  # of the bundle at `path`
    sparsity: float
    bytes: int  # of all its files
    fetched_bytes: int  # that came over the network
    asked: bool  # False: from the cache, without asking the Hub
    completed: bool  # values were taken from the base

    def to_json(self) -> dict[str, Any]:
        """The pull report of `artifacts.schema.json`."""
        return {**asdict(self), "path": str(self.path)}


def pull(
    source: str,
    *,
    out: str | Path | None = None,
    force: bool = False,
    reporter: Reporter | None = None,
    base: str | None = None,
) -> PullResult:
    """Bring the bundle of `source`, "org/name[@revision]" with or without "hf://", to `out`, or into the cache.

    Only what its manifest declares is fetched; every byte is hashed and every law checked before it appears; a pull
    that was killed goes on where it was. `base` is the source of the CLIP whose values complete a bundle of masks
    alone, with the recorded digest; the bundle at `out` then has weights. Raises OptionError, HubError, BundleError, or
    SourceError for a wrong base.
    """
    reporter, out = reporter or LOGGED, None if out is None else Path(out)
    ref = hub_ref(source) or parse_ref(source)
    if base is not None and out is None:
        raise OptionError(f"a completed bundle needs a place: --base {base}; add --out")
    if out is not None:
        check_replaceable(out, force=force)
        prepare_parent(out)
    if out is None or base is not None:
        found = cached_bundle(ref, reporter, hashed=True)
        if found is None:
            raise no_bundle(ref)
        bundle = open_bundle(found.path)
        if out is not None and base is not None:
            bundle = _complete(bundle, ref, out, base, force=force, reporter=reporter)
        return _result(bundle, ref, found.commit, found.fetched, asked=found.asked, completed=base is not None)
    return _to_folder(ref, out, force=force, reporter=reporter)


def _to_folder(ref: HubRef, out: Path, *, force: bool, reporter: Reporter) -> PullResult:
    """Straight to `out`; what the cache has of it is copied."""
    repo, asked = find_repo(ref, reporter)
    seed: Path | None = bundle_folder(ref, repo.commit)
    assert seed is not None
    if (seed / MANIFEST).is_file():
        text: bytes | None = read_bytes(seed / MANIFEST)
    else:
        seed, text = None, repo.manifest_bytes()
    if text is None:
        raise no_bundle(ref)
    fetched = download(repo, text, out, force=force, seed=seed, reporter=reporter)
    return _result(open_bundle(out), ref, repo.commit, fetched, asked=asked, completed=False)


def _complete(bundle: Bundle, ref: HubRef, out: Path, base: str, *, force: bool, reporter: Reporter) -> Bundle:
    """Write `bundle`, masks alone, with the values of `base` at `out`."""
    if bundle.has(WEIGHTS):
        raise OptionError(f"the bundle has all its weights: {ref}; leave --base out")
    from opentrans_cli.steps.hub.completion import completed

    return completed(bundle, out, base=base, force=force, reporter=reporter)


def _result(bundle: Bundle, ref: HubRef, commit: str, fetched: int, *, asked: bool, completed: bool) -> PullResult:
    return PullResult(
        path=bundle.path,
        repo=ref.repo,
        revision=ref.revision,
        commit=commit,
        digest=bundle.digest,
        sparsity=bundle.manifest.achieved_sparsity,
        bytes=bundle.size_bytes,
        fetched_bytes=fetched,
        asked=asked,
        completed=completed,
    )
