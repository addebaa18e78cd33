"""opentrans demo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from opentrans_cli.cli.command import Force, Talk, command
from opentrans_cli.cli.output import human_bytes, human_count, percent, plain_table
from opentrans_cli.option import Options, option, seed

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.demo.demo import DemoResult


@dataclass(frozen=True)
class DemoRequest(Options):
    """What is shown, and where."""

    out: Path = option(Path("opentrans-demo"), also=("-o",), help="new folder for everything that the demo makes")
    quick: bool = option(False, help="fewer steps, which show that everything runs and no more")
    sparsity: float = option(0.9, least=0, below=1, also=("-s",), help="share of the prunable weights to remove")
    seed: int = seed()
    device: str = option("cpu", help="device to compute on: auto, cpu, cuda or mps")


@command
def demo_command(asked: DemoRequest, write: Force, talk: Talk) -> None:
    """Run the whole pipeline on the embedded tiny CLIP and its scenes, and compare what pruning and freezing do.

    opentrans demo
    opentrans demo --out try --sparsity 0.8
    """
    from opentrans_cli.steps.demo.demo import FULL, QUICK, demo

    result = demo(
        out=asked.out,
        size=QUICK if asked.quick else FULL,
        sparsity=asked.sparsity,
        seed=asked.seed,
        device=asked.device,
        force=write.force,
        reporter=talk.reporter,
    )
    talk.emit(result.to_json(), lambda console: _show(console, result), result.path)


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
