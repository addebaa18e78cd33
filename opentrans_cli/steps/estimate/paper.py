"""`finetune --estimate --accounting paper`: the four settings of the paper's Tables 2 and 4 for a run.

OpenTrans, arXiv 2404.07448, supplement, Sec. 6.2. As there, warm-up steps, teacher and text
tower are left out. For Han et al. on RN50 at 512 x 512 pixels the published figures are used for the head, and for
all parts of the trunk that are not convolutions, since the tool that counted them misses some operations of both.
Everything else is counted here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from opentrans_cli.errors import OptionError
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.frameworks.base import BACKBONE
from opentrans_cli.steps.finetune.options import FinetuneOptions
from opentrans_cli.steps.segmentors.built import BuiltSegmentor
from opentrans_cli.training.costs.macs import LayerCost
from opentrans_cli.training.costs.paper import HEAD_MACS, KEPT, SIZE, TRUNK_MACS, paper_settings
from opentrans_cli.training.costs.receipt import HEAD, TRUNK, part_of

PETA = 1e15

Chooser = Callable[[str], tuple[str, ...]]
"""A freeze mode, heavy or light -> layers inside the segmentor."""

_OTHER = "other"
_PUBLISHED = "thop on the published modules, arXiv 2404.07448"
_COUNTED = "counted here"


@dataclass(frozen=True)
class Input:
    """A number that the accounting starts from."""

    name: str
    value: float
    unit: str
    source: str

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {"name": self.name, "value": self.value, "unit": self.unit, "source": self.source}


@dataclass(frozen=True)
class PaperEstimate:
    """Training costs by setting; see accounting.paper_settings."""

    images: int  # images trained on after the warm-up
    macs: dict[str, int]
    inputs: tuple[Input, ...]

    @property
    def pmacs(self) -> dict[str, float]:
        """In 1e15."""
        return {setting: macs / PETA for setting, macs in self.macs.items()}


def paper_estimate(
    built: BuiltSegmentor,
    layers: tuple[LayerCost, ...],
    options: FinetuneOptions,
    *,
    crop: int,
    published_trunk: bool,
    choose: Chooser,
) -> PaperEstimate:
    """The paper's settings for the run of `options`.

    layers: cost of one image with nothing frozen. published_trunk: whether the trunk is that of the paper. choose:
    gives the layers to freeze. Raises OptionError for a framework whose trunk is never trained, which the paper does
    not count.
    """
    if built.framework.frozen_trunk:
        raise OptionError(
            f"the paper counts no training around a frozen tower: {built.framework.name}; use --accounting exact"
        )
    trunk = {layer.name.removeprefix(BACKBONE): layer.forward for layer in layers if part_of(layer) == TRUNK}
    head = sum(layer.forward for layer in layers if part_of(layer) == HEAD)
    published = published_trunk and _as_published(built, crop)
    if published:
        trunk[_OTHER], head = TRUNK_MACS - sum(trunk.values()), HEAD_MACS
    kept = _kept(built, trunk)
    frozen, opposite = (_inside(choose(mode), trunk) for mode in ("heavy", "light"))
    images = (options.steps - options.warmup_steps) * options.batch_size
    settings = paper_settings(trunk, frozen=frozen, opposite=opposite, kept=kept, head=head, images=images)
    source = _PUBLISHED if published else _COUNTED
    share = sum(kept.get(name, 1.0) * macs for name, macs in trunk.items()) / sum(trunk.values())
    inputs = (
        Input(TRUNK, sum(trunk.values()), "MACs of a forward pass", source),
        Input(HEAD, head, "MACs of a forward pass", source),
        Input("kept", share, "share of the trunk's MACs", "the paper" if built.tower.bundle is None else "the bundle"),
    )
    return PaperEstimate(images, {name: columns.total for name, columns in settings.items()}, inputs)


def _as_published(built: BuiltSegmentor, crop: int) -> bool:
    han = built.framework.name == "han" and built.options == FRAMEWORKS.load("han").options({})
    return han and (crop, crop) == SIZE


def _kept(built: BuiltSegmentor, trunk: dict[str, int]) -> dict[str, float]:
    """Kept fraction by layer: that of the bundle; without a bundle the paper's for the whole trunk."""
    if built.tower.bundle is None:
        return dict.fromkeys(trunk, KEPT)
    return {layer.removeprefix(BACKBONE): share for layer, share in built.kept_shares().items()}


def _inside(layers: tuple[str, ...], trunk: dict[str, int]) -> list[str]:
    """Layers of the trunk that run, with their names inside the trunk."""
    names = [layer.removeprefix(BACKBONE) for layer in layers if layer.startswith(BACKBONE)]
    return [name for name in names if name in trunk]
