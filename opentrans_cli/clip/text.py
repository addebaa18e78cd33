"""Class names to text embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from opentrans_cli.errors import SourceError

DEFAULT_TEMPLATES = ("{}", "the {}", "a photo of the {}")
"""Prompts whose embeddings are averaged for a class name."""


def unread_words(tokenizer: Any, names: Sequence[str], *, read_tokens: Sequence[int]) -> tuple[str, ...]:
    """Those of `names` with a token that is not among `read_tokens`; padding does not count."""
    known = torch.tensor([0, *read_tokens])
    return tuple(name for name in names if not bool(torch.isin(tokenizer([name]), known).all()))


@torch.no_grad()
def text_embeddings(
    model: Any, tokenizer: Any, names: Sequence[str], *, templates: Sequence[str] = DEFAULT_TEMPLATES
) -> Tensor:
    """Text embeddings (N, D) of `names`, float32, rows of length 1.

    Each name is put into every template; the normalised embeddings are averaged and normalised again (Radford et al.
    2021, Sec. 3.1.4). Raises SourceError if the text tower gives no finite embedding.
    """
    prompts = [template.format(name) for name in names for template in templates]
    parts = [model.encode_text(tokenizer(prompts[i : i + 256]), normalize=True) for i in range(0, len(prompts), 256)]
    embeddings = torch.cat(parts).view(len(names), len(templates), -1).mean(1)
    if not torch.isfinite(embeddings).all():
        raise SourceError("text tower gives NaN or infinite embeddings: the base checkpoint; check the weights")
    return F.normalize(embeddings, dim=-1)
