"""What a bundle must pass before it is published: that a stranger gets what is here, and that its card tells the truth.

A card has no place for a ratio of times; each time on it stands in a report with the machine it was measured on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from opentrans_cli.bundle.card.licenses import License
from opentrans_cli.bundle.manifest import Manifest, Step
from opentrans_cli.bundle.rounds import untrained
from opentrans_cli.bundle.store import Bundle
from opentrans_cli.bundle.verify.verify import Check
from opentrans_cli.errors import BundleError, GateError, OpentransError
from opentrans_cli.steps.hub import reload

NEAR = 1e-4
"""How far, of the largest value, an embedding may be from the same tower's in another process, by the order of sums."""


@dataclass(frozen=True)
class Publication:
    """What is judged."""

    source: Bundle  # as the user named it
    staged: Bundle  # the copy that is sent
    license: License
    evaluations: Mapping[str, Mapping[str, Any]]  # eval report by file name: the figures on the card
    cost: Mapping[str, Any] | None  # the receipt of the fine-tuning whose cost is on the card
    benchmarks: frozenset[str]  # data sets whose figures go to a leaderboard
    dense: Path | None  # the folder that open_clip loads, if it is sent as well


def refusal(repo: str, failed: Sequence[Check]) -> GateError:
    """The error for a bundle that did not pass these points; `repo` is where it was to go."""
    names = ", ".join(check.name for check in failed)
    return GateError(
        f"not fit to be published: hf://{repo} ({names}); mend that, or say why not on the card, with --no-gate",
        (f"gate, {check.name}: {check.detail}" for check in failed),
    )


def gate_points(subject: Publication) -> tuple[Check, ...]:
    """Every point of the gate with its verdict; none keeps the others from being judged."""
    return tuple(_points(subject))


def _points(subject: Publication) -> Iterator[Check]:
    try:
        facts = reload.reload_afresh(subject.staged.path, subject.dense)
    except (RuntimeError, OSError, ValueError) as error:
        facts = None
        yield Check("reload", False, f"a fresh interpreter cannot read it, {error}; report this as a bug")
    if facts is not None:
        yield _attempt("reload", lambda: _reload(facts["failed"]))
        yield _attempt("hash", lambda: _hash(subject.staged, facts["digest"]))
        yield _attempt("parity", lambda: _parity(subject, facts))
    yield _attempt("license", lambda: _license(subject.license))
    yield _attempt("figures", lambda: _figures(subject))
    yield _attempt("times", lambda: _times(subject.evaluations))


def _attempt(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except OpentransError as error:
        return Check(name, False, str(error))


def _reload(failed: Sequence[str]) -> str:
    if failed:
        raise BundleError(f"laws are broken after reading it again, {'; '.join(failed)}")
    return "read again in a fresh interpreter, every law of the format holds"


def _hash(staged: Bundle, digest: str) -> str:
    if digest != staged.digest:
        raise BundleError(f"digest is another one after reading it again: {digest}, not {staged.digest}; run it again")
    return f"same digest, {digest[:19]}"


def _parity(subject: Publication, facts: Mapping[str, Any]) -> str:
    found = {"embedding": facts["embedding"], "dense": facts["dense"]}
    there = {name: np.asarray(values) for name, values in found.items() if values is not None}
    if not there:
        return "masks alone, their values are those of the base: nothing to compare"
    expected = np.asarray(reload.tower_embedding(subject.source))
    largest = float(np.abs(expected).max())
    worst = 0.0
    for name, values in there.items():
        what = "the tower read again" if name == "embedding" else "the tower that open_clip loads"
        if values.shape != expected.shape or not np.isfinite(values).all():
            raise BundleError(f"{what} gives another kind of embedding, {values.shape} values; write the bundle again")
        worst = max(worst, float(np.abs(values - expected).max()))
        if not worst <= NEAR * largest:
            raise BundleError(
                f"{what} gives another embedding: {worst:.1e} apart, the largest value is {largest:.3g}; "
                "write the bundle again"
            )
    return f"{' and '.join(there)} within {worst:.1e} of the tower here, the largest value is {largest:.3g}"


def _license(found: License) -> str:
    if found.known:
        return found.id if found.name is None else f"{found.name}, {found.link}"
    told = "no license is named" if found.name is None else f"neither the Hub nor SPDX knows {found.name!r}"
    raise BundleError(
        f"{told}; pass --license apache-2.0, mit, ... or --license other with --license-name and --license-link"
    )


def _figures(subject: Publication) -> str:
    measured = {name: _measurement(subject, report) for name, report in subject.evaluations.items()}
    foreign = [name for name, step in measured.items() if step is None]
    if foreign:
        raise BundleError(f"not measured on this bundle: {', '.join(foreign)}; run `opentrans eval` on it again")
    parts = [name for name, step in measured.items() if step and _is_part(subject, subject.evaluations[name], step)]
    if parts:
        raise BundleError(
            f"measured on a part of the benchmark: {', '.join(parts)}; run `opentrans eval` without --limit on photos "
            "of which none is left out, or leave --benchmark out"
        )
    steps = subject.staged.manifest.steps
    cost = subject.cost
    if cost is not None and not any(
        step.verb == "finetune" and step.metrics.get("training_macs") == cost["total"] for step in steps
    ):
        raise BundleError("cost of a fine-tuning that the history does not have: reports/finetune.json; train it again")
    count = len(subject.evaluations)
    return f"{count} evaluations, each measured on this bundle" if count else "no evaluation on the card"


def _is_part(subject: Publication, report: Mapping[str, Any], step: Step) -> bool:
    """Whether a figure for a leaderboard was measured on some of the photos alone."""
    for_leaderboard = "at_sparsity" not in report and report["dataset"] in subject.benchmarks
    return for_leaderboard and bool(step.options.get("limit") or report.get("skipped"))


def _measurement(subject: Publication, report: Mapping[str, Any]) -> Step | None:
    """The step of the history that measured the report's figures, on the very values that are published."""
    manifest = subject.staged.manifest
    own = {subject.staged.digest} | _same_values(manifest)
    return next(
        (
            step
            for step in reversed(manifest.steps)
            if step.verb == "eval"
            and step.parent in own
            and step.options.get("dataset") == report["dataset"]
            and step.options.get("at_sparsity") == report.get("at_sparsity")
            and step.metrics.get("miou") == report["miou"]
            and step.metrics.get("images") == report["images"]
        ),
        None,
    )


def _same_values(manifest: Manifest) -> set[str | None]:
    """Digests of bundles whose tower this one has too, although values were left out or put back since.

    Left-out values come back from the base, so that holds where nothing was trained.
    """
    if not untrained(manifest.steps):
        return set()
    found: set[str | None] = set()
    for step in reversed(manifest.steps):
        if step.verb in ("push", "pull"):
            found.add(step.parent)
        elif step.verb not in ("analyze", "eval"):
            break
    return found


def _times(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    for name, report in evaluations.items():
        seconds, place = report["seconds_per_image"], report["environment"]
        device = place.get("processor" if place.get("device") == "cpu" else "device")
        if not (isfinite(seconds) and seconds > 0 and report["images"] > 0 and device):
            raise BundleError(
                f"time without a measurement: {name}, {seconds} s on {device!r}; run `opentrans eval` again"
            )
    count = len(evaluations)
    return f"{count} times, each measured on a machine that is named" if count else "no time on the card"
