"""opentrans demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opentrans_cli.cli import options as o
from opentrans_cli.cli.output import ConsoleReporter, emit, human_bytes, human_count, percent, plain_table

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.demo.demo import DemoResult


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for everything the demo makes.")] = Path(
        "opentrans-demo"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer steps: under two minutes on two cores.")] = False,
    sparsity: Annotated[float, typer.Option("--sparsity", "-s", help="Share of weights to remove.")] = 0.9,
    seed: o.SeedOpt = 0,
    device: o.DeviceOpt = "cpu",
    force: o.ForceOpt = False,
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
) -> None:
    """Run the whole pipeline on the embedded tiny CLIP and its scenes, and compare what pruning and freezing do."""
    from opentrans_cli.steps.demo.demo import FULL, QUICK
    from opentrans_cli.steps.demo.demo import demo as step

    size, say = QUICK if quick else FULL, ConsoleReporter(quiet=quiet)
    result = step(out=out, size=size, sparsity=sparsity, seed=seed, device=device, force=force, reporter=say)
    emit(result.to_json(), lambda console: _show(console, result), as_json=as_json, path=result.path, quiet=quiet)


def _show(console: Console, result: DemoResult) -> None:
    from rich.markup import escape

    title = "mIoU of the segmentor after fine-tuning, %"
    rows = plain_table(title, "tower", ">all", ">seen", ">unseen", ">weights kept", ">MACs", ">size")
    for row in result.rows:
        rows.add_row(
            str(row["name"]),
            percent(row["miou"]),
            percent(row["miou_seen"]),
            percent(row["miou_unseen"]),
            human_count(row["params_kept"]),
            human_count(row["macs"]),
            human_bytes(row["bundle_bytes"]),
        )
    console.print(rows)
    title = "the subnet, fine-tuned with half of its layers frozen"
    freezing = plain_table(title, "frozen", ">all", ">seen", ">unseen", ">training MACs")
    for row in result.finetune_rows:
        freezing.add_row(
            str(row["title"]),
            percent(row["miou"]),
            percent(row["miou_seen"]),
            percent(row["miou_unseen"]),
            human_count(row["training_macs"]),
        )
    console.print(freezing)
    console.print(f"Everything was measured in this run of {result.seconds:.0f} s. MACs are counted at 96 x 96")
    console.print("without the pruned weights, which dense kernels multiply all the same. Look at:")
    for name in ("overview.png", "density.png", "alpha.png", "report.json"):
        console.print(f"  {escape(str(result.path / name))}", soft_wrap=True)
