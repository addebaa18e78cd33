"""From the tensor names of published checkpoints to ours and back, by tables of name patterns.

A pattern is a name with holes: `{n}` and `{m}` stand for a number, `{leaf}` for weight or bias, `{rest}` for anything.
The same table serves both directions, so that what was read can be written again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from opentrans_cli.errors import TransferError

_HOLES = {"n": r"\d+", "m": r"\d+", "leaf": "weight|bias", "rest": ".+"}


@dataclass(frozen=True)
class NameRule:
    """What becomes of the tensors with one pattern of names."""

    original: str  # pattern of the whole name
    ours: str | tuple[str, ...] | None  # pattern; several: equal parts along dimension 0; None: not needed here
    kind: str  # what the tensors are, or why they are not needed, for tables and errors

    @property
    def parts(self) -> tuple[str, ...]:
        """Our patterns, as many as the tensor has parts."""
        return () if self.ours is None else (self.ours,) if isinstance(self.ours, str) else self.ours


@dataclass(frozen=True)
class Renaming:
    """What a table makes of a checkpoint; every tensor of it is in one of the three."""

    tensors: Mapping[str, Tensor]  # by our names
    unneeded: Mapping[str, tuple[str, ...]]  # original names, by the kind of their rule
    unknown: tuple[str, ...]  # original names without a rule


def to_ours(tensors: Mapping[str, Tensor], rules: Sequence[NameRule]) -> Renaming:
    """Apply to each tensor the first rule that matches its whole name.

    Raises TransferError if two tensors would get one name, or a tensor cannot be cut into the parts of its rule.
    """
    named: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    unneeded: dict[str, list[str]] = {}
    unknown: list[str] = []
    for key, tensor in tensors.items():
        rule = next((rule for rule in rules if _pattern(rule.original).fullmatch(key)), None)
        if rule is None:
            unknown.append(key)
        elif rule.ours is None:
            unneeded.setdefault(rule.kind, []).append(key)
        else:
            for name, part in zip(_filled(rule.original, rule.parts, key), _cut(key, tensor, rule), strict=True):
                if name in named:
                    raise TransferError(
                        f"two tensors would get one name: '{name}' from '{sources[name]}' and '{key}'; "
                        "the checkpoint is a mixture, remove one of them"
                    )
                named[name], sources[name] = part, key
    return Renaming(named, {kind: tuple(keys) for kind, keys in unneeded.items()}, tuple(unknown))


def to_original(tensors: Mapping[str, Tensor], rules: Sequence[NameRule]) -> dict[str, Tensor]:
    """The way back; parts are joined again. Raises TransferError for a tensor without a rule, or without its parts."""
    named: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        rule, place = _rule_of(key, rules)
        if place:
            continue  # joined when its first part comes
        (name,) = _filled(rule.parts[0], (rule.original,), key)
        siblings = _filled(rule.parts[0], rule.parts, key)
        missing = [sibling for sibling in siblings if sibling not in tensors]
        if missing:
            raise TransferError(f"one part of a tensor is missing: '{missing[0]}' beside '{key}'; give all parts")
        named[name] = tensor if len(siblings) == 1 else torch.cat([tensors[sibling] for sibling in siblings])
    return named


def _rule_of(key: str, rules: Iterable[NameRule]) -> tuple[NameRule, int]:
    for rule in rules:
        for place, part in enumerate(rule.parts):
            if _pattern(part).fullmatch(key):
                return rule, place
    raise TransferError(f"this tensor has no name in the original: '{key}'; add a rule to its table")


def _cut(key: str, tensor: Tensor, rule: NameRule) -> Sequence[Tensor]:
    count = len(rule.parts)
    if count == 1:
        return (tensor,)
    if tensor.dim() == 0 or tensor.shape[0] % count:
        raise TransferError(
            f"cannot be cut into {count} equal parts: '{key}' of shape {tuple(tensor.shape)}; check the checkpoint"
        )
    return [part.clone() for part in tensor.chunk(count)]  # apart, so that each can be changed and saved alone


def _filled(pattern: str, targets: Sequence[str], key: str) -> list[str]:
    """`targets` with their holes filled by what stands in the holes of `pattern` in `key`."""
    match = _pattern(pattern).fullmatch(key)
    assert match is not None
    return [target.format(**match.groupdict()) for target in targets]


@cache
def _pattern(pattern: str) -> re.Pattern[str]:
    """A name with holes as a regular expression; a hole that comes again has to hold the same."""
    seen: set[str] = set()
    expression = ""
    for index, piece in enumerate(re.split(r"{(\w+)}", pattern)):
        if index % 2 == 0:
            expression += re.escape(piece)
        else:
            expression += f"(?P={piece})" if piece in seen else f"(?P<{piece}>{_HOLES[piece]})"
            seen.add(piece)
    return re.compile(expression)
