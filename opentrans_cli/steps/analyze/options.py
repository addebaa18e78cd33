"""Options of `analyze`; light, so that `--help` can read them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AnalyzeOptions:
    """Everything that decides the result of `analyze`, besides the source; recorded in the bundle."""

    # spectra
    estimator: str = "xmin_peak"
    window: str = "log"  # xmin_peak: log, as published, or linear, with its lower bound mended
    include: tuple[str, ...] = ()  # globs of layers to analyze beside the default ones
    exclude: tuple[str, ...] = ()  # globs of layers to leave out
    # which layers to freeze; none of ratio, threshold, top: those below the median
    freeze: str = "heavy"  # heavy | light | random | none
    freeze_ratio: float | None = None  # share of the layers
    freeze_threshold: float | None = None  # heavy: alphas below it, light: above
    freeze_top: int | None = None  # of the layers the median allows, so many that save most training
    # trust
    bootstrap: int = 0  # resamples of every spectrum; 0: no interval
    null: bool = False  # compare with random weights of the same shapes and scales
    seed: int = 0
