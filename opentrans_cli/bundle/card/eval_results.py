"""Figures for the leaderboards of the Hub: `.eval_results/*.yaml` (huggingface.co/docs/hub/eval-results).

An entry names a dataset of the Hub that is registered as a benchmark, one of its tasks, and a value. Which benchmark a
folder of photos is cannot be told from its files, so the publisher names it; nothing is guessed. `model-index` in the
card has no such demand, and holds every figure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from opentrans_cli.errors import OptionError

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_BENCHMARK = re.compile(rf"(?P<id>{_PART}/{_PART}):(?P<task>[A-Za-z0-9_.-]+)(?:@(?P<revision>[0-9a-f]{{40}}))?")
EMBEDDED = "shapes"
"""The data set inside the package, which is no benchmark of the Hub."""


@dataclass(frozen=True)
class Benchmark:
    """A task of a benchmark on the Hub."""

    dataset_id: str  # "org/name"
    task_id: str  # of the dataset's eval.yaml
    revision: str | None  # commit of the dataset


def benchmarks_of(named: Mapping[str, str]) -> dict[str, Benchmark]:
    """Data set of an eval report -> benchmark, from "org/name:task" or "org/name:task@commit".

    Raises OptionError for another form, and for the embedded data set.
    """
    found = {}
    for dataset, text in named.items():
        match = _BENCHMARK.fullmatch(text)
        if match is None:
            raise OptionError(
                f"not a benchmark of the Hub: --benchmark {dataset}={text[:200]}; write {dataset}=ORG/NAME:TASK, "
                "or ORG/NAME:TASK@COMMIT"
            )
        if dataset == EMBEDDED:
            raise OptionError(f"the embedded data set is no benchmark: --benchmark {dataset}={text}; leave it out")
        found[dataset] = Benchmark(match["id"], match["task"], match["revision"])
    return found


def render_eval_results(
    evaluations: Iterable[Mapping[str, Any]], benchmarks: Mapping[str, Benchmark], *, repo: str
) -> bytes:
    """The YAML document with one entry for each benchmark, whose value is the mIoU in percent.

    evaluations: eval reports of `artifacts.schema.json`, of which only those of the bundle as it is are taken, not of
    an earlier round. repo: "org/name" of the model, for the link to the report. Raises OptionError if a benchmark has
    no report, or one without an mIoU.
    """
    reports = {report["dataset"]: report for report in evaluations if "at_sparsity" not in report}
    missing = sorted(set(benchmarks) - set(reports))
    if missing:
        there = ", ".join(sorted(reports)) or "none"
        raise OptionError(f"no report of this data set: --benchmark {missing[0]}=...; the bundle has those of {there}")
    from huggingface_hub import eval_result_entries_to_yaml, utils

    entries = [_entry(reports[name], name, at, repo) for name, at in sorted(benchmarks.items())]
    hub: Any = utils  # its writer of YAML is public, but not declared
    text: str = hub.yaml_dump(eval_result_entries_to_yaml(entries))
    return text.encode()


def _entry(report: Mapping[str, Any], name: str, at: Benchmark, repo: str) -> Any:
    from huggingface_hub import EvalResultEntry

    if report["miou"] is None:
        raise OptionError(f"nothing was measured: the report of {name!r} has no mIoU; leave --benchmark {name}=... out")
    return EvalResultEntry(
        dataset_id=at.dataset_id,
        task_id=at.task_id,
        dataset_revision=at.revision,
        value=round(100 * report["miou"], 4),
        source_url=f"https://huggingface.co/{repo}/blob/main/reports/eval-{name}.json",
        source_name="Report of opentrans eval",
        notes=f"mIoU in percent over {report['classes']} classes, {report['images']} images, {report['framework']}",
    )
