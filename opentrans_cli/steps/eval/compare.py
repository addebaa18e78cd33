"""eval --compare: the reports of several evaluations as one table. Nothing is computed, and no torch is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentrans_cli.errors import OptionError
from opentrans_cli.files.atomic import write_file
from opentrans_cli.files.targets import check_file_target, prepare_parent
from opentrans_cli.reporter import LOGGED, Reporter
from opentrans_cli.steps.eval.found_reports import evaluations
from opentrans_cli.steps.eval.published_scores import published_scores
from opentrans_cli.steps.eval.score_table import ScoreTable, score_table
from opentrans_cli.steps.eval.score_table_files import check_table_file, table_bytes


@dataclass(frozen=True)
class CompareResult:
    """One comparison."""

    path: Path | None  # the file it was written to
    table: ScoreTable

    def to_json(self) -> dict[str, Any]:
        """The document of `--json`, `score_table` in artifacts.schema.json."""
        return self.table.to_json()


def compare(
    source: str | Path | Sequence[str | Path] = (),
    *,
    out: str | Path | None = None,
    force: bool = False,
    reporter: Reporter | None = None,
    published: bool = False,
) -> CompareResult:
    """Put what `evaluate` reported of several segmentors into one table, data sets as columns.

    source: bundles, folders that hold bundles or reports, and files of reports, one or a sequence; none with
    `published`, which adds the rows of the paper and of FC-CLIP's README, marked as such. out: a file .md, .csv, .tex
    or .json. Figures of one column that were not measured by the same protocol have notes that say where it differs;
    the best of a column is marked among those that agree.

    Raises OptionError, DataError for a source without a report, BundleError for one that cannot be read, HubError or
    OutputError.
    """
    sources = (source,) if isinstance(source, str | Path) else tuple(source)
    if not sources and not published:
        raise OptionError("nothing to compare: no source is named; name bundles, run folders or reports of eval")
    out = None if out is None else Path(out)
    if out is not None:
        check_table_file(out)
        check_file_target(out, force=force)
    found = evaluations(sources, reporter or LOGGED)
    table = score_table(found, published_scores() if published else None)
    if out is not None:
        prepare_parent(out)
        write_file(out, [table_bytes(table, out.suffix)])
    return CompareResult(out, table)
