"""Two classifications of one mask into one: FC-CLIP's geometric ensemble. Shapes: B images, Q masks, C classes.

Yu et al. 2023, arXiv 2308.02487, Sec. 3.3, and the published code for what the paper leaves out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_SMALLEST = 1e-8  # added to a probability before its logarithm, as published


def geometric_ensemble(
    learned: Tensor, clip: Tensor, *, seen: Sequence[bool], alpha: float, beta: float, trusted: Tensor | None = None
) -> Tensor:
    """Log-probabilities (B, Q, C + 1), the last of no object. `learned`: logits alike; `clip`: logits (B, Q, C).

    p_learned ^ (1 - w) x p_clip ^ w, normalised over the classes, where w is `alpha` for classes that training
    labelled (`seen`, C) and `beta` for others, in [0, 1]. Whether there is an object is what `learned` says.
    `trusted`: bool (B, Q); where false, `clip` is left out, whatever it holds.
    """
    weights = torch.tensor([alpha if known else beta for known in seen], dtype=learned.dtype, device=learned.device)
    inside = learned[..., :-1].log_softmax(-1)
    outside = clip.log_softmax(-1)
    if trusted is not None:
        outside = torch.where(trusted[..., None], outside, inside)
    # Sums of logarithms instead of products: the latter vanish for sharp scales, and 0 times -inf is no number.
    mixed = torch.lerp(inside, outside, weights)
    nothing = learned.softmax(-1)[..., -1:]
    return torch.log(torch.cat([mixed.softmax(-1) * (1 - nothing), nothing], -1) + _SMALLEST)
