"""The names of the tensors in a loaded checkpoint: wrappers are removed, and nested names are joined by dots."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from opentrans_cli.checkpoints.pickle_data import Array, Described, Unknown
from opentrans_cli.files.header import MAX_TENSORS

# The names that training scripts give to the weights of the model itself, the most common first.
_OWN = (
    *("state_dict", "model_state_dict", "model", "model_state", "model_weights", "module", "net", "network"),
    *("params", "weights", "blobs", "student"),
)
# Names of averages of these weights over training, and of teachers; they are used if there is nothing else.
_AVERAGED = re.compile(r"(.+_)?(ema|swa|averaged?|teacher)(_.+)?")
_TRAINING_STATE = re.compile(r"(.+_)?(optim|(lr_)?sched|(grad_)?scaler|amp).*")
MASKS_BESIDE = re.compile(r"(.+_)?masks?")
"""Names of a dict of masks beside the weights."""
_TORCH_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts that torch.compile, FSDP and checkpointing put into names, anywhere in them."""
_MAX_DEPTH = 32  # of dicts in dicts

Leaves = Iterator[tuple[str, Described | Array]]


@dataclass(frozen=True)
class FoundState:
    """The tensors of a checkpoint."""

    tensors: Mapping[str, Described]  # by name in the file, in its order
    beside: tuple[str, ...]  # entries that were left out: "optimizer", "iteration"
    taken: str | None  # the wrapper that was used, if other ones hold weights as well
    others: tuple[str, ...]  # those other wrappers
    masks: Mapping[str, Described]  # of a dict beside the weights that has their names: "X_mask" for the tensor "X"


def find_state(content: Any) -> FoundState:
    """The tensors in what `read_pickle` gave: dicts of tensors, or a whole module.

    Of several wrappers with weights, that of the model itself is used rather than an average or a teacher. The state of
    optimisers is left out. Raises ValueError for more entries than any real file has.
    """
    if isinstance(content, list | tuple):  # (state dict, epoch)
        content = next((part for part in content if _holds(part)), None)
    masks = dict(_sparsifier_masks(content))
    beside: list[str] = []
    taken, others, apart = None, tuple[str, ...](), dict[str, Any]()
    for _ in range(_MAX_DEPTH):
        if not isinstance(content, Mapping):
            break
        holding = [str(key) for key, value in content.items() if _holds(value) and not _of_training(key)]
        named_so = {str(key): value for key, value in content.items() if MASKS_BESIDE.fullmatch(str(key))}
        apart |= {key: value for key, value in named_so.items() if isinstance(value, Mapping) and key in holding}
        averaged = [key for key in holding if _AVERAGED.fullmatch(key)]
        own = next((key for key in _OWN if key in holding), None)
        if own is None and [key for key in holding if key not in apart] == averaged:
            own = next(iter(averaged), None)
        left = averaged if own is None else [str(key) for key in content if str(key) != own]
        beside += left
        if own is None:
            content = {key: value for key, value in content.items() if str(key) not in left} if left else content
            beside += [str(key) for key, value in content.items() if str(key) not in holding and not _is_tensor(value)]
            break
        rivals = tuple(key for key in holding if key != own)
        taken, others = (own, rivals) if rivals else (taken, others)
        content = next(value for key, value in content.items() if str(key) == own)
    named = {name: one.described() if isinstance(one, Array) else one for name, one in _flat(content)}
    named |= {name: mask for name, mask in masks.items() if name.removesuffix("0.mask") + "original" in named}
    for key, value in apart.items():
        adopted = _by_weights(dict(_flat(value)), {name: one for name, one in named.items() if not _below(name, key)})
        if adopted:
            named = {name: one for name, one in named.items() if not _below(name, key)}
            others = tuple(one for one in others if one != key)
            return FoundState(named, tuple(dict.fromkeys([*beside, key])), taken, others, adopted)
    return FoundState(named, tuple(beside), taken, others, {})


def _below(name: str, key: str) -> bool:
    return name.startswith(f"{key}.")


