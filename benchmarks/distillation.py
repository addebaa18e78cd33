"""How to spend a fixed number of distillation steps: in the rounds, or after the last one?

    python benchmarks/distillation.py > benchmarks/results/DATE-distillation.md

Prunes the tiny CLIP to 90 % with the same 704 steps, spread in different ways, and scores each subnet without training
(MaskCLIP read-out on held-out scenes). One seed.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from opentrans_cli.steps.eval.evaluate import evaluate
from opentrans_cli.steps.prune.options import PruneOptions
from opentrans_cli.steps.prune.prune import prune
from opentrans_cli.steps.step_record import environment

TOTAL = 704
# rate of a round, rounds it takes to 90 %, steps in each round but the last
SPREADS = ((0.1, 22, 32), (0.1, 22, 24), (0.1, 22, 16), (0.1, 22, 8), (0.1, 22, 2), (0.44, 4, 88), (0.9, 1, 0))


def main() -> None:
    print(
        f"# Spreading {TOTAL} distillation steps, {time.strftime('%Y-%m-%d')}\n\n{environment(torch.device('cpu'))}\n"
    )
    print(
        "| rounds | steps in each but the last | in the last | lr | final loss | mIoU, % |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for rate, rounds, steps in SPREADS:
            for lr in (1e-3, 3e-3):
                options = PruneOptions(
                    "tiny",
                    criterion="magnitude",
                    images="shapes",
                    rate=rate,
                    steps_per_round=max(1, steps),
                    final_steps=TOTAL - (rounds - 1) * steps,
                    lr=lr,
                )
                out = Path(folder) / f"{rate}-{steps}-{lr}"
                result = prune(**vars(options), out=out, device="cpu")
                assert result.rounds == rounds
                report = evaluate(str(out), split="val", limit=100, device="cpu").report
                print(
                    f"| {rounds} | {steps if rounds > 1 else '-'} | {options.final_steps} | {lr:g} "
                    f"| {result.distillation_loss:.4f} | {100 * report['miou']:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
