"""opentrans prune."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from opentrans_cli.cli.command import Force, Resume, Talk, Typed, command
from opentrans_cli.cli.output import plain_table
from opentrans_cli.files.figures import human_bytes, human_count
from opentrans_cli.option import Options, option
from opentrans_cli.steps.prune.options import PruneControls, PruneOptions, prune_options
from opentrans_cli.steps.shared_options import Machine

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.prune.plan import PrunePlan
    from opentrans_cli.steps.prune.prune import PruneResult


@dataclass(frozen=True)
class PruneRequest(Options):
    """What is asked for besides the options that decide the result."""

    out: Path | None = option(None, also=("-o",), help="new bundle", unset="SOURCE-sPERCENT, here")
    recipe: str | None = option(
        None,
        help="named set of values for other options; typed options win; both sets need images",
        choices={"paper": "magnitude, text-guided, 5000 steps in each round", "fast": "fisher, one cut"},
    )
    dry_run: bool = option(False, help="list layers, counts and rounds; write nothing")


@command
def prune_command(
    given: Typed[PruneOptions],
    asked: PruneRequest,
    controls: PruneControls,
    machine: Machine,
    resume: Resume,
    write: Force,
    talk: Talk,
) -> None:
    """Remove the least important weights of a CLIP image encoder and write the subnet as a bundle.

    opentrans prune tiny --sparsity 0.9 --images shapes --out subnet
    opentrans prune RN50-quickgelu:openai -s 0.9 --images photos --out subnet
    opentrans prune RN50-quickgelu:openai --pattern 2:4 --dry-run
    """
    if asked.dry_run:
        from opentrans_cli.steps.prune.plan import plan

        options, _ = prune_options(given.pop("source", PruneOptions.source), asked.recipe, given)
        made = plan(options, reporter=talk.reporter)
        talk.emit(made.to_json(), lambda console: _show_plan(console, made))
        return
    from opentrans_cli.steps.prune.prune import prune

    given |= {**vars(controls), **vars(machine), **vars(resume), **vars(write)}
    result = prune(**given, recipe=asked.recipe, out=asked.out, reporter=talk.reporter)
    talk.emit(result.to_json(), lambda console: _show(console, result), result.path)


def _show(console: Console, result: PruneResult) -> None:
    from rich.markup import escape

    console.print(
        f"[bold]{escape(str(result.path))}[/]  sparsity {result.sparsity:.4f} by {result.criterion}, "
        f"{human_count(result.kept)} of {human_count(result.total)} weights kept, {human_bytes(result.bytes)}",
        soft_wrap=True,
    )


def _show_plan(console: Console, plan: PrunePlan) -> None:
    document = plan.to_json()
    pruned = [layer for layer in plan.layers if layer["pruned"]]
    title = f"{len(pruned)} of {len(plan.layers)} layers, {plan.total:,} weights, {plan.pattern.name}, {plan.criterion}"
    table = plain_table(title, "layer", ">shape", ">weights", "left dense")
    for layer in plan.layers:
        shape = " x ".join(map(str, layer["shape"]))
        table.add_row(layer["name"], shape, f"{layer['total']:,}", layer["reason"] or "")
    console.print(table)
    rounds = plain_table("", ">round", ">sparsity", ">kept")
    for row in document["rounds"]:
        rounds.add_row(str(row["round"]), f"{row['sparsity']:.4f}", f"{row['kept']:,}")
    console.print(rounds)