def _by_weights(masks: Mapping[str, Described | Array], tensors: Mapping[str, Described]) -> dict[str, Described]:
    """The masks as "X_mask", if each belongs to a tensor "X" of its shape; {} if some do not.

    Their names are those of the tensors, or of their modules, or the same inside a tower.
    """
    found = {name: one.described() if isinstance(one, Array) else one for name, one in masks.items()}
    first = next(iter(found), "")
    ends = [(key, end) for end in ("", ".weight") for key in tensors if f".{key}".endswith(f".{first}{end}")]
    places = [(key.removesuffix(first + end), end) for key, end in ends]
    fits = [
        (below, end)
        for below, end in places
        if all(
            below + name + end in tensors and tensors[below + name + end].shape == mask.shape
            for name, mask in found.items()
        )
    ]
    return {f"{fits[0][0]}{name}{fits[0][1]}_mask": mask for name, mask in found.items()} if len(fits) == 1 else {}


def _holds(value: Any) -> bool:
    return next(_flat(value), None) is not None


def _sparsifier_masks(content: Any) -> Iterator[tuple[str, Described]]:
    """The masks in the state of a sparsifier of torch.ao.pruning beside a state dict, which has none.

    Their names are those they would have in it.
    """
    for beside in content.values() if isinstance(content, Mapping) else ():
        state = beside.get("state") if isinstance(beside, Mapping) and "groups" in beside else None
        for name, entry in state.items() if isinstance(state, Mapping) else ():
            mask, (module, dot, leaf) = (
                entry.get("mask") if isinstance(entry, Mapping) else None,
                str(name).rpartition("."),
            )
            if isinstance(mask, Described):
                yield f"{module}{dot}parametrizations.{leaf}.0.mask", mask


def _of_training(key: Any) -> bool:
    return _TRAINING_STATE.fullmatch(str(key)) is not None


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Described | Array)


def _inside(value: Any) -> Mapping[Any, Any]:
    """The content of a dict, a torch module or a TorchScript module, by name; {} for anything else."""
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, Unknown):
        return {}
    state = value.state if isinstance(value.state, Mapping) else {}
    if "_modules" in state and "_parameters" in state:
        passing = state.get("_non_persistent_buffers_set") or ()
        buffers = {key: one for key, one in state.get("_buffers", {}).items() if key not in passing}
        return {**state["_parameters"], **buffers, **state["_modules"]}
    return state if value.name.startswith("__torch__.") else value.entries


def _flat(value: Any, prefix: str = "", above: tuple[int, ...] = (), budget: list[int] | None = None) -> Leaves:
    budget = [MAX_TENSORS] if budget is None else budget
    if len(above) > _MAX_DEPTH or id(value) in above:
        return  # a pickle can hold a dict that contains itself
    for key, one in _inside(value).items():
        budget[0] -= 1
        if budget[0] < 0:
            raise ValueError(f"more than {MAX_TENSORS} entries")
        name = f"{prefix}{key.decode('latin1') if isinstance(key, bytes) else key}"
        if _is_tensor(one):
            yield name, one
        elif not (isinstance(value, Mapping) and _of_training(key)):
            yield from _flat(one, f"{name}.", (*above, id(value)), budget)


def plain_names(keys: Iterable[str]) -> dict[str, str]:
    """Names without the parts of torch's wrappers -> names in the file; unchanged if two would become the same."""
    keys = list(keys)
    plain = [".".join(part for part in key.split(".") if part not in _TORCH_WRAPPERS) for key in keys]
    return dict(zip(plain if len(set(plain)) == len(plain) else keys, keys, strict=True))


def shared_prefix(names: Collection[str]) -> str:
    """The common prefix of all names, up to a dot: "module." or "model.backbone.", usually ""."""
    parts = [name.split(".")[:-1] for name in names] if len(names) > 1 else []
    shared = 0
    while parts and all(len(own) > shared and own[shared] == parts[0][shared] for own in parts):
        shared += 1
    return "".join(f"{part}." for part in parts[0][:shared]) if parts else ""
