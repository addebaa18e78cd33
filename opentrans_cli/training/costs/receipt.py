"""Cost receipt of a training run: the MACs of the run, those of the same run without freezing, and what is saved.

A run has phases, and in each phase one image has one cost: first come steps with nothing frozen, then steps with frozen
layers, whose lowest blocks may be read from a cache instead of computed. The control is full training: the same
segmentor, masks and steps, with nothing frozen and nothing cached. Both have two columns: dense counts zero weights
like any others, as dense kernels do; sparse skips zero weights in the forward pass and in weight gradients, while input
gradients stay dense, as in the paper (OpenTrans, arXiv 2404.07448, supplement, Sec. 6.2). Gradients follow autograd's
rules (see macs.py): frozen first layers have no input gradients. Not counted are a teacher, the text tower, the loss
with its own learned parameters, and the optimizer. All figures are counted, never measured, so the same run has the
same receipt.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opentrans_cli.training.costs.macs import LayerCost

UNIT = "MACs"
TRUNK, HEAD = "trunk", "head"
_TRUNK_PREFIX = "backbone."


@dataclass(frozen=True)
class Columns:
    """MACs by purpose."""

    forward: int = 0
    input_gradient: int = 0
    weight_gradient: int = 0

    @property
    def total(self) -> int:
        """The sum of the three."""
        return self.forward + self.input_gradient + self.weight_gradient

    def __add__(self, other: Columns) -> Columns:
        return Columns(
            self.forward + other.forward,
            self.input_gradient + other.input_gradient,
            self.weight_gradient + other.weight_gradient,
        )

    def times(self, images: int) -> Columns:
        """Return the MACs of `images` images."""
        return Columns(self.forward * images, self.input_gradient * images, self.weight_gradient * images)

    def to_json(self) -> dict[str, int]:
        """As JSON values, with the total."""
        return {
            "forward": self.forward,
            "input_gradient": self.input_gradient,
            "weight_gradient": self.weight_gradient,
            "total": self.total,
        }


def dense(layer: LayerCost) -> Columns:
    """The cost of a layer if zero weights are multiplied too."""
    return Columns(layer.forward, layer.input_gradient, layer.weight_gradient)


def sparse(layer: LayerCost) -> Columns:
    """The cost of a layer if zero weights are skipped, except in input gradients."""
    kept = layer.kept_fraction
    return Columns(round(layer.forward * kept), layer.input_gradient, round(layer.weight_gradient * kept))


Pricing = Callable[[LayerCost], Columns]


def total(layers: Iterable[LayerCost], price: Pricing, part: str | None = None) -> Columns:
    """The total cost of `layers`, or of those in one `part` of the model: TRUNK or HEAD."""
    return sum((price(layer) for layer in layers if part in (None, part_of(layer))), Columns())


_PRICINGS: Mapping[str, Pricing] = {"dense": dense, "sparse": sparse}


@dataclass(frozen=True)
class Cache:
    """Layers whose output is read from the disk."""

    layers: frozenset[str]  # names as in the phase's costs
    views: int  # distinct images, for each of which they run forward once


@dataclass(frozen=True)
class Phase:
    """Steps of a run in which every image costs the same."""

    name: str  # "warm-up": nothing frozen yet; "training"
    steps: int
    images: int  # trained on in these steps
    layers: tuple[LayerCost, ...]  # of one image
    cache: Cache | None = None

    def columns(self, price: Pricing, part: str | None = None) -> Columns:
        """MACs of the phase, for one part of the model or all of it, including those for filling the cache."""
        spent = Columns()
        for layer in self.layers:
            if part in (None, part_of(layer)):
                cached = self.cache is not None and layer.name in self.cache.layers
                images = self.cache.views if self.cache is not None and cached else self.images
                spent += price(layer).times(images)
        return spent

    def to_json(self) -> dict[str, Any]:
        """As the receipt has it."""
        return {
            "name": self.name,
            "steps": self.steps,
            "images": self.images,
            "cached_views": None if self.cache is None else self.cache.views,
            **{column: self.columns(price).to_json() for column, price in _PRICINGS.items()},
        }


@dataclass(frozen=True)
class CounterCheck:
    """MACs of one image by torch's own counter (see flop_check.py), to compare with the formulas' dense column."""

    run: int  # with the layers of the run frozen, nothing cached
    full: int  # with nothing frozen

    def to_json(self, run: Sequence[LayerCost], full: Sequence[LayerCost]) -> dict[str, Any]:
        """As in the receipt; a ratio is the counter's figure divided by the formulas', 1.0 if they agree."""
        pairs = {"run": (self.run, total(run, dense).total), "full": (self.full, total(full, dense).total)}
        return {
            name: {"counter": counter, "formula": formula, "ratio": counter / formula if formula else None}
            for name, (counter, formula) in pairs.items()
        }


@dataclass(frozen=True)
class RunCost:
    """The cost of a whole run and of full training, its control."""

    phases: tuple[Phase, ...]
    full: tuple[LayerCost, ...]  # of one image, nothing frozen
    resolution: tuple[int, int]  # height, width in pixels
    counter: CounterCheck | None = None

    @property
    def images(self) -> int:
        """Images trained on in all phases."""
        return sum(phase.images for phase in self.phases)

    def run(self, price: Pricing = sparse, part: str | None = None) -> Columns:
        """MACs of the run, for one part of the model or all of it."""
        return sum((phase.columns(price, part) for phase in self.phases), Columns())

    def control(self, price: Pricing = sparse, part: str | None = None) -> Columns:
        """MACs of full training, the control."""
        return total(self.full, price, part).times(self.images)

    @property
    def saved(self) -> dict[str, float]:
        """Shares saved, in [0, 1].

        dense and sparse: relative to the control's total in the same column. all: saved by freezing, caching and
        skipped zeros together, relative to ordinary dense training.
        """
        shares = {column: _share(self.run(price), self.control(price)) for column, price in _PRICINGS.items()}
        return {**shares, "all": _share(self.run(sparse), self.control(dense))}

    def to_json(self) -> dict[str, Any]:
        """The counted fields of the cost receipt of `artifacts.schema.json`."""
        run = self.run()
        return {
            "unit": UNIT,
            "forward": run.forward,
            "input_gradient": run.input_gradient,
            "weight_gradient": run.weight_gradient,
            "total": run.total,
            "unmasked_total": self.run(dense).total,
            "dense_total": self.control(dense).total,
            "images": self.images,
            "resolution": list(self.resolution),
            "run": _both(self.run),
            "full": _both(self.control),
            "saved": self.saved,
            "phases": [phase.to_json() for phase in self.phases],
            "parts": [
                {
                    "name": part,
                    "run": _both(lambda price, part=part: self.run(price, part)),  # type: ignore[misc]
                    "full": _both(lambda price, part=part: self.control(price, part)),  # type: ignore[misc]
                }
                for part in (TRUNK, HEAD)
            ],
            "counter": None if self.counter is None else self.counter.to_json(self.phases[-1].layers, self.full),
        }


def phases_of(
    full: Sequence[LayerCost],
    frozen: Sequence[LayerCost],
    *,
    steps: int,
    warmup_steps: int,
    batch_size: int,
    cached: Collection[str] = (),
    views: int = 0,
) -> tuple[Phase, ...]:
    """The phases of a run of `steps`, of which `warmup_steps` have the cost `full` and the others `frozen`.

    cached: modules whose layers are read from a cache after the warm-up, having run once for each of `views` images.
    """
    inside = frozenset(layer.name for layer in frozen if layer.name in set(cached))
    cache = Cache(inside, views) if cached else None
    rest = steps - warmup_steps
    warm_up = Phase("warm-up", warmup_steps, warmup_steps * batch_size, tuple(full))
    training = Phase("training", rest, rest * batch_size, tuple(frozen), cache)
    return (warm_up, training) if warmup_steps else (training,)


def part_of(layer: LayerCost) -> str:
    """`trunk` for layers of the tower, `head` for all others."""
    return TRUNK if layer.name.startswith(_TRUNK_PREFIX) else HEAD


def _both(columns: Callable[[Pricing], Columns]) -> dict[str, dict[str, int]]:
    return {column: columns(price).to_json() for column, price in _PRICINGS.items()}


def _share(run: Columns, control: Columns) -> float:
    return 1 - run.total / control.total if control.total else 0.0
