"""Options of `analyze`; light, so that `--help` can read them."""

from __future__ import annotations

from dataclasses import dataclass

from opentrans_cli.option import Options, option, seed
from opentrans_cli.spectral.estimators import ESTIMATORS
from opentrans_cli.steps.shared_options import FREEZE

_FREEZE, _TRUST = "Which layers to freeze", "Trust"


@dataclass(frozen=True)
class AnalyzeOptions(Options):
    """Everything that decides the result of `analyze`, besides the source; recorded in the bundle."""

    # spectra
    estimator: str = option("xmin_peak", help="how the start of the tail is found", choices=ESTIMATORS.names())
    window: str = option(
        "log",
        help="of xmin_peak: where it looks for that start",
        choices={"log": "as published", "linear": "with its lower end mended; finetune takes no such report"},
    )
    include: tuple[str, ...] = option(
        (), help="layers to analyze beside the default ones (glob over whole names, repeatable)"
    )
    exclude: tuple[str, ...] = option((), help="layers to leave out (glob over whole names, repeatable)")
    # which layers to freeze; none of ratio, threshold, top: those below the median
    freeze: str = option(
        "heavy", help="layers that fine-tuning would freeze", choices=FREEZE, noun="freeze mode", panel=_FREEZE
    )
    freeze_ratio: float | None = option(
        None, least=0, most=1, help="share of the layers to freeze", unset="those below the median", panel=_FREEZE
    )
    freeze_threshold: float | None = option(
        None, above=1, help="freeze every alpha below this number, for light above it", panel=_FREEZE
    )
    freeze_top: int | None = option(
        None,
        least=0,
        help="freeze so many of those below the median (light: above), the costliest to train first",
        panel=_FREEZE,
    )
    # trust
    bootstrap: int = option(
        0,
        least=0,
        help="resamples of every spectrum, for intervals of 95 % and the stability of decisions; take 100 or more",
        panel=_TRUST,
    )
    null: bool = option(
        False, help="put the alphas of random matrices of the same shape and scale beside", panel=_TRUST
    )
    seed: int = seed()
