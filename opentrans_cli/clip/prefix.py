"""The prefix of a ModifiedResNet tower: its lowest blocks, whose outputs can be stored and used instead of computed.

A frozen prefix always gives the same features for the same pixels, and no gradient enters it. Shapes: B images, C
channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from opentrans_cli.clip.features import STAGES, require_resnet
from opentrans_cli.errors import SourceError, did_you_mean

STEM = "stem"
"""The block of the three first convolutions."""

_STEM_PARTS = ("conv1", "bn1", "act1", "conv2", "bn2", "act2", "conv3", "bn3", "act3", "avgpool")


def blocks(visual: nn.Module) -> tuple[str, ...]:
    """Names of all blocks in the order of use: "stem", "layer1.0", ... Raises SourceError for other towers."""
    require_resnet(visual)
    return (STEM, *(f"{stage}.{index}" for stage in STAGES for index in range(len(_stage(visual, stage)))))


def blocks_until(visual: nn.Module, end: str) -> tuple[str, ...]:
    """The first ones of `blocks`, up to and including `end`. Raises SourceError for a block the tower does not have."""
    found = blocks(visual)
    if end not in found:
        raise SourceError(
            f"no such block in this tower: '{end}'; choose one of {', '.join(found)}{did_you_mean(end, found)}"
        )
    return found[: found.index(end) + 1]


def block_of(layer: str) -> str | None:
    """The block that contains a layer of a ModifiedResNet; None for the attention pool, which is not in a block."""
    first, *rest = layer.split(".")
    if first in STAGES:
        return f"{first}.{rest[0]}"
    return STEM if first in _STEM_PARTS and not rest else None


def modules_until(visual: nn.Module, end: str) -> tuple[str, ...]:
    """Names of all modules with tensors of their own in the blocks up to and including `end`, in module order.

    Raises SourceError for a block the tower does not have.
    """
    inside = set(blocks_until(visual, end))
    return tuple(
        name
        for name, part in visual.named_modules()
        if (part._parameters or part._buffers) and name and block_of(name) in inside
    )


def outputs(visual: nn.Module, images: Tensor, end: str) -> tuple[Tensor, ...]:
    """The outputs of the prefix: of each whole stage before `end`, and last that of `end` itself.

    `images`: normalised (B, 3, H, W), any H and W of at least 32. Each output is (B, C, h, w). Raises SourceError for a
    block the tower does not have.
    """
    prefix = blocks_until(visual, end)
    x: Tensor = visual.stem(images)  # type: ignore[operator]
    found = []
    for name in prefix[1:]:
        x = visual.get_submodule(name)(x)
        if name != end and _ends_stage(visual, name):
            found.append(x)
    return (*found, x)


@contextmanager
def replay(visual: nn.Module, end: str, features: Sequence[Tensor]) -> Iterator[None]:
    """Inside the `with` block, the tower's blocks up to `end` compute nothing and return `features` from `outputs`.

    Calls of the whole tower, of its stages, or through a wrapper give the same tensors as before; modules and names do
    not change. The images passed inside the block do not matter. Raises SourceError for a block the tower does not
    have, ValueError if the number of features differs from what `outputs` gives.
    """
    prefix = blocks_until(visual, end)
    giving = [name for name in prefix if name == end or (name != STEM and _ends_stage(visual, name))]
    given = dict(zip(giving, features, strict=True))
    with ExitStack() as stack:
        for part in _STEM_PARTS[:-1]:
            stack.enter_context(_forward_is(visual.get_submodule(part), _pass_on))
        for name in prefix:
            last = visual.get_submodule(_STEM_PARTS[-1] if name == STEM else name)
            stack.enter_context(_forward_is(last, _giving(given[name]) if name in given else _pass_on))
        yield


def _ends_stage(visual: nn.Module, block: str) -> bool:
    stage, _, index = block.partition(".")
    return int(index) == len(_stage(visual, stage)) - 1


def _stage(visual: nn.Module, name: str) -> Any:
    return getattr(visual, name)


def _pass_on(x: Tensor) -> Tensor:
    return x


def _giving(feature: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: feature


@contextmanager
def _forward_is(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    # An attribute of the instance is found before the method of its class, whatever class or hooks the module has.
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before
