"""What a bundle is, from its manifest and headers. No torch is loaded; no tensors are read, except rounds on demand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from opentrans_cli.bundle.hub.remote import open_remote
from opentrans_cli.bundle.hub.source import bundle_folder, find_repo, hub_ref, local_bundle, no_bundle
from opentrans_cli.bundle.layout import WEIGHTS
from opentrans_cli.bundle.rounds import RoundInfo, at_round, available, find_round
from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.reporter import LOGGED, Reporter


@dataclass(frozen=True)
class LayerSummary:
    """One prunable layer."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # dtype in which its kept values are stored
    kept: int
    total: int
    sparsity: float  # removed / total, in [0, 1]


@dataclass(frozen=True)
class InspectResult:
    """An overview of a bundle."""

    path: str
    digest: str  # "sha256:<hex>" of base and tensors; measuring does not change it
    source: str  # of the dense base
    architecture: str
    activation: str
    base_digest: str
    pattern: str
    target_sparsity: float
    achieved_sparsity: float
    kept: int
    total: int
    has_weights: bool  # False: only masks, which need the base
    framework: str | None  # framework of the segmentor; None if the bundle is not fine-tuned
    layers: tuple[LayerSummary, ...]
    steps: tuple[str, ...]  # verbs, oldest first
    files: dict[str, int]  # name -> bytes
    size_bytes: int  # all files and the manifest
    rounds: tuple[RoundInfo, ...]  # sparsities that can be taken out, the bundle's own last
    at_sparsity: float | None  # sparsity, counts and layers are those of this round; None: the bundle as it is


def inspect(source: str | Path, *, at_sparsity: float | None = None, reporter: Reporter | None = None) -> InspectResult:
    """Read the manifest of the bundle `source` and check that its files are there.

    For hf://org/name[@revision] the headers of tensor files are read too, in ranges. `at_sparsity` shows an
    earlier round, whose masks are read and counted; for that a bundle of the Hub is pulled into the cache. Raises
    BundleError, HubError, or OptionError if there is no such round.
    """
    bundle = _opened(source, pulled=at_sparsity is not None, reporter=reporter or LOGGED)
    rounds = available(bundle)
    shown = bundle if at_sparsity is None else at_round(bundle, find_round(bundle, at_sparsity), target=at_sparsity)
    manifest = shown.manifest
    layers = tuple(LayerSummary(**vars(layer), sparsity=1 - layer.kept / layer.total) for layer in manifest.layers)
    return InspectResult(
        path=str(source),
        digest=bundle.digest,
        source=manifest.base.source,
        architecture=manifest.base.architecture,
        activation=manifest.base.activation,
        base_digest=manifest.base.digest,
        pattern=manifest.pattern,
        target_sparsity=manifest.target_sparsity,
        achieved_sparsity=manifest.achieved_sparsity,
        kept=manifest.kept,
        total=manifest.total,
        has_weights=bundle.has(WEIGHTS),
        framework=manifest.segmentor.framework if manifest.segmentor else None,
        layers=layers,
        steps=tuple(step.verb for step in manifest.steps),
        files={entry.name: entry.bytes for entry in manifest.files},
        size_bytes=bundle.size_bytes,
        rounds=rounds,
        at_sparsity=at_sparsity,
    )


def _opened(path: Path | str, *, pulled: bool, reporter: Reporter) -> Bundle:
    ref = hub_ref(path)
    if ref is None:
        return open_bundle(path)
    if pulled:
        return open_bundle(local_bundle(path, reporter))
    repo, _ = find_repo(ref, reporter)
    folder = bundle_folder(ref, repo.commit)
    found = open_bundle(folder) if folder.is_dir() else open_remote(repo)
    if found is None:
        raise no_bundle(ref)
    return found
