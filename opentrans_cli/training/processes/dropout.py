"""Dropout that drops the same values of an image whatever the number of processes and of parts of a step. No library
offers this.

The training loop seeds torch's generators before every part of a step, with the same seed in all parts and processes,
and sets the number of the part (`World.part`). Every dropout then generates a seed for each row of the whole batch, in
the order of calls, and uses only those of its own rows: no communication is needed, and nothing is stored for the whole
batch.

The B rows of a step are ordered as in `World.share`: part after part, and in each part by rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from opentrans_cli.errors import OptionError

_DRAWN_ANEW = 2  # number of leading dimensions if channels, not values, are dropped: (B, C)


@dataclass
class BatchRows:
    """The rows of the whole batch that are here now. The training loop sets `part` before each part's forward pass."""

    rank: int
    size: int  # processes
    accumulate: int  # parts of a step, equally long
    part: int = 0  # from 0; not above accumulate - 1

    def kept(self, shape: torch.Size, probability: float, device: torch.device) -> Tensor:
        """Bool `shape` (b, ...) on `device`, True with 1 - `probability`; b is the rows of one part in one process.

        Row i is row (part * size + rank) * b + i of the whole batch. It takes size * accumulate * b numbers from
        torch's CPU generator, so all processes must call it in the same order.
        """
        rows = shape[0]
        seeds = torch.randint(2**63 - 1, (self.accumulate, self.size, rows))[self.part, self.rank].tolist()
        generator = torch.Generator(device)
        kept = torch.empty(shape, dtype=torch.bool, device=device)
        for row, seed in zip(kept, seeds, strict=True):
            row.copy_(torch.rand(row.shape, device=device, generator=generator.manual_seed(seed)) >= probability)
        return kept


class _Shared(nn.modules.dropout._DropoutNd):
    """What the classes below have in common; `rows` is set by `share_dropout`."""

    rows: BatchRows

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, ...) -> the same shape and dtype, scaled by 1 / (1 - p) where it is kept."""
        if not self.training or self.p == 0:
            return inputs
        kept = self.rows.kept(self._drawn(inputs.shape), self.p, inputs.device)
        return inputs * kept * (0.0 if self.p == 1 else 1 / (1 - self.p))

    def _drawn(self, shape: torch.Size) -> torch.Size:
        return shape


class SharedDropout(_Shared):
    """nn.Dropout with random numbers for the whole batch; `inplace` is ignored."""


class SharedDropout2d(_Shared):
    """nn.Dropout2d, for channels of (B, C, H, W), with random numbers for the whole batch; `inplace` is ignored."""

    def _drawn(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:_DRAWN_ANEW], *[1] * (len(shape) - _DRAWN_ANEW)))


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {nn.Dropout: SharedDropout, nn.Dropout2d: SharedDropout2d}
_PLAIN = {shared: plain for plain, shared in _CLASSES.items()}

# Attribute names for the dropout probability in modules of torch, transformers and timm that use no dropout module.
_SHARES = ("p", "prob", "drop_prob", "dropout", "attention_dropout", "activation_dropout", "layerdrop", "attn_drop")


def share_dropout(module: nn.Module, *, rank: int, size: int, accumulate: int = 1) -> BatchRows:
    """Make every nn.Dropout and nn.Dropout2d in `module` use random numbers for the whole batch, in place; hooks and
    names stay. Returns the rows they use: set `part` of it before the forward pass of each part.

    With several processes, raises OptionError naming the first module that drops in another way, before changing
    anything.
    """
    if size > 1:
        for name, part in module.named_modules():
            _require_known(name, part)
    rows = BatchRows(rank, size, accumulate)
    for part in module.modules():
        if type(part) in _CLASSES:
            # A new module in its place would lose the hooks, and references to the old module would no longer work.
            part.__class__ = _CLASSES[type(part)]
        if isinstance(part, _Shared):
            part.rows = rows
    return rows


def own_dropout(module: nn.Module) -> None:
    """Undo `share_dropout`."""
    for part in module.modules():
        if isinstance(part, _Shared):
            part.__class__ = _PLAIN[type(part)]  # type: ignore[assignment]
            del part.rows


def _require_known(name: str, part: nn.Module) -> None:
    if type(part) in _CLASSES or isinstance(part, _Shared):
        return
    shares = {share: getattr(part, share, None) for share in _SHARES}
    # timm passes the probability of an inner nn.Dropout to a function of torch.
    shares["attn_drop"] = getattr(shares["attn_drop"], "p", None)
    if "Drop" not in type(part).__name__:
        del shares["p"], shares["prob"]  # of anything
    found = next((share for share, value in shares.items() if isinstance(value, float) and value > 0), None)
    if found is not None:
        raise OptionError(
            f"dropout that processes cannot share: '{name}' ({type(part).__name__}) drops {shares[found]:g} of its "
            "values by itself; set it to 0, or run in one process"
        )
