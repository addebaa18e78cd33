"""pull: get a bundle from the Hugging Face Hub, pinned and resumable; every byte is checked before it appears."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from opentrans_cli.bundle.contents import BundleContents
from opentrans_cli.bundle.folder import check_replaceable
from opentrans_cli.bundle.hub.client import parse_ref
from opentrans_cli.bundle.hub.source import Pulled, bundle_at, cached_bundle, hub_ref, no_bundle
from opentrans_cli.bundle.layout import WEIGHTS
from opentrans_cli.bundle.rounds import untrained, with_base
from opentrans_cli.bundle.store import Bundle, open_bundle, write_bundle
from opentrans_cli.errors import OptionError
from opentrans_cli.files.targets import prepare_parent
from opentrans_cli.reporter import LOGGED, Reporter


@dataclass(frozen=True)
class PullResult:
    """What `pull` downloaded."""

    path: Path
    repo: str  # "org/name"
    revision: str | None  # as the user gave it
    commit: str
    digest: str  # of the bundle at `path`
    sparsity: float
    bytes: int  # of all its files
    fetched_bytes: int  # downloaded over the network
    asked: bool  # False: read from the cache, without asking the Hub
    completed: bool  # True: values were taken from the base

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
    """Get the bundle of `source`, "org/name[@revision]" with or without "hf://", to `out`, or into the cache.

    Only what its manifest declares is fetched; every byte is hashed and every law checked before it appears. A pull
    that was killed continues where it stopped. `base` is the source of the CLIP, with the recorded digest, whose values
    complete a bundle that holds only masks; the bundle at `out` then has weights. Raises OptionError, HubError,
    BundleError, or SourceError for a wrong base.
    """
    reporter, out = reporter or LOGGED, None if out is None else Path(out)
    ref = hub_ref(source) or parse_ref(source)
    if base is not None and out is None:
        raise OptionError(f"a completed bundle needs a place: --base {base}; add --out")
    if out is not None:
        check_replaceable(out, force=force)
        prepare_parent(out)
    found: Pulled | None
    if out is None or base is not None:
        found = cached_bundle(ref, reporter, hashed=True)
        if found is None:
            raise no_bundle(ref)
    else:
        found = bundle_at(ref, out, reporter, force=force)
    bundle = open_bundle(found.path)
    if out is not None and base is not None:
        if bundle.has(WEIGHTS):
            raise OptionError(f"the bundle has all its weights: {ref}; leave --base out")
        bundle = _completed(bundle, out, base=base, force=force, reporter=reporter)
    return PullResult(
        path=bundle.path,
        repo=ref.repo,
        revision=ref.revision,
        commit=found.commit,
        digest=bundle.digest,
        sparsity=bundle.manifest.achieved_sparsity,
        bytes=bundle.size_bytes,
        fetched_bytes=found.fetched,
        asked=found.asked,
        completed=base is not None,
    )


def _completed(bundle: Bundle, out: Path, *, base: str, force: bool, reporter: Reporter) -> Bundle:
    """Write `bundle` with values at `out`: kept weights and all other tensors of the tower come from `base`.

    Reports are copied only if nothing was trained, since otherwise they were measured on other values. Raises
    SourceError if `base` is not the CLIP that the bundle was cut from.
    """
    # Both import torch.
    from opentrans_cli.steps.sources import base_tower
    from opentrans_cli.steps.step_record import step_record

    manifest = bundle.manifest
    same = untrained(manifest.steps)
    if not same:
        reporter.say("weights were trained after they were pruned, and are not here: kept ones get those of the base")
    documents = [entry.name for entry in manifest.files if same and not entry.name.endswith(".safetensors")]
    whole = with_base(bundle, base_tower(bundle, base, reporter))
    step = step_record("pull", {"base": base}, seed=None, parent=bundle.digest)
    contents = BundleContents(
        base=manifest.base,
        pattern=manifest.pattern,
        target_sparsity=manifest.target_sparsity,
        masks=whole.masks(),
        tower=whole.tower(),
        steps=(*manifest.steps, step),
        dtype=manifest.layers[0].dtype,
        rounds=bundle.rounds(),
        head=bundle.head(),
        segmentor=manifest.segmentor,
        alpha=bundle.alpha() if same else None,
        reports={name: bundle.read(name) for name in documents},
    )
    return write_bundle(out, contents, force=force)
