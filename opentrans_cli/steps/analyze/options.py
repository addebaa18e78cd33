"""Options of `analyze`; light, so that `--help` can read them."""

from __future__ import annotations

from dataclasses import dataclass

from opentrans_cli.option import Options, option, seed
from opentrans_cli.spectral.estimators import ESTIMATORS
from opentrans_cli.steps.shared_options import FREEZE

WHICH_LAYERS, STABILITY = "Which layers to freeze", "Stability"


@dataclass(frozen=True)
class AnalyzeOptions(Options):
    """Everything that decides the result of `analyze`, besides the source; recorded in the bundle."""

    # spectra
    estimator: str = option("xmin_peak", help="how the start of the tail is found", choices=ESTIMATORS.names())
    window: str = option(
        "log",
        help="where xmin_peak looks for that start",
        choices={"log": "as published", "linear": "with its lower end mended"},
    )
    include: tuple[str, ...] = option(
        (), help="layers to analyze beside the default ones (glob over whole names, repeatable)", completes="layer"
    )
    exclude: tuple[str, ...] = option(
        (), help="layers to leave out (glob over whole names, repeatable)", completes="layer"
    )
    # which layers to freeze; if no ratio, threshold, top or layer is given: those below the median
    freeze: str = option(
        "heavy", help="layers that fine-tuning freezes", choices=FREEZE, noun="freeze mode", panel=WHICH_LAYERS
    )
    freeze_ratio: float | None = option(
        None, least=0, most=1, help="share of the layers to freeze", unset="those below the median", panel=WHICH_LAYERS
    )
    freeze_threshold: float | None = option(
        None, above=1, help="freeze layers with an alpha below this number; for light, above it", panel=WHICH_LAYERS
    )
    freeze_top: int | None = option(
        None,
        least=0,
        help="number of layers to freeze of those below the median (for light, above it), the costliest to train first",
        panel=WHICH_LAYERS,
    )
    freeze_layer: tuple[str, ...] = option(
        (),
        help="freeze this layer, whatever its alpha (glob over whole names, repeatable)",
        panel=WHICH_LAYERS,
        completes="layer",
    )
    # how stable the decisions are
    bootstrap: int = option(
        0,
        least=0,
        help="resamples of every spectrum, for intervals of 95 % and the stability of decisions; 0 draws none",
        panel=STABILITY,
    )
    null: bool = option(
        False, help="show the alphas of random matrices of the same shape and scale beside them", panel=STABILITY
    )
    seed: int = seed()


@dataclass(frozen=True)
class CostChoice(Options):
    """Which cost of training is counted."""

    frontier: bool = option(
        False, help="show the training cost that each share of frozen layers would save", panel=WHICH_LAYERS
    )
    resolution: int | None = option(
        None, help="side in pixels of the images that cost is counted for", unset="the tower's own", panel=WHICH_LAYERS
    )
