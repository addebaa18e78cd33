"""One global threshold over all layers, any weight may go (OpenTrans, arXiv 2404.07448, Alg. 1)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from opentrans_cli.errors import MaskError, OptionError


def unstructured_masks(
    scores: Mapping[str, Tensor], sparsity: float, *, inside: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Masks (bool, True = kept) with exactly round(sparsity * total) weights removed, lowest scores first.

    `scores` are floats by layer, any shapes; each mask has its layer's shape and device. total counts the
    weights of all layers, and round is Python's, so 0.5 goes to the even number (as in
    torch.nn.utils.prune). `sparsity` is in [0, 1). `inside` are the masks of the previous round: what they
    removed stays removed and counts. Among equal scores the later layer goes first, and within a layer the
    later flat index; masks of growing sparsity are therefore nested.
    Holds one copy of all scores at a time, two while it is put together (94 MB each for the 23.5 M float32
    weights of RN50).
    Raises OptionError for a sparsity out of range or below that of `inside`, MaskError for NaN scores or
    masks in `inside` that do not match.
    """
    if not 0 <= sparsity < 1:
        raise OptionError(f"sparsity out of range: {sparsity}; choose a number from 0 to just below 1")
    masks = _previous(scores, inside)
    total = sum(mask.numel() for mask in masks.values())
    kept = sum(int(mask.sum()) for mask in masks.values())
    surplus = round(sparsity * total) - (total - kept)
    if surplus < 0:
        raise OptionError(
            f"sparsity below what is already pruned: {sparsity}; ask for at least {(total - kept) / total:.6f}"
        )
    if surplus:
        _remove(scores, masks, surplus)
    return masks


def _previous(scores: Mapping[str, Tensor], inside: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Fresh contiguous masks to cut from: those of the previous round, or all True."""
    masks = {}
    for layer, score in scores.items():
        if bool(score.isnan().any()):
            raise MaskError(f"importance is NaN: {layer}; check the weights it was computed from")
        if inside is None:
            masks[layer] = torch.ones(score.shape, dtype=torch.bool, device=score.device)
            continue
        if layer not in inside:
            raise MaskError(f"no mask of the previous round: {layer}; give one for every scored layer")
        if inside[layer].shape != score.shape:
            raise MaskError(
                f"mask and scores differ in shape: {layer}, "
                f"{tuple(inside[layer].shape)} and {tuple(score.shape)}; "
                "use the masks of the same architecture"
            )
        masks[layer] = inside[layer].to(score.device, torch.bool).clone(memory_format=torch.contiguous_format)
    return masks


def _remove(scores: Mapping[str, Tensor], masks: dict[str, Tensor], surplus: int) -> None:
    """Clear the `surplus` lowest-scored entries of `masks` in place; 1 <= surplus <= entries still kept."""
    pool = torch.cat([_comparable(score[masks[layer]]) for layer, score in scores.items()]).numpy()
    # Selection in place: a sort, or torch.kthvalue with its indices, would need several times the memory.
    pool.partition(surplus - 1)
    # One dtype for all layers, because a threshold rounded to a narrower one would change the count.
    threshold = torch.tensor(pool[surplus - 1])
    ties: dict[str, Tensor] = {}
    for layer, score in scores.items():
        level = threshold.to(score.device)
        wide = score.to(level.dtype)
        ties[layer] = (masks[layer] & (wide == level)).flatten().nonzero().flatten()
        below = masks[layer] & (wide < level)
        surplus -= int(below.sum())
        masks[layer] &= ~below
    for layer in reversed(ties):
        last = ties[layer][max(0, len(ties[layer]) - surplus) :]
        masks[layer].view(-1)[last] = False
        surplus -= len(last)


def _comparable(score: Tensor) -> Tensor:
    """Scores on the CPU in a dtype that numpy knows: float64 stays, everything narrower becomes float32."""
    return score.detach().to("cpu", torch.promote_types(score.dtype, torch.float32))
