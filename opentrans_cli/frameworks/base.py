"""The interfaces of frameworks and segmentors.

Shapes: B images, S texts (synonyms), C classes, Q queries, H W pixels, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Protocol, get_args, get_type_hints

import torch
from torch import Tensor, nn

from opentrans_cli.checkpoints.rules import NameRule
from opentrans_cli.clip.text import DEFAULT_TEMPLATES
from opentrans_cli.errors import OptionError, did_you_mean
from opentrans_cli.frameworks.keys import KeyMatch, map_keys

BACKBONE = "backbone."
"""Where the tower stands in every segmentor and its checkpoints."""


@dataclass(frozen=True)
class ClassText:
    """The classes as text embeddings. Class indices are plain numbers: they decide shapes, on the meta device too."""

    embeddings: Tensor  # (S, D), one row of length 1 for each synonym
    class_indices: tuple[int, ...]  # class index of each synonym, 0 to C - 1; every class has at least one synonym
    seen: tuple[bool, ...]  # for each class: whether it is labelled in training

    @classmethod
    def one_each(cls, embeddings: Tensor) -> ClassText:
        """Makes every row its own class, and counts all classes as seen."""
        return cls(embeddings, tuple(range(len(embeddings))), (True,) * len(embeddings))

    @property
    def classes(self) -> int:
        """Number C of classes."""
        return len(self.seen)

    def to(self, device: torch.device | str) -> ClassText:
        """The same on another device."""
        return replace(self, embeddings=self.embeddings.to(device))


class Segmentor(Protocol):
    """The interface of every built framework; it is also an nn.Module."""

    backbone: nn.Module  # the tower; layer names inside it are those of CLIP's visual tower

    def __call__(self, images: Tensor, text: ClassText) -> Tensor:
        """Scores of classes (B, C, H, W), float32, larger = better, at the size of the images.

        `images`: normalised (B, 3, H, W), any H and W of at least 32.
        """
        ...


class PixelSegmentor(Segmentor, Protocol):
    """A segmentor that gives every pixel its own embedding."""

    classifier: nn.Module  # what comes after `embed`: embeddings (B, D, h, w), text (S, D) -> scores (B, S, h, w)

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings (B, D, h, w) in the space of the text, of any length, on the framework's own grid."""
        ...


class MaskQueries(NamedTuple):
    """The output of a mask decoder: each query is a segment with a class, or no object.

    It is a tuple, so that wrappers of modules find the tensors in it. Only training needs more than the first two.
    """

    class_logits: Tensor  # (B, Q, C + 1), the last for no object
    mask_logits: Tensor  # (B, Q, h, w), at stride 4
    auxiliary: tuple[tuple[Tensor, Tensor], ...] = ()  # both, of the earlier layers of the decoder
    states: tuple[Tensor, ...] = ()  # (B, Q, W) by layer, the result last: input of the projection to the text
    embeddings: tuple[Tensor, ...] = ()  # (B, Q, D) by layer, rows of length 1, like the text; empty for fixed classes


class MaskSegmentor(Segmentor, Protocol):
    """A segmentor that finds segments with queries and classifies them."""

    decoder: nn.Module  # a MaskDecoder, whose `sizes` say how many queries and layers of them there are

    def queries(self, images: Tensor, text: ClassText) -> MaskQueries:
        """Query masks and their classes; the auxiliary ones are there in training mode only."""
        ...


@dataclass(frozen=True)
class Framework:
    """One target of a transfer: its tensor names, its options, and how it is built around a tower."""

    name: str
    trainable: bool  # whether there are parameters to train besides the tower
    options_type: type[Any]  # frozen dataclass; every field has a default
    key_table: Callable[[Any], tuple[NameRule, ...]]  # options -> rules; the first match wins, all must match
    builder: Callable[[nn.Module, Any], nn.Module]  # tower, options -> segmentor
    templates: tuple[str, ...] = DEFAULT_TEMPLATES  # prompts; "{}" stands for the class
    masks: bool = False  # a MaskSegmentor, trained by a loss over sets of masks; else a PixelSegmentor
    frozen_trunk: bool = False  # the tower is never trained and stays in eval mode

    def options(self, given: Mapping[str, Any] | None = None) -> Any:
        """Options from names and values (text is converted); the rest keep their defaults.

        Raises OptionError naming the option that is unknown or whose value does not fit.
        """
        return parse_options(self.options_type, given or {}, framework=self.name)

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


def class_scores(scores: Tensor, class_indices: Sequence[int]) -> Tensor:
    """Scores of classes (B, C, H, W) from scores of their synonyms (B, S, H, W): the largest of each class.

    The rule is FC-CLIP's (Yu et al. 2023). Dimension 1 is that of the synonyms, further ones are free. `class_indices`
    are those of the synonyms, 0 to C - 1. Raises ValueError if a class has no synonym.
    """
    synonyms = [0] * (max(class_indices) + 1)
    for index in class_indices:
        synonyms[index] += 1
    if 0 in synonyms:
        raise ValueError(f"class {synonyms.index(0)} has no synonym")
    order = sorted(range(len(class_indices)), key=class_indices.__getitem__)
    if order != list(range(len(class_indices))):
        scores = scores[:, order]
    if len(synonyms) == len(class_indices):
        return scores
    return torch.stack([part.amax(1) for part in torch.split(scores, synonyms, dim=1)], 1)


_FLAGS = {"true": True, "false": False}


def parse_options(options_type: type[Any], given: Mapping[str, Any], *, framework: str) -> Any:
    """An `options_type` with the values of `given`; text is converted to the field's type.

    Fields are int, float or bool, each perhaps "or None". `framework` is named in errors. Raises OptionError for
    unknown names and for values that are not of the field's type; the dataclass itself checks ranges.
    """
    types = get_type_hints(options_type)
    known = [field.name for field in fields(options_type)]
    for name in given:
        if name not in known:
            choice = f"choose from {', '.join(known)}" if known else "it takes none"
            raise OptionError(f"{framework} has no option: '{name}'; {choice}{did_you_mean(name, known)}")
    return options_type(**{name: _value(types[name], value, f"{framework} {name}") for name, value in given.items()})


def _value(wanted: Any, value: Any, what: str) -> Any:
    allowed = get_args(wanted) or (wanted,)
    if type(value) in allowed or (type(value) is int and float in allowed):
        return value
    if isinstance(value, str):
        text = value.strip().lower()
        if text == "none" and type(None) in allowed:
            return None
        if bool in allowed and text in _FLAGS:
            return _FLAGS[text]
        for kind in (kind for kind in allowed if kind in (int, float)):
            try:
                return kind(text)
            except ValueError:
                continue
    names = " or ".join("none" if kind is type(None) else kind.__name__ for kind in allowed)
    raise OptionError(f"wrong value for {what}: {value!r}; give {names}")
