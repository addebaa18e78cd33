"""push: put a bundle on the Hugging Face Hub, with a model card and a tag."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from opentrans_cli.bundle.folder import MANIFEST, read_manifest
from opentrans_cli.bundle.hub.client import HubRef, endpoint, is_revision, parse_ref
from opentrans_cli.bundle.hub.source import local_bundle
from opentrans_cli.bundle.hub.upload import BRANCH, Outgoing, Uploaded, upload
from opentrans_cli.bundle.layout import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, README
from opentrans_cli.bundle.mask_only import is_mask_only, write_mask_only
from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.bundle.verify.verify import verify_bundle
from opentrans_cli.errors import BundleError, OptionError
from opentrans_cli.files.atomic import write_file
from opentrans_cli.files.digest import file_sha256
from opentrans_cli.files.records import json_bytes
from opentrans_cli.reporter import LOGGED, Reporter
from opentrans_cli.version import __version__

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True)
class PushResult:
    """What is on the Hub now, or would be sent there."""

    repo: str  # "org/name"
    revision: str | None  # the tag; None after a dry run without a tag
    commit: str | None  # None after a dry run
    url: str
    digest: str  # of the bundle that was sent
    files: dict[str, int]  # name -> bytes, all files in a push of this bundle
    committed: bool  # False: nothing had changed, or it was a dry run
    uploaded_bytes: int  # of files that the commit added or changed, also those sent by an interrupted push
    deleted: tuple[str, ...]  # files of an older bundle that were deleted
    dense: bool
    mask_only: bool
    dry_run: bool

    @property
    def address(self) -> str:
        """The address that every command takes as a source: "hf://org/name@tag"."""
        return str(HubRef(self.repo, self.revision))

    def to_json(self) -> dict[str, Any]:
        """The push report of `artifacts.schema.json`."""
        return {**asdict(self), "deleted": list(self.deleted)}


def push(
    source: str | Path,
    ref: str,
    *,
    reporter: Reporter | None = None,
    dense: bool = False,
    mask_only: bool = False,
    private: bool = False,
    license: str = "other",
    tag: str | None = None,
    message: str | None = None,
    base: str | None = None,
    dry_run: bool = False,
) -> PushResult:
    """Verify the bundle `source` and put it into the repo `ref`, "org/name[@tag]", in one commit with a model card.

    dense: add the files that open_clip loads, with the text tower of the base, or of the source `base`.
    mask_only: send no values. license: an identifier of the Hub, such as "apache-2.0". tag: default the next of v1, v2,
    ... With `dry_run` the network is not used. Raises BundleError for a damaged or incomplete bundle, OptionError,
    SourceError, or HubError. The repo then holds its old state, or the new one without its tag, and another push
    continues from there.
    """
    reporter, place = reporter or LOGGED, _place(ref, tag)
    if dense and mask_only:
        raise OptionError("with and without weights at once: --dense and --mask-only; leave one of them out")
    if not _LICENSE.fullmatch(license):
        raise OptionError(f"not an identifier of a license: {license[:80]!r}; write for example apache-2.0 or other")
    bundle = _verified(source, reporter)
    with TemporaryDirectory(prefix="opentrans-push-") as scratch:
        staged = _staged(bundle, Path(scratch) / "bundle", mask_only=mask_only)
        files = {name: staged.path / name for name in (MANIFEST, *(entry.name for entry in staged.manifest.files))}
        if dense:
            files |= _dense_files(staged, Path(scratch) / "open_clip", base, reporter)
        outgoing = Outgoing(
            repo=place.repo,
            files=files,
            card=cache(lambda name: _card(staged, HubRef(place.repo, name), license, dense=dense)),
            message=message or _message(staged),
            private=private,
        )
        if dry_run:
            done = Uploaded(place.revision, None, f"{endpoint()}/{place.repo}", committed=False)
        else:
            done = upload(outgoing, tag=place.revision, reporter=reporter)
        card = outgoing.card(done.tag or "v1")
        sizes = {name: path.stat().st_size for name, path in files.items()}
        sizes |= {name: len(data) for name, data in card.items()}
    return PushResult(
        repo=place.repo,
        revision=done.tag,
        commit=done.commit,
        url=done.url,
        digest=staged.digest,
        files=dict(sorted(sizes.items())),
        committed=done.committed,
        uploaded_bytes=sum(done.uploaded.values()),
        deleted=done.deleted,
        dense=dense,
        mask_only=mask_only,
        dry_run=dry_run,
    )


def _place(ref: str, tag: str | None) -> HubRef:
    """Repo and tag. Raises OptionError for two tags, and for names that could mean something else."""
    place = parse_ref(ref)
    if tag is not None and place.revision not in (None, tag):
        raise OptionError(f"two tags: {ref} and --revision {tag}; leave one of them out")
    name = tag if tag is not None else place.revision
    if name is None:
        return place
    if not is_revision(name) or "/" in name or name == BRANCH or _COMMIT.fullmatch(name):
        raise OptionError(f"not a name for a tag: {name[:80]!r}; write for example v1")
    return HubRef(place.repo, name)


def _verified(source: Path | str, reporter: Reporter) -> Bundle:
    """The bundle, with every byte checked."""
    bundle = open_bundle(local_bundle(source, reporter))
    checks = verify_bundle(bundle.path)
    failed = next((check for check in checks if not check.ok), None)
    if failed is not None:
        raise BundleError(f"bundle is not valid: {str(bundle.path)!r} ({failed.name}), {failed.detail}")
    reporter.say(f"{source}: {len(checks)} checks passed")
    return bundle


def _staged(source: Bundle, folder: Path, *, mask_only: bool) -> Bundle:
    """A copy that no other command changes while it is sent. It has no README.md, which is the card on the Hub."""
    folder.mkdir()
    if mask_only and not is_mask_only(source):
        return write_mask_only(source, folder)
    entries = tuple(entry for entry in source.manifest.files if entry.name != README)
    manifest = replace(source.manifest, files=entries)
    for entry in entries:
        (folder / entry.name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source.file_path(entry.name), folder / entry.name)
        if file_sha256(folder / entry.name) != entry.sha256:
            raise BundleError(f"bundle was changed meanwhile: {str(source.path)!r}; run the command again")
    if read_manifest(source.path) != source.manifest:
        raise BundleError(f"bundle was changed meanwhile: {str(source.path)!r}; run the command again")
    write_file(folder / MANIFEST, [json_bytes(manifest.to_json())])
    return open_bundle(folder)


def _dense_files(staged: Bundle, folder: Path, base: str | None, reporter: Reporter) -> Mapping[str, Path]:
    from opentrans_cli.steps.transfer.open_clip import export_open_clip

    export_open_clip(staged.path, out=folder, base=base, reporter=reporter)
    return {name: folder / name for name in (OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS)}


def _card(staged: Bundle, place: HubRef, license: str, *, dense: bool) -> dict[str, bytes]:
    from opentrans_cli.steps.hub.card import card_files

    return card_files(staged, repo=place.repo, license=license, dense=dense, revision=place.revision)


def _message(staged: Bundle) -> str:
    """The commit message; the same bundle always gives the same one."""
    manifest = staged.manifest
    sparsity = f"{manifest.base.architecture} at sparsity {manifest.achieved_sparsity:.4g}"
    return f"Subnet of {sparsity}, {staged.digest[:19]} (opentrans {__version__})"
