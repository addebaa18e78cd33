"""From the names of a CLIP tower's tensors to a framework's: rules, applied to whole names, one-to-one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from opentrans_cli.errors import TransferError


@dataclass(frozen=True)
class KeyRule:
    """Renames every key that `pattern` matches as a whole."""

    pattern: str  # regular expression over a full name inside the visual tower
    replacement: str | None  # as for `re.Match.expand`; None: the framework has no place for this tensor
    kind: str  # what the tensors are, for tables: "convolution", "batchnorm", "attention pool"


@dataclass(frozen=True)
class KeyMatch:
    """Where one tensor goes."""

    source: str  # name inside CLIP's visual tower
    target: str | None  # name in the framework's checkpoint; None: left out on purpose
    rule: KeyRule


def tower_rules(prefix: str) -> tuple[KeyRule, ...]:
    """Rules that put convolutions and BatchNorms of a CLIP ResNet under `prefix`, their names unchanged."""
    return (
        KeyRule(r"(.+\.)?(bn\d|downsample\.1)\.\w+", rf"{prefix}\g<0>", "batchnorm"),
        KeyRule(r"(.+\.)?(conv\d|downsample\.0)\.weight", rf"{prefix}\g<0>", "convolution"),
    )


def convnext_rules(prefix: str) -> tuple[KeyRule, ...]:
    """Rules that put a ConvNeXt, as open_clip holds timm's, under `prefix`, its names unchanged."""
    return (
        KeyRule(r"trunk\..+", rf"{prefix}\g<0>", "ConvNeXt"),
        KeyRule(r"head\..+", rf"{prefix}\g<0>", "output head"),
    )


def map_keys(
    keys: Iterable[str], rules: Iterable[KeyRule], *, framework: str = "the framework"
) -> tuple[KeyMatch, ...]:
    """Apply the first rule that matches to each key; the matches come in the order of `keys`.

    `framework` is only named in errors. Raises TransferError if a key has no rule, or if two keys would get
    the same name.
    """
    compiled = [(re.compile(rule.pattern), rule) for rule in rules]
    matches: list[KeyMatch] = []
    sources: dict[str, str] = {}
    for key in keys:
        found = next(((hit, rule) for regex, rule in compiled if (hit := regex.fullmatch(key))), None)
        if found is None:
            raise TransferError(
                f"{framework} has no rule for this tensor: '{key}'; use a ResNet CLIP tower, "
                "or add a rule to its key table"
            )
        hit, rule = found
        target = None if rule.replacement is None else hit.expand(rule.replacement)
        if target is not None and target in sources:
            raise TransferError(
                f"{framework} would get two tensors under one name: '{target}' from '{sources[target]}' "
                f"and '{key}'; make the rules of its key table one-to-one"
            )
        if target is not None:
            sources[target] = key
        matches.append(KeyMatch(key, target, rule))
    return tuple(matches)
