"""What the history of a bundle claims, as far as it can be proved: parents by their digests, frozen tensors by bits."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from opentrans_cli.bundle import layout
from opentrans_cli.bundle.folder import file_path
from opentrans_cli.bundle.manifest import Manifest
from opentrans_cli.bundle.schema import read_report
from opentrans_cli.bundle.store import Bundle
from opentrans_cli.errors import BundleError

MEASURES = ("analyze", "eval")
"""Verbs that add a measurement and leave the digest as it is."""

WARMUP_STEPS = "warmup_steps"
"""Option of `finetune`: steps before layers were frozen, in which they still learned."""

FROZEN_TENSORS = "frozen_tensors"
"""Field of the cost receipt: tensor of the tower -> SHA-256 of its bytes in `weights.safetensors`."""


def check_steps(manifest: Manifest) -> str:
    """How the bundle came to be. That all steps but the first name a parent is a law of the manifest itself."""
    verbs = " -> ".join(step.verb for step in manifest.steps)
    return f"{len(manifest.steps)} steps: {verbs}" if verbs else "no steps recorded"


def check_parents(bundle: Bundle) -> str:
    """BundleError unless the parents agree with each other and with the bundle, where either can be known.

    A measurement does not change the digest: the next step has the same parent, and what a last measurement names is
    this bundle itself.
    """
    steps = bundle.manifest.steps
    after = [*(step.parent for step in steps[1:]), bundle.digest][: len(steps)]  # no steps, nothing to compare
    for number, (step, digest) in enumerate(zip(steps, after, strict=True), start=1):
        if step.verb in MEASURES and step.parent is not None and step.parent != digest:
            raise BundleError(
                f"history is broken: step {number} ({step.verb}) measured {step.parent}, what follows has {digest}; "
                "take the bundle from where it was made"
            )
    for number, (before, step) in enumerate(pairwise(steps), start=2):
        if step.parent == before.parent and before.verb not in MEASURES:
            raise BundleError(
                f"history is broken: step {number} ({step.verb}) starts where step {number - 1} ({before.verb}) did; "
                "take the bundle from where it was made"
            )
    named = len({step.parent for step in steps} - {None})
    known = sum(1 for step in steps if step.parent == bundle.digest)
    return f"{named} digests agree, {known} of {len(steps)} steps measured this bundle itself"


def frozen_hashes(folder: Path, manifest: Manifest) -> dict[str, str] | None:
    """What the receipt of fine-tuning says of its frozen tensors, {} if it has no hashes, None without a receipt.

    Raises BundleError for a receipt that cannot be read.
    """
    entry = manifest.file(layout.FINETUNE_REPORT)
    if entry is None:
        return None
    path = file_path(folder, entry)
    document = read_report(path)
    given = document.get(FROZEN_TENSORS, {}) if isinstance(document, dict) else {}
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise BundleError(f"receipt is not valid: {str(path)!r}, {FROZEN_TENSORS}; write or download the bundle again")
    return given


def check_frozen(recorded: Mapping[str, str] | None, found: Mapping[str, str]) -> str:
    """BundleError unless every frozen tensor is stored as the receipt says."""
    if not recorded:
        return "the receipt names no frozen tensor"
    for name, sha in recorded.items():
        if found.get(name) != sha:
            raise BundleError(f"frozen tensor is not the one of the receipt: {name!r}; take the bundle from its source")
    return f"{len(recorded)} frozen tensors as the receipt says"


def parent_facts(child: Bundle, parent: Bundle, own: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """What proves that `parent` is a step of the history of `child`.

    own, theirs: hashes of the tensors that were frozen in the child's last step, as far as either stores them. Raises
    BundleError if it is none, or if something that must not have changed has.
    """
    digest, steps = parent.digest, child.manifest.steps
    number = next((number for number, step in enumerate(steps) if step.parent == digest), None)
    where = repr(str(parent.path))
    if number is None:
        named = ", ".join(dict.fromkeys(step.parent for step in steps if step.parent)) or "none"
        raise BundleError(f"not a parent of this bundle: {where} has digest {digest}; recorded are {named}")
    if parent.manifest.base.digest != child.manifest.base.digest or parent.manifest.steps[:number] != steps[:number]:
        raise BundleError(f"parent has another history: {where} before step {number + 1}; give the bundle it came from")
    facts = f"{digest}, from which step {number + 1} ({steps[number].verb}) started"
    changed = [step for step in steps if step.verb not in MEASURES]
    if not own or changed[-1].parent != digest:
        return facts
    if changed[-1].options.get(WARMUP_STEPS):
        return f"{facts}; layers were frozen after a warm-up that changed them"
    if not theirs:
        return f"{facts}; it holds masks alone, so frozen tensors cannot be compared"
    moved = [name for name, sha in own.items() if theirs.get(name) != sha]
    if moved:
        raise BundleError(f"frozen tensor changed since its parent: {moved[0]!r} in {where}; do not trust the bundle")
    return f"{facts}; {len(own)} frozen tensors are bit-identical"
