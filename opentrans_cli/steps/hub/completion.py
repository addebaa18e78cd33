"""A bundle of masks alone, completed with the values of the base it was cut from."""

from __future__ import annotations

from pathlib import Path

from opentrans_cli.bundle.contents import BundleContents
from opentrans_cli.bundle.rounds import untrained, with_base
from opentrans_cli.bundle.store import Bundle, write_bundle
from opentrans_cli.reporter import Reporter
from opentrans_cli.steps.sources import base_tower
from opentrans_cli.steps.step_record import step_record


def completed(bundle: Bundle, out: Path, *, base: str, force: bool, reporter: Reporter) -> Bundle:
    """Write `bundle` with values at `out`: kept weights, and all other tensors of the tower, are those of `base`.

    What was measured goes along only if nothing was trained, since it was measured on other values else. Raises
    SourceError if `base` is not the CLIP that the bundle was cut from.
    """
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
