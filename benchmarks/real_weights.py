"""Alphas of really trained weights beside those of random weights of the same shapes and scales.

    python benchmarks/real_weights.py --weights DIR > benchmarks/results/DATE-real-weights.md

Every file in DIR is analyzed as it is, by every estimator, with `--null`. A layer "beats chance" if its alpha lies
outside the range that its five random matrices got.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from statistics import median

import torch

from opentrans_cli.spectral.estimators import ESTIMATORS
from opentrans_cli.steps.analyze.analyze import analyze
from opentrans_cli.steps.analyze.options import AnalyzeOptions
from opentrans_cli.steps.analyze.result import AnalyzeResult
from opentrans_cli.steps.step_record import environment

RESAMPLES = 100


def finite(values: list[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def quartiles(values: list[float]) -> str:
    """ "lowest / lower quartile / median / upper quartile / highest"."""
    ordered = sorted(values)
    places = (0, len(ordered) // 4, len(ordered) // 2, 3 * len(ordered) // 4, len(ordered) - 1)
    return " / ".join(f"{ordered[place]:.2f}" for place in places)


def row(file: Path, estimator: str) -> str:
    options = AnalyzeOptions(estimator=estimator, null=True, bootstrap=RESAMPLES)
    result = analyze(str(file), **vars(options))
    nulls = {layer.name: layer.stability.null for layer in result.layers if layer.stability and layer.stability.null}
    alphas = {layer.name: layer.alpha for layer in result.layers}
    fitted = [name for name in nulls if math.isfinite(alphas[name])]
    outside = sum(not nulls[name][0] <= alphas[name] <= nulls[name][-1] for name in fitted)
    verdicts = [layer.verdict for layer in result.layers]
    cells = (
        file.name,
        estimator,
        str(len(alphas)),
        quartiles(finite(list(alphas.values()))),
        f"{median(finite([nulls[name][len(nulls[name]) // 2] for name in nulls])):.2f}",
        f"{outside} of {len(fitted)}",
        ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in sorted(set(verdicts))),
        f"{result.unstable}",
    )
    return f"| {' | '.join(cells)} |"


def every_layer(result: AnalyzeResult) -> None:
    print(f"\n## {Path(result.source).name}, {result.report.estimator}, every layer\n")
    print("| layer | shape | alpha | standard error | KS distance | tail | decision | verdict |\n|" + "---|" * 8)
    for layer in result.layers:
        shape = " x ".join(map(str, layer.shape))
        numbers = f"{layer.fit.alpha:.2f} | {layer.fit.standard_error:.2f} | {layer.fit.ks_distance:.3f}"
        tail = f"{layer.fit.tail_size}/{len(layer.eigenvalues)}"
        print(f"| `{layer.name}` | {shape} | {numbers} | {tail} | {layer.decision} | {layer.verdict} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", type=Path, required=True, help="folder of checkpoint files")
    folder = parser.parse_args().weights
    torch.set_num_threads(2)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    print(f"# Alphas of trained weights, {time.strftime('%Y-%m-%d')}\n\n{environment(torch.device('cpu'))}\n")
    print(
        "| file | estimator | layers | alpha: lowest / quartiles / highest | random weights, median | beats chance | "
        "verdicts | unstable decisions |\n|" + "---|" * 8
    )
    for file in files:
        for estimator in ESTIMATORS.names():
            print(row(file, estimator), flush=True)
    for file in files:
        every_layer(analyze(str(file)))


if __name__ == "__main__":
    main()
