"""A run of prune or finetune, from its log: losses, learning rate, scores by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opentrans_cli.files.figures import percent
from opentrans_cli.pictures.page import Page, PageCell, PageChart
from opentrans_cli.pictures.svg_lines import MOST_POINTS, DrawnLine, line_chart, line_key
from opentrans_cli.steps.report.exhibit import Exhibit
from opentrans_cli.steps.report.sections.facts import plain_facts, told

_MOST_ROWS = 12
_SCORES = {"miou": "mIoU", "miou_seen": "seen", "miou_unseen": "unseen"}
_OF_LINES = ("event", "step", "options", "cost", "environment", "timing")  # told elsewhere, or too long

Steps = Sequence[Mapping[str, Any]]


def training_section(page: Page, exhibit: Exhibit) -> None:
    """The curves of the run, some of its steps as numbers, and what else happened."""
    lines = exhibit.document
    steps = [{**line, **_mapping(line.get("terms"))} for line in lines if line["event"] == "step"]
    losses_charts(page, steps)
    scored = [line for line in lines if line["event"] == "evaluation"]
    drawn = [DrawnLine(label, [(x, 100 * y) for x, y in _points(scored, name)]) for name, label in _SCORES.items()]
    if drawn := [line for line in drawn if line.points]:
        chart = line_chart(drawn, x="step", y="mIoU, %")
        page.charts([PageChart(chart, "mIoU on held-out images, %", line_key(drawn))])
        page.table(
            ["step", *(f"{label}, %" for label in _SCORES.values())],
            [[f"{line['step']:,}", *(_percent(line.get(name)) for name in _SCORES)] for line in scored],
        )
    page.table(
        ["event", "step", "what"],
        [
            [line["event"], f"{line['step']:,}", _in_words(line)]
            for line in lines
            if line["event"] not in ("step", "evaluation")
        ],
        texts=(2,),
    )


def losses_charts(page: Page, steps: Steps) -> None:
    """Charts of the losses and the learning rate by step, and a table of some steps; nothing where none was taken."""
    names = [name for name in ("loss", *_terms(steps)) if _points(steps, name)]
    if not names:
        return
    losses = [DrawnLine(name, _points(steps, name)) for name in names]
    # The terms add up to the loss: where there is one alone, its line is the same.
    if len(losses) == 2:
        losses.pop()
    mean = -(-len(steps) // MOST_POINTS)
    caption = "loss" if mean == 1 else f"loss, each point the mean of {mean} steps"
    charts = [PageChart(line_chart(losses, x="step", y="loss"), caption, line_key(losses))]
    if rates := _points(steps, "lr"):
        charts.append(
            PageChart(line_chart([DrawnLine("learning rate", rates)], x="step", y="learning rate"), "learning rate")
        )
    page.charts(charts)
    steps_table(page, steps, [line.label for line in losses] + ["lr"] * bool(rates))


def steps_table(page: Page, steps: Steps, names: Sequence[str]) -> None:
    """The figures `names` of the first, the last and some steps between them at equal distances."""
    shown = [name for name in names if _points(steps, name)]
    places = sorted({round(n * (len(steps) - 1) / max(1, _MOST_ROWS - 1)) for n in range(_MOST_ROWS)})
    rows: list[list[PageCell]] = [
        [f"{steps[place]['step']:,}", *(_figure(steps[place].get(name)) for name in shown)] for place in places
    ]
    page.table(["step", *(name.replace("_", " ") for name in shown)], rows)
    if len(places) < len(steps):
        page.note(f"{len(places)} of {len(steps):,} steps, at equal distances.")


def _terms(steps: Steps) -> list[str]:
    """What a step has beside its usual figures: the terms of its loss."""
    usual = {"event", "step", "loss", "lr", "terms", "grad_norm", "seconds"}
    return sorted({name for step in steps for name, value in step.items() if type(value) in (int, float)} - usual)


def _points(steps: Steps, name: str) -> list[tuple[float, float]]:
    return [(step["step"], step[name]) for step in steps if type(step.get(name)) in (int, float)]


def _figure(value: object) -> str:
    return f"{value:.4g}" if type(value) in (int, float) else "-"


def _percent(value: object) -> str:
    return percent(value) if isinstance(value, int | float) else "-"


def _in_words(line: Mapping[str, Any]) -> str:
    return "; ".join(f"{name} {value}" for name, value in plain_facts(line, without=_OF_LINES).items()) or told(None)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
