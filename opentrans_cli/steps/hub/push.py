"""push: put a bundle on the Hugging Face Hub, with a model card and a tag."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from opentrans_cli.bundle.card.card import Unchecked
from opentrans_cli.bundle.card.eval_results import benchmarks_of, render_eval_results
from opentrans_cli.bundle.card.licenses import OTHER, license_of
from opentrans_cli.bundle.card.markup import LONGEST
from opentrans_cli.bundle.folder import MANIFEST, read_manifest
from opentrans_cli.bundle.hub.client import HubRef, endpoint, is_revision, parse_ref
from opentrans_cli.bundle.hub.source import local_bundle
from opentrans_cli.bundle.hub.upload import BRANCH, Outgoing, Uploaded, upload
from opentrans_cli.bundle.layout import (
    EVAL_RESULTS,
    OPEN_CLIP_CONFIG,
    OPEN_CLIP_WEIGHTS,
    README,
    SIGNATURE,
    SPARSE_PATCH,
)
from opentrans_cli.bundle.mask_only import is_mask_only, write_mask_only
from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.bundle.verify.signature import need_signing, sign_folder
from opentrans_cli.bundle.verify.verify import Check, verify_bundle
from opentrans_cli.errors import BundleError, GateError, OptionError
from opentrans_cli.files.atomic import write_file
from opentrans_cli.files.digest import file_sha256
from opentrans_cli.files.records import json_bytes
from opentrans_cli.reporter import LOGGED, Reporter
from opentrans_cli.steps.hub import gate
from opentrans_cli.version import __version__

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
    patch: bool
    dry_run: bool
    gate: tuple[Check, ...]  # every point with its verdict
    no_gate: str | None  # why it did not have to pass

    @property
    def address(self) -> str:
        """The address that every command takes as a source: "hf://org/name@tag"."""
        return str(HubRef(self.repo, self.revision))

    def to_json(self) -> dict[str, Any]:
        """The push report of `artifacts.schema.json`."""
        return {**asdict(self), "deleted": list(self.deleted), "gate": [asdict(point) for point in self.gate]}

    def check_passed(self) -> None:
        """Raises GateError, without the points, which are in `gate`, if a real push would not be let through."""
        failed = [point for point in self.gate if not point.ok]
        if failed and self.no_gate is None:
            raise GateError(str(gate.refusal(self.repo, failed)))


def push(
    source: str | Path,
    ref: str,
    *,
    reporter: Reporter | None = None,
    dense: bool = False,
    mask_only: bool = False,
    patch: bool = False,
    private: bool = False,
    license: str = OTHER,
    license_name: str | None = None,
    license_link: str | None = None,
    benchmark: Mapping[str, str] | None = None,
    tag: str | None = None,
    message: str | None = None,
    base: str | None = None,
    dry_run: bool = False,
    no_gate: str | None = None,
    sign: bool = False,
    sign_key: str | Path | None = None,
) -> PushResult:
    """Verify the bundle `source`, let it pass the gate, and put it into the repo `ref`, "org/name[@tag]", in one commit
    with a model card.

    dense: add the files that open_clip loads, with the text tower of the base, or of the source `base`.
    mask_only: send no values. patch: add what differs from the base, as indices and values. license: an identifier of
    the Hub or of SPDX, or "other" with license_name and license_link. benchmark: data set of an eval report ->
    "org/dataset:task[@commit]" of the Hub. tag: default the next of v1, v2, ... no_gate: publish although points of the
    gate fail, for this reason, which stands on the card. sign: by Sigstore, with your identity; sign_key: with the
    private key in this file. With `dry_run` the network is not used, and failed points are only listed.

    Raises BundleError for a damaged or incomplete bundle or if it cannot be signed, GateError for one that does not
    pass, OptionError, SourceError, or HubError. The repo then holds its old state, or the new one without its tag, and
    another push continues from there.
    """
    # It draws the charts of the card.
    from opentrans_cli.steps.hub.card import card_files, cost_of, evaluations_of

    reporter, place = reporter or LOGGED, _place(ref, tag)
    if dense and mask_only:
        raise OptionError("with and without weights at once: --dense and --mask-only; leave one of them out")
    if patch and mask_only:
        raise OptionError("a patch may hold weights: --patch and --mask-only; leave one of them out")
    if no_gate is not None and not (no_gate.strip() and len(no_gate) <= LONGEST):
        raise OptionError(f"no reason for the card: --no-gate {no_gate[:80]!r}; say why, at most {LONGEST} characters")
    if sign and sign_key is not None:
        raise OptionError(f"two signatures at once: --sign and --sign-key {sign_key}; leave one of them out")
    if sign or sign_key is not None:
        need_signing()
    terms = license_of(license, name=license_name, link=license_link)
    benchmarks = benchmarks_of(benchmark or {})
    bundle = _verified(source, reporter)
    with TemporaryDirectory(prefix="opentrans-push-") as scratch:
        staged = _staged(bundle, Path(scratch) / "bundle", mask_only=mask_only)
        files = {name: staged.path / name for name in (MANIFEST, *(entry.name for entry in staged.manifest.files))}
        opened = Path(scratch) / "open_clip" if dense else None
        if opened is not None:
            files |= _dense_files(staged, opened, base, reporter)
        if patch:
            files[SPARSE_PATCH] = _patch_file(bundle, Path(scratch) / SPARSE_PATCH, base, reporter)
        evaluations = evaluations_of(staged)
        if benchmarks:
            files[EVAL_RESULTS] = Path(scratch) / "eval_results.yaml"
            files[EVAL_RESULTS].write_bytes(render_eval_results(evaluations.values(), benchmarks, repo=place.repo))
        subject = gate.Publication(bundle, staged, terms, evaluations, cost_of(staged), frozenset(benchmarks), opened)
        points = _judged(subject, place.repo, reporter, lenient=dry_run or no_gate is not None)
        if sign_key is not None or (sign and not dry_run):
            files[SIGNATURE] = sign_folder(staged.path, None if sign_key is None else Path(sign_key))
        failed = tuple(point.name for point in points if not point.ok)
        unchecked = None if no_gate is None else Unchecked(no_gate, failed)
        card = partial(
            card_files, staged, repo=place.repo, license=terms, dense=dense, patch=patch, unchecked=unchecked
        )
        outgoing = Outgoing(
            repo=place.repo,
            files=files,
            card=cache(lambda name: card(revision=name)),
            message=message or _message(staged),
            private=private,
        )
        if dry_run:
            done = Uploaded(place.revision, None, f"{endpoint()}/{place.repo}", committed=False)
        else:
            done = upload(outgoing, tag=place.revision, reporter=reporter)
        sizes = {name: path.stat().st_size for name, path in files.items()}
        sizes |= {name: len(data) for name, data in outgoing.card(done.tag or "v1").items()}
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
        patch=patch,
        dry_run=dry_run,
        gate=points,
        no_gate=no_gate,
    )


def _judged(subject: gate.Publication, repo: str, reporter: Reporter, *, lenient: bool) -> tuple[Check, ...]:
    """The points of the gate. Raises GateError for those that failed, unless `lenient`."""
    reporter.say("gate: reading it again in a fresh interpreter")
    points = gate.gate_points(subject)
    failed = [point for point in points if not point.ok]
    if failed and not lenient:
        raise gate.refusal(repo, failed)
    return points


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


def _patch_file(bundle: Bundle, path: Path, base: str | None, reporter: Reporter) -> Path:
    from opentrans_cli.steps.transfer.patch import export_patch

    export_patch(bundle.path, out=path, base=base, reporter=reporter)
    return path


def _message(staged: Bundle) -> str:
    """The commit message; the same bundle always gives the same one."""
    manifest = staged.manifest
    sparsity = f"{manifest.base.architecture} at sparsity {manifest.achieved_sparsity:.4g}"
    return f"Subnet of {sparsity}, {staged.digest[:19]} (opentrans {__version__})"
