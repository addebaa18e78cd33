"""What a framework is. Shapes: B images, S texts (synonyms), C classes, H W pixels, D embedding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from opentrans_cli.frameworks.keys import KeyMatch, KeyRule, map_keys
from opentrans_cli.frameworks.options import parse_options


class Segmentor(Protocol):
    """What every built framework promises; it is an nn.Module as well."""

    backbone: nn.Module  # the tower; layer names inside it are those of CLIP's visual tower
    classifier: nn.Module  # what comes after `embed`: embeddings (B, D, h, w), text (S, D) -> scores (B, S, h, w)

    def __call__(self, images: Tensor, text: Tensor) -> Tensor:
        """Scores (B, S, H, W), float32, larger = better, at the size of the images.

        `images`: normalised (B, 3, H, W), any H and W of at least 32. `text`: (S, D), rows of length 1.
        """
        ...

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings (B, D, h, w) in the space of the text, of any length, on the framework's own grid."""
        ...


@dataclass(frozen=True)
class Framework:
    """One target of a transfer: its tensor names, its options, and how it is built around a tower."""

    name: str
    backbone_prefix: str  # where the tower stands in a checkpoint, with the dot
    trainable: bool  # whether there is anything to learn besides the tower
    options_type: type[Any]  # frozen dataclass; every field has a default
    key_table: Callable[[Any], tuple[KeyRule, ...]]  # options -> rules; the first match wins, all must match
    builder: Callable[[nn.Module, Any], nn.Module]  # tower, options -> segmentor

    def options(self, given: Mapping[str, Any] | None = None) -> Any:
        """Options from names and values (text is converted); the rest keep their defaults.

        Raises OptionError naming the option that is unknown or whose value does not fit.
        """
        return parse_options(self.options_type, given or {}, owner=self.name)

    def build(self, visual: nn.Module, options: Any = None) -> nn.Module:
        """A Segmentor around `visual`, which becomes its `backbone` and is changed in place: pass a copy.

        `options`: an `options_type`, a mapping as for `options()`, or None for the defaults. Raises
        SourceError if the tower is of a kind the framework cannot use.
        """
        return self.builder(visual, self._resolved(options))

    def map_keys(self, visual: nn.Module, options: Any = None) -> tuple[KeyMatch, ...]:
        """Where each tensor of `visual`, a whole tower, goes in a checkpoint.

        Raises TransferError for a tensor that no rule knows.
        """
        return map_keys(visual.state_dict(), self.key_table(self._resolved(options)), framework=self.name)

    def _resolved(self, options: Any) -> Any:
        return options if isinstance(options, self.options_type) else self.options(options)


def class_scores(scores: Tensor, owners: Tensor) -> Tensor:
    """Scores of classes (B, C, H, W) from scores of their synonyms (B, S, H, W): the largest one's.

    The rule is FC-CLIP's (Yu et al. 2023). `owners`: int64 (S,), the class of each synonym; classes are 0 to
    C - 1 and each owns at least one. Raises ValueError if a class owns none.
    """
    synonyms = torch.bincount(owners).tolist()
    if 0 in synonyms:
        raise ValueError(f"class {synonyms.index(0)} owns no synonym")
    if bool((owners.diff() < 0).any()):
        scores = scores[:, owners.argsort(stable=True)]
    if len(synonyms) == len(owners):
        return scores
    return torch.stack([part.amax(1) for part in torch.split(scores, synonyms, dim=1)], 1)
