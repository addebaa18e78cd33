"""Find the layers of a tower in a checkpoint of any library, from names and shapes: no file is read."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from opentrans_cli.clip.key_tables.rules import Place
from opentrans_cli.clip.key_tables.tables import TABLES, KeyTable, Layout, find_table
from opentrans_cli.clip.tower_keys import NOISE, TEXT_PARTS
from opentrans_cli.errors import TransferError

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Found:
    """A tower in a checkpoint."""

    table: KeyTable
    prefix: str  # of its keys: "" or ending in a dot
    keys: Shapes  # of the whole checkpoint
    layers: Mapping[str, Place]  # by layer; those that are there with an equal shape
    missing: tuple[str, ...]  # layers without a place, or whose place has another shape

    def place(self, name: str) -> Place | None:
        """Where the tensor `name` of the tower is; None if the checkpoint has none. Its shape may be another."""
        return _at(self.table.layout, self.prefix, name, self.keys)


def weight_name(layer: str) -> str:
    """The tensor of a layer inside the tower."""
    return f"{layer}.weight"


def find_layers(layers: Shapes, keys: Shapes, *, to: str | None = None, under: str | None = None) -> Found:
    """Where the prunable `layers` of a tower (name -> shape of the weight) are in a checkpoint (`keys`: name -> shape).

    A table is taken if more than half of the layers are found with equal shapes below one prefix, whatever the prefix
    is; of several the one with the most layers, then the one below a usual prefix (`module.`, `backbone.`), so that a
    teacher beside the model is left alone. `to` names the table, and then fewer layers will do; `under` the prefix,
    with or without its last dot. Raises TransferError, naming the candidates, if none is left or several are;
    OptionError for an unknown table.
    """
    wanted = None if to is None else find_table(to)
    under = f"{under.rstrip('.')}." if under else under
    layouts = [wanted.layout] if wanted else list(dict.fromkeys(table.layout for table in TABLES))
    prefixes = _by_suffix(keys)
    counts = {
        (layout.name, prefix): (layout, count)
        for layout in layouts
        for prefix, count in _counts(layout, layers, keys, prefixes).items()
        if under is None or prefix == under
    }
    best = max((count for _, count in counts.values()), default=0)
    if not best or (wanted is None and 2 * best <= len(layers)):
        raise _nothing(layers, counts, to, under)
    ends = [(layout, prefix) for (_, prefix), (layout, count) in counts.items() if count == best]
    candidates = _distinct([_found(layout, prefix, layers, keys, wanted) for layout, prefix in ends])
    return _only(_usual(candidates, wanted))


def _by_suffix(keys: Iterable[str]) -> Mapping[str, list[str]]:
    """What stands before the end of a key, by that end; keys are cut at dots alone."""
    found: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        found[key].append("")
        for place, letter in enumerate(key):
            if letter == ".":
                found[key[place + 1 :]].append(key[: place + 1])
    return found


def _counts(layout: Layout, layers: Shapes, keys: Shapes, prefixes: Mapping[str, list[str]]) -> Counter[str]:
    """Layers found with equal shape, by prefix; text towers are left out."""
    counts: Counter[str] = Counter()
    for layer, shape in layers.items():
        here = {
            prefix
            for place in layout.places(weight_name(layer))
            for prefix in prefixes.get(place.key, ())
            if keys[prefix + place.key] == place.stored_shape(shape)
        }
        counts.update(here)
    text = {prefix for prefix in counts if TEXT_PARTS & set(prefix.split(".")) or f"{prefix}visual." in counts}
    return Counter({prefix: count for prefix, count in sorted(counts.items()) if prefix not in text})


def _at(layout: Layout, prefix: str, name: str, keys: Shapes) -> Place | None:
    for place in layout.places(name):
        key = _absolute(prefix, place.key)
        if key is not None and key in keys:
            return replace(place, key=key)
    return None


def _absolute(prefix: str, key: str) -> str | None:
    """`../` is the part of the name above the tower; None if there is none above it."""
    if not key.startswith("../"):
        return prefix + key
    if not prefix:
        return None
    return ".".join([*prefix.split(".")[:-2], key.removeprefix("../")])


def _found(layout: Layout, prefix: str, layers: Shapes, keys: Shapes, wanted: KeyTable | None) -> Found:
    places = {}
    for layer, shape in layers.items():
        place = _at(layout, prefix, weight_name(layer), keys)
        if place is not None and keys[place.key] == place.stored_shape(shape):
            places[layer] = place
    table = wanted or next(table for table in TABLES if table.layout == layout and table.fits(prefix, keys))
    return Found(table, prefix, keys, places, tuple(layer for layer in layers if layer not in places))


def _distinct(candidates: Sequence[Found]) -> list[Found]:
    """Without those that put every layer where an earlier one does: two names for the same tensors are no choice."""
    seen: dict[tuple[str, ...], Found] = {}
    for found in candidates:
        seen.setdefault(tuple(place.key for place in found.layers.values()), found)
    return list(seen.values())


def _usual(candidates: list[Found], wanted: KeyTable | None) -> list[Found]:
    if wanted is not None:
        stated = [found for found in candidates if wanted.fits(found.prefix, found.keys)]
        candidates = stated if stated and wanted.prefix else candidates
    if len(candidates) > 1:
        usual = [found for found in candidates if set(found.prefix.split(".")[:-1]) <= NOISE]
        return usual or candidates
    return candidates


def _only(candidates: list[Found]) -> Found:
    if len(candidates) > 1:
        names = ", ".join(f"{found.table.name} under '{found.prefix}'" for found in candidates)
        raise TransferError(f"several towers fit the bundle: {names}; choose one with --to NAME or --under PREFIX")
    return candidates[0]


def _nothing(
    layers: Shapes, counts: Mapping[tuple[str, str], tuple[Layout, int]], to: str | None, under: str | None
) -> TransferError:
    where = "" if under is None else f" under '{under}'"
    if not counts:
        table = "" if to is None else f" by the names of {to}"
        return TransferError(
            f"the bundle's tower is not in the checkpoint: no layer is there{where}{table} with its shape; "
            "give a checkpoint of the same architecture"
        )
    (name, prefix), (_, count) = max(counts.items(), key=lambda item: item[1][1])
    return TransferError(
        f"the bundle's tower is not in the checkpoint: {count} of {len(layers)} layers at best, {name} under "
        f"'{prefix}'; give a checkpoint of the same architecture, or name the table with --to"
    )
