"""A bundle without values: its masks and measurements. It can be shared where weights cannot."""

from __future__ import annotations

from pathlib import Path

from opentrans_cli.bundle import layout
from opentrans_cli.bundle.contents import BundleContents
from opentrans_cli.bundle.manifest import Step
from opentrans_cli.bundle.store import Bundle, write_bundle
from opentrans_cli.version import __version__

EIGENVALUES = "eigenvalues."
"""Start of the names of whole spectra in `alpha.safetensors`, beside its columns."""

_LOG = "reports/prune.json"  # has an entry for every step, so a long training makes it large


def write_mask_only(bundle: Bundle, folder: Path) -> Bundle:
    """Writes the masks of `bundle` into the empty `folder`, with its exponents and the figures of its reports.

    Left out: weights, rounds, segmentor, whole spectra, pictures and the log of pruning. The history gains a step
    that names `bundle` as its parent; the same bundle gives the same bytes. Raises BundleError for a damaged bundle.
    """
    manifest, alpha = bundle.manifest, bundle.alpha()
    step = Step("push", {"mask_only": True}, None, {"opentrans": __version__}, None, bundle.digest, {})
    if alpha is not None:
        alpha = {name: array for name, array in alpha[0].items() if not name.startswith(EIGENVALUES)}, alpha[1]
    contents = BundleContents(
        base=manifest.base,
        pattern=manifest.pattern,
        target_sparsity=manifest.target_sparsity,
        masks=bundle.masks(),
        tower={},
        steps=(*manifest.steps, step),
        dtype=manifest.layers[0].dtype,
        alpha=alpha,
        reports={file.name: bundle.read(file.name) for file in manifest.files if _is_figures(file.name)},
    )
    return write_bundle(folder, contents, force=True)


def is_mask_only(bundle: Bundle) -> bool:
    """Whether the bundle holds nothing that `write_mask_only` would leave out."""
    others = [file.name for file in bundle.manifest.files if file.name not in (layout.MASK, layout.ALPHA)]
    return all(map(_is_figures, others)) and bundle.manifest.segmentor is None


def _is_figures(name: str) -> bool:
    return name.endswith(".json") and name != _LOG
