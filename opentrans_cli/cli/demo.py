"""opentrans demo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentrans_cli.cli.command import Force, Resume, Talk, command
from opentrans_cli.cli.output import plain_table
from opentrans_cli.errors import OptionError
from opentrans_cli.files.figures import human_bytes, human_count, percent
from opentrans_cli.option import Options, option, seed
from opentrans_cli.steps.shared_options import DEVICES

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.demo.demo import DemoResult


@dataclass(frozen=True)
class DemoRequest(Options):
    """What is shown, and where."""

    out: Path = option(Path("opentrans-demo"), also=("-o",), help="new folder for everything that the demo makes")
    full: bool = option(False, help="run long enough for figures to rely on, about ten minutes")
    quick: bool = option(False, help="run the short demo, which is the default")
    sparsity: float = option(0.9, least=0, below=1, also=("-s",), help="share of the prunable weights to remove")
    seed: int = seed()
    device: str = option("cpu", help="device to compute on: auto, cpu, cuda or mps", known=DEVICES)

    def __post_init__(self) -> None:
        """Raises OptionError for a demo that is to be both."""
        super().__post_init__()
        if self.full and self.quick:
            raise OptionError("a demo is short or full: --full with --quick; give one of them")


@command
def demo_command(asked: DemoRequest, resume: Resume, write: Force, talk: Talk) -> None:
    """Run the whole pipeline on the embedded tiny CLIP and its scenes, and compare what pruning and freezing do.

    opentrans demo
    opentrans demo --out try --sparsity 0.8
    """
    length = "ten minutes" if asked.full else "a minute"
    talk.reporter.say(f"the whole method on a tiny CLIP and drawn scenes: about {length} on two cores")
    from opentrans_cli.steps.demo.demo import FULL, SHORT, demo

    result = demo(
        out=asked.out,
        size=FULL if asked.full else SHORT,
        sparsity=asked.sparsity,
        seed=asked.seed,
        device=asked.device,
        force=write.force,
        resume=resume.resume,
        reporter=talk.reporter,
        on_row=lambda row: talk.reporter.say(_line(row)),
    )
    talk.emit(result.to_json(), lambda console: _show(console, result), result.path)


def _line(row: Mapping[str, Any]) -> str:
    """A row as soon as it is measured."""
    seen, unseen = percent(row["miou_seen"]), percent(row["miou_unseen"])
    return f"  mIoU {percent(row['miou'])} %, seen classes {seen}, unseen {unseen}"


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
    title = "the subnet, fine-tuned with a part of its layers frozen"
    freezing = plain_table(title, "frozen", ">all", ">seen", ">unseen", ">training MACs", ">of dense, full")
    for row in result.finetune_rows:
        freezing.add_row(
            str(row["title"]),
            percent(row["miou"]),
            percent(row["miou_seen"]),
            percent(row["miou_unseen"]),
            human_count(row["training_macs"]),
            f"{row['training_macs'] / row['full_training_macs']:.0%}",
        )
    console.print(freezing)
    console.print(f"Everything was measured in this run of {result.seconds:.0f} s. MACs are counted at 96 x 96")
    console.print("without the pruned weights, which dense kernels multiply all the same. Look at")
    console.print(f"  {escape(str(result.path / 'report.html'))}", soft_wrap=True)
    console.print("in a browser; the pictures and every bundle are beside it.")
