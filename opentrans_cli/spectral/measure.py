"""Spectra of the layers of a source, several at a time; each weight is read once and then released."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from numpy.typing import NDArray

from opentrans_cli.errors import SpectrumError
from opentrans_cli.reporter import SILENT, Reporter
from opentrans_cli.spectral.esd import log_norm, spectrum, stable_rank
from opentrans_cli.spectral.estimators import Estimator
from opentrans_cli.spectral.power_law import verdict
from opentrans_cli.spectral.report import PROBLEMS, LayerAlpha

T = TypeVar("T")
U = TypeVar("U")

Read = Callable[[str], NDArray[Any]]
"""Layer -> its weight, (O, I, kh, kw) or (O, I); called from several threads."""


def measure(
    names: Sequence[str],
    read: Read,
    fit: Estimator,
    *,
    others: Mapping[str, Estimator] | None = None,
    title: str = "spectra",
    reporter: Reporter = SILENT,
) -> tuple[LayerAlpha, ...]:
    """Spectra of the layers `names` and their fits, in their order; nothing is decided yet.

    others: further estimators by name, whose alphas are stored too. Raises SpectrumError, naming the layer.

    Peak memory beyond the spectra: a layer's weight and Gram matrices in float64 for every thread.
    """
    rules = dict(others or {})
    found = []
    with reporter.bar(title, len(names)) as advance:
        for layer in in_threads(lambda name: _measure(name, read, fit, rules), names):
            found.append(layer)
            advance(layer.name)
    return tuple(found)


def _measure(name: str, read: Read, fit: Estimator, others: Mapping[str, Estimator]) -> LayerAlpha:
    try:
        weight = read(name)
        found = spectrum(weight)
    except SpectrumError as error:
        raise SpectrumError(f"{error}: layer {name}; repair or replace the checkpoint") from error
    values = found.eigenvalues
    own = fit(values)
    layer = LayerAlpha(
        name=name,
        fit=own,
        verdict=verdict(values, own, found.spread, found.excess),
        eigenvalues=values,
        shape=tuple(weight.shape),
        scale=found.scale,
        stable_rank=stable_rank(values),
        log_norm=log_norm(values),
    )
    # A spectrum that is not fit for one estimator is not fit for any.
    usable = layer.verdict not in PROBLEMS
    return replace(layer, others={rule: other(values).alpha if usable else math.inf for rule, other in others.items()})


def in_threads(work: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """Results of `work`, in the order of `items`; as many run at a time as numpy has threads, each on one thread.

    A layer is too small for LAPACK to use several threads well, and layers are independent. With one thread per layer,
    figures do not depend on the number of threads.
    """
    from threadpoolctl import ThreadpoolController

    blas = ThreadpoolController().select(user_api="blas")
    threads = max((library["num_threads"] for library in blas.info()), default=1)
    with blas.limit(limits=1):
        if threads == 1:
            yield from map(work, items)
            return
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(work, items)
