"""check: whether photos, label maps and classes fit together, before anything expensive starts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from opentrans_cli.datasets.folder import class_list
from opentrans_cli.datasets.pairs import pair_pictures
from opentrans_cli.datasets.picture_source import is_shards
from opentrans_cli.datasets.scan import Facts, scan
from opentrans_cli.files.atomic import staged_folder
from opentrans_cli.files.records import json_bytes
from opentrans_cli.files.targets import check_folder_target, prepare_parent
from opentrans_cli.reporter import LOGGED, Reporter
from opentrans_cli.steps.by_name import by_name, on_processor, takes
from opentrans_cli.steps.check.drawing import chosen, drawn
from opentrans_cli.steps.check.files import about_files, short_name
from opentrans_cli.steps.check.findings import LEVELS, Finding
from opentrans_cli.steps.check.ids import DataClasses, Ids, about_ids
from opentrans_cli.steps.check.options import CheckOptions

REPORT = "check.json"
SKIPPED = ("unreadable", "small", "size")
"""Kinds of findings about files that `--skip-bad` leaves out."""


@dataclass(frozen=True)
class IdShare:
    """How much of the label maps an id fills."""

    id: int
    name: str | None  # None = no class
    share: float  # of all pixels, in [0, 1]
    label_maps: int  # that have it
    void: bool  # pixels of this id are not labelled


@dataclass(frozen=True)
class CheckResult:
    """Whether the data can work, and why."""

    path: Path | None  # the folder of samples
    ok: bool  # no finding is a fault
    pairs: int
    sizes: dict[str, int]  # "320x240" -> photos, the most frequent first
    ids: tuple[IdShare, ...]  # all classes in their order, then the other ids
    ignore: tuple[int, ...]  # ids of unlabelled pixels
    suggested_ignore: tuple[int, ...] | None  # None: what is ignored will do
    findings: tuple[Finding, ...]  # faults, then warnings, then notes
    samples: tuple[str, ...]  # pictures in the folder

    def to_json(self) -> dict[str, Any]:
        """The check report of `artifacts.schema.json`."""
        return {**asdict(self), "path": None if self.path is None else str(self.path)}


@takes(CheckOptions)
def check(
    images: str | Path,
    labels: str | Path,
    classes: str | Path,
    *,
    out: str | Path | None = None,
    device: str = "auto",
    force: bool = False,
    reporter: Reporter | None = None,
    **given: Any,
) -> CheckResult:
    """Say whether photos, label maps and classes fit together: every file is read, and what is wrong is named.

    images, labels: folders of photos and of their label maps. classes: the class file. out: new folder for samples, all
    that is written. Options: the fields of `CheckOptions`. Raises DataError where there is nothing to look at: no
    photos, no label maps, no class file.
    """
    options: CheckOptions
    named = {"images": images, "labels": labels, "classes": classes}
    (options,) = by_name("check", {**given, **named}, CheckOptions)
    on_processor("check", device)
    reporter = reporter or LOGGED
    out = None if out is None else Path(out)
    if out is not None:
        check_folder_target(out, force=force, foreign=_foreign)
        prepare_parent(out)
    known = DataClasses.of(class_list(options, options.classes), options.ignore)
    inside = options.labels == options.images and is_shards(options.images)
    folder = None if inside else options.labels
    pairing = pair_pictures(
        options.images,
        folder,
        image_suffix=options.image_suffix,
        label_suffix=options.label_suffix,
        split=options.split_list,
    )
    pairs = pairing.pairs[: options.limit]
    facts = scan(pairs, "everything", reporter=reporter)
    ids = Ids.of([(short_name(each.pair.label_map, folder), each.pixels) for each in facts], known)
    about, suggested = about_ids(ids, known)
    findings = [*about_files(pairing, facts, options.images, folder), *about]
    if options.skip_bad:
        findings = [replace(each, level="warning") if each.kind in SKIPPED else each for each in findings]
    told = {name for each in findings for name in each.names}
    about_them = {
        pair for pair in pairs if {short_name(pair.photo, options.images), short_name(pair.label_map, folder)} & told
    }
    shown = [each.pair for each in chosen(facts, about_them)] if out is not None else []
    samples = {f"{number}-{pair.name.replace('/', '-')[-80:]}.png": pair for number, pair in enumerate(shown, start=1)}
    result = CheckResult(
        path=out,
        ok=not any(each.level == "fault" for each in findings),
        pairs=len(pairs),
        sizes=_sizes(facts),
        ids=_shares(ids, known),
        ignore=known.void,
        suggested_ignore=suggested,
        findings=tuple(sorted(findings, key=lambda each: LEVELS.index(each.level))),
        samples=tuple(samples),
    )
    if out is not None:
        with staged_folder(out, replace=force) as staged:
            for name, pair in samples.items():
                (staged / name).write_bytes(drawn(pair, known))
            (staged / REPORT).write_bytes(json_bytes(result.to_json()))
    return result


def _sizes(facts: Sequence[Facts]) -> dict[str, int]:
    counted = Counter("{}x{}".format(*each.photo.upright) for each in facts if each.photo is not None)
    return dict(counted.most_common())


def _shares(ids: Ids, classes: DataClasses) -> tuple[IdShare, ...]:
    named = dict(zip(classes.ids, classes.names, strict=True))
    rows = [*classes.ids, *sorted(ids.pixels.keys() - named.keys())]
    return tuple(
        IdShare(number, named.get(number), round(ids.share(number), 6), ids.spread(number), number in classes.void)
        for number in rows
    )


def _foreign(out: Path) -> set[str]:
    """The files in a folder that no earlier run has written."""
    there = {path.name for path in out.iterdir()}
    try:
        return there - {REPORT, *json.loads((out / REPORT).read_text(encoding="utf-8"))["samples"]}
    except (OSError, ValueError, LookupError, TypeError):
        return there
