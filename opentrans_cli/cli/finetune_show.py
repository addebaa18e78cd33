"""What `finetune` prints for people: a run, an estimate, a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentrans_cli.cli.output import plain_table
from opentrans_cli.errors import flag
from opentrans_cli.files.figures import human_count, percent

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.estimate.estimate import Estimate
    from opentrans_cli.steps.finetune.finetune import FinetuneResult


def show_run(console: Console, *, result: FinetuneResult) -> None:
    """Print one line each about the bundle, its cost and the log."""
    from rich.markup import escape

    cost = result.cost
    saved = 1 - cost["total"] / cost["dense_total"]
    console.print(f"[bold]{escape(str(result.path))}[/]  loss {result.loss:.3f}", soft_wrap=True)
    console.print(
        f"training cost {human_count(cost['total'])}MACs counted, {100 * saved:.1f} % less than dense "
        f"({len(cost['frozen_layers'])} layers frozen); measured {result.seconds_per_step:.3f} s a step",
        soft_wrap=True,
    )
    if result.timing is not None:
        timing = result.timing
        console.print(
            f"beside full training, timed in turn: {timing['run_seconds']:.3f} s to {timing['full_seconds']:.3f} s a "
            f"step, {timing['ratio']:.2f} of it in the median pair",
            soft_wrap=True,
        )
    console.print(f"log {escape(str(result.log))}", soft_wrap=True)


def show_estimate(console: Console, *, counted: Estimate) -> None:
    """Print what a run would cost, by part and column, or by the settings of the paper."""
    from rich.markup import escape

    o, size = counted.options, counted.classes.crop
    images = (o.steps - o.warmup_steps if counted.paper else o.steps) * o.batch_size
    console.print(
        f"[bold]{counted.framework}[/] on {escape(counted.architecture)}: {images:,} crops of {size} x {size}, "
        f"{counted.classes.count} classes ({escape(counted.classes.origin)}), "
        f"{len(counted.frozen.layers)} layers frozen ({escape(counted.frozen.origin)})",
        soft_wrap=True,
    )
    if counted.paper is not None:
        _show_paper(console, counted.to_json())
    elif counted.cost is not None:
        _show_exact(console, counted.cost.to_json())


def _show_exact(console: Console, cost: dict[str, Any]) -> None:
    pruned = cost["full"]["sparse"] != cost["full"]["dense"]
    columns = {"dense": "zeros multiplied", "sparse": "zeros skipped"} if pruned else {"dense": ""}
    table = plain_table("MACs of the run and of full training", "", "", ">run", ">full", ">saved, %")
    for name, part in [*((part["name"], part) for part in cost["parts"]), ("all", cost)]:
        for column, title in columns.items():
            ours, full = part["run"][column]["total"], part["full"][column]["total"]
            saved = percent(1 - ours / full) if full else "-"
            table.add_row(name, title, human_count(ours), human_count(full), saved)
    console.print(table)
    if pruned:
        console.print(f"against full training of the dense model: {percent(cost['saved']['all'])} % saved")


def _show_paper(console: Console, document: dict[str, Any]) -> None:
    table = plain_table("as the paper counts", "setting", ">PMACs", ">saved, %")
    full = document["macs"]["full"]
    for name, pmacs in document["pmacs"].items():
        table.add_row(name, f"{pmacs:.1f}", percent(1 - document["macs"][name] / full))
    console.print(table)
    for given in document["inputs"]:
        value = human_count(given["value"]) if given["unit"].startswith("MACs") else f"{given['value']:.3g} "
        console.print(f"{given['name']}: {value}{given['unit']}, {given['source']}", soft_wrap=True)


def show_recipe(console: Console, *, document: dict[str, Any]) -> None:
    """Print every option with its value and the origin of the value."""
    title = f"recipe {document['recipe']}" if document["recipe"] else "no recipe: the defaults"
    table = plain_table(title, "option", "value", "from")
    for name, row in document["options"].items():
        if name != "recipe":
            table.add_row(flag(name), _value(row["value"]), row["from"])
    console.print(table)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(f"{part:g}" for part in value)
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
