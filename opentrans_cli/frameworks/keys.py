"""Key rules applied to whole checkpoints: a tower's tensors into a framework's names, published tensors into ours.

The rules are those of `checkpoints/rules.py`: a name of ours beside theirs. The same table serves both directions, so
that what was read can be written again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opentrans_cli.checkpoints.rules import NameRule, below
from opentrans_cli.errors import TransferError


@dataclass(frozen=True)
class KeyMatch:
    """Where one tensor goes."""

    source: str  # name inside CLIP's visual tower
    target: str | None  # name in the framework's checkpoint; None: left out on purpose
    rule: NameRule


@dataclass(frozen=True)
class Renaming:
    """The result of applying a table to a checkpoint; every tensor is in one of the three fields."""

    tensors: Mapping[str, Tensor]  # by our names
    unneeded: Mapping[str, tuple[str, ...]]  # original names, by the kind of their rule
    unknown: tuple[str, ...]  # original names without a rule


def tower_rules(prefix: str) -> tuple[NameRule, ...]:
    """Rules that put convolutions and BatchNorms of a CLIP ResNet under `prefix`, their names unchanged."""
    norms = ("bn{n#}.{leaf}", "{block*}.bn{n#}.{leaf}", "{block*}.downsample.1.{leaf}")
    convolutions = ("conv{n#}.weight", "{block*}.conv{n#}.weight", "{block*}.downsample.0.weight")
    return (*below(prefix, "batchnorm", norms), *below(prefix, "convolution", convolutions))


def convnext_rules(prefix: str) -> tuple[NameRule, ...]:
    """Rules that put a ConvNeXt, as open_clip holds timm's, under `prefix`, its names unchanged."""
    return (*below(prefix, "ConvNeXt", ["trunk.{name*}"]), *below(prefix, "output head", ["head.{name*}"]))


def pool_rules(prefix: str | None) -> tuple[NameRule, ...]:
    """Rules that put the attention pool under `prefix`, or, where that is None, leave it out."""
    kind, name = "attention pool", "attnpool.{name*}"
    return (NameRule(name, None, kind),) if prefix is None else below(prefix, kind, [name])


def map_keys(
    keys: Iterable[str], rules: Iterable[NameRule], *, framework: str = "the framework"
) -> tuple[KeyMatch, ...]:
    """Apply the first rule that matches to each key; the matches come in the order of `keys`.

    `framework` is only named in errors. Raises TransferError if a key has no rule, or if two keys would get
    the same name.
    """
    rules = tuple(rules)
    matches: list[KeyMatch] = []
    sources: dict[str, str] = {}
    for key in keys:
        rule = next((rule for rule in rules if rule.matches(key)), None)
        if rule is None:
            raise TransferError(
                f"{framework} has no rule for this tensor: '{key}'; use a ResNet CLIP tower, "
                "or add a rule to its key table"
            )
        place = rule.place(key)
        target = None if place is None else place.key
        if target is not None and sources.setdefault(target, key) != key:
            raise TransferError(
                f"{framework} would get two tensors under one name: '{target}' from '{sources[target]}' "
                f"and '{key}'; make the rules of its key table one-to-one"
            )
        matches.append(KeyMatch(key, target, rule))
    return tuple(matches)


def to_ours(tensors: Mapping[str, Tensor], rules: Sequence[NameRule]) -> Renaming:
    """Apply to each tensor the first rule for its whole name, or, if it is split in thirds, the rules for its thirds.

    Raises TransferError if two tensors would get one name, or a tensor cannot be cut into its parts.
    """
    named: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    unneeded: dict[str, list[str]] = {}
    unknown: list[str] = []
    for key, tensor in tensors.items():
        rule = next((rule for rule in rules if rule.about(key)), None)
        if rule is None:
            unknown.append(key)
        elif rule.ours is None:
            unneeded.setdefault(rule.kind, []).append(key)
        else:
            for name, third in _parts(key, rule, rules):
                if sources.setdefault(name, key) != key:
                    raise TransferError(
                        f"two tensors would get one name: '{name}' from '{sources[name]}' and '{key}'; "
                        "the checkpoint is a mixture, remove one of them"
                    )
                named[name] = tensor if third is None else _cut(key, tensor, third)
    return Renaming(named, {kind: tuple(keys) for kind, keys in unneeded.items()}, tuple(unknown))


def to_original(tensors: Mapping[str, Tensor], rules: Sequence[NameRule]) -> dict[str, Tensor]:
    """The inverse; parts are joined again. Raises TransferError for a tensor without a rule, or without its parts."""
    named: dict[str, Tensor] = {}
    for key in tensors:
        place = next((place for rule in rules if (place := rule.place(key))), None)
        if place is None:
            raise TransferError(f"this tensor has no name in the original: '{key}'; add a rule to its table")
        parts = [name for name, _ in _parts(place.key, place.rule, rules)]
        missing = [name for name in parts if name not in tensors]
        if missing:
            raise TransferError(f"one part of a tensor is missing: '{missing[0]}' beside '{key}'; give all parts")
        named[place.key] = tensors[key] if len(parts) == 1 else torch.cat([tensors[name] for name in parts])
    return named


def _parts(key: str, rule: NameRule, rules: Sequence[NameRule]) -> list[tuple[str, int | None]]:
    """Our names of their tensor `key`, and which third of it each is."""
    found = [rule] if rule.third is None else [one for one in rules if one.third is not None and one.about(key)]
    names = [(name, one.third) for one in found if (name := one.name(key)) is not None]
    return sorted(names, key=lambda pair: pair[1] or 0)


def _cut(key: str, tensor: Tensor, third: int) -> Tensor:
    if tensor.dim() == 0 or tensor.shape[0] % 3:
        raise TransferError(
            f"cannot be cut into 3 equal parts: '{key}' of shape {tuple(tensor.shape)}; check the checkpoint"
        )
    return tensor.chunk(3)[third].clone()  # copies, so that each can be changed and saved alone
