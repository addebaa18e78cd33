"""What `finetune` prints for people: a run, an estimate, a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentrans_cli.cli.output import human_count, plain_table

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.finetune import FinetuneResult


def run(console: Console, *, result: FinetuneResult) -> None:
    """One line on the bundle, one on what it cost, one on the log."""
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
            f"beside full training, timed in turn: {timing['run']:.3f} s to {timing['full']:.3f} s a step, "
            f"ratio {timing['ratio']:.2f}",
            soft_wrap=True,
        )
    console.print(f"log {escape(str(result.log))}", soft_wrap=True)


def recipe(console: Console, *, document: dict[str, Any]) -> None:
    """Every option with its value and where that is from."""
    title = f"recipe {document['recipe']}" if document["recipe"] else "no recipe: the defaults"
    table = plain_table(title, "option", "value", "from")
    for name, row in document["options"].items():
        if name != "recipe":
            table.add_row(f"--{name.replace('_', '-')}", _value(row["value"]), row["from"])
    console.print(table)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(f"{part:g}" for part in value)
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
