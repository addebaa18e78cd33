"""Names of the tensors in a loaded checkpoint, whatever stands for a tensor in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

Leaf = TypeVar("Leaf")

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_TRAINING_STATE = re.compile(r"(optim|(lr_)?sched|(grad_)?scaler|amp).*")
_MAX_DEPTH = 4  # of dicts in dicts; a pickle can hold one that contains itself


def named_leaves(state: Any, leaf: type[Leaf]) -> dict[str, Leaf]:
    """The tensors of a loaded checkpoint by name; `state_dict` wrappers are taken off, dicts in dicts joined by dots,
    and the state of optimisers is left away.
    """
    if not isinstance(state, Mapping):
        return {}
    for _ in range(_MAX_DEPTH):
        inner = next((state[name] for name in _WRAPPERS if isinstance(state.get(name), Mapping)), None)
        if inner is None or next(_flat(inner, leaf), None) is None:
            break
        state = inner
    return dict(_flat(state, leaf))


def all_leaves(value: Any, leaf: type[Leaf]) -> Iterator[Leaf]:
    """Every tensor anywhere in a loaded file; a pickle can hold a list that contains itself."""
    waiting, seen = [value], set()
    while waiting:
        here = waiting.pop()
        if id(here) in seen:
            continue
        seen.add(id(here))
        if isinstance(here, leaf):
            yield here
        elif isinstance(here, Mapping):
            waiting += here.values()
        elif isinstance(here, list | tuple | set):
            waiting += here


def entries_beside(state: Any, held: Mapping[str, Leaf], leaf: type[Leaf]) -> tuple[str, ...]:
    """Entries at the top of a loaded file that have none of the tensors `held` in them: "optimizer", "iteration"."""
    own = {id(tensor) for tensor in held.values()}
    entries = state.items() if isinstance(state, Mapping) else ()
    return tuple(str(key) for key, value in entries if not any(id(one) in own for one in all_leaves(value, leaf)))


def _flat(state: Mapping[Any, Any], leaf: type[Leaf], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Leaf]]:
    for key, value in state.items():
        if isinstance(value, leaf):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping) and depth < _MAX_DEPTH and not _TRAINING_STATE.fullmatch(str(key)):
            yield from _flat(value, leaf, f"{prefix}{key}.", depth + 1)
