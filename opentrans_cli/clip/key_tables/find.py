"""The one finder of towers: an image tower in a checkpoint of any library, from names and shapes; no file is read.

Frameworks keep the tower below prefixes of their own (`module.`, `visual.`, `backbone.clip_model.visual.`). Where the
tower is known, as when a bundle is put into a checkpoint, its layers are looked for by name and shape (`find_layers`);
where it is not, a few names tell what it is (`find_tower`). Either way, whatever stands before the names is the prefix.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from opentrans_cli.bundle.layout import weight_name
from opentrans_cli.checkpoints.rules import Place
from opentrans_cli.clip.architecture import written_shape
from opentrans_cli.clip.key_tables.tables import TABLES, KeyTable, Layout, TowerKind, find_table
from opentrans_cli.clip.layers import Array, Shapes
from opentrans_cli.errors import TransferError

OUTPUT_HEAD = "output head"
TEXT_TOWER = "text tower"
OUTSIDE = "outside the image tower"

_NEXT = "choose one with --to NAME or --under PREFIX"
# Parts of prefixes that say nothing about which of several towers is the model's own.
_NOISE = {"module", "model", "visual", "backbone", "clip_model", "encoder", "image_encoder", "vision_model"}
_TEXT_PARTS = {"text", "text_model", "text_encoder", "text_tower"}
_TEXT_BESIDE_VISUAL = ("transformer.", "token_embedding", "positional_embedding", "text_projection", "ln_final")
_PARTS = ("q_proj", "k_proj", "v_proj")  # of a packed projection, in its order
_PACKED_BIAS = "in_proj_bias"


@dataclass(frozen=True)
class TowerPlace:
    """Where the image tower of a checkpoint is."""

    kind: TowerKind
    layout: Layout
    prefix: str  # of its names in the file: "" or ending in a dot

    @property
    def parent(self) -> str:
        """Prefix of the whole CLIP: image and text tower."""
        return self.prefix.removesuffix("visual.")

    def inside(self, key: str) -> str | None:
        """Our name of a tensor inside the tower; None if it is outside."""
        if not key.startswith(self.prefix) or (not self.prefix and key.split(".")[0] in _TEXT_PARTS):
            return None
        name = key[len(self.prefix) :]
        return self.layout.name_of(name) or name

    def reason(self, key: str) -> str | None:
        """Why the tensor `key` is no part of what is analysed; None: it is."""
        name = self.inside(key)
        if name is not None:
            return OUTPUT_HEAD if name.startswith(self.kind.heads) else None
        beside = self.parent != self.prefix and key.startswith(self.parent)
        if _TEXT_PARTS & set(key.split(".")) or (beside and key[len(self.parent) :].startswith(_TEXT_BESIDE_VISUAL)):
            return TEXT_TOWER
        return OUTSIDE


@dataclass(frozen=True)
class Found:
    """The layers of a known tower in a checkpoint."""

    table: KeyTable
    prefix: str  # of its keys: "" or ending in a dot
    keys: Shapes  # of the whole checkpoint
    layers: Mapping[str, Place]  # by layer; those that are there with an equal shape
    missing: tuple[str, ...]  # layers without a place, or whose place has another shape

    def place(self, name: str) -> Place | None:
        """Where the tensor `name` of the tower is; None if the checkpoint has none. Its shape may be another."""
        for place in self.table.layout.places(name):
            key = _absolute(self.prefix, place.key)
            if key is not None and key in self.keys:
                return replace(place, key=key)
        return None

    def places(self, name: str, shape: tuple[int, ...]) -> tuple[Place, ...]:
        """Where the tensor `name` of the tower, of `shape`, is.

        Mostly one place, three for a packed bias that the library keeps apart (each a third of the rows), none if it
        has none or of another shape.
        """
        owner, _, leaf = name.rpartition(".")
        place = self.place(name)
        if place is None and leaf == _PACKED_BIAS:
            third = (shape[0] // 3,)
            found = [self.places(f"{owner}.{part}.bias", third) for part in _PARTS]
            return tuple(part[0] for part in found) if all(found) else ()
        return (place,) if place is not None and self.keys[place.key] == place.stored_shape(shape) else ()

    def rows(self, place: Place) -> slice | None:
        """The rows of the checkpoint's tensor at `place` that are meant; None: all of it, which may have none."""
        return None if place.third is None else place.rows(self.keys[place.key])


def laid_out(tensor: Array, place: Place) -> Array:
    """A tensor of the tower as it lies at `place`, and the other way round."""
    return tensor.T if place.transposed else tensor


def find_tower(keys: Iterable[str]) -> TowerPlace | None:
    """The image tower of a CLIP among the tensors of a checkpoint; None if there is none.

    Of several, such as a student and its teacher, it is the one below a usual prefix (`backbone.`); None if that
    does not decide either.
    """
    found = find_towers(keys)
    found = _usual(found) if len(found) > 1 else found
    return found[0] if len(found) == 1 else None


def find_towers(keys: Iterable[str]) -> list[TowerPlace]:
    """All image towers among the tensors of a checkpoint, also those of teachers."""
    prefixes = _by_suffix(keys)
    return [
        TowerPlace(kind, layout, prefix)
        for layout in _LAYOUTS
        for kind in layout.kinds
        for prefix in sorted(set.intersection(*(set(prefixes.get(mark, ())) for mark in kind.marks)))
    ]


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
    prefixes = _by_suffix(keys)
    counts = {
        (layout.name, prefix): (layout, count)
        for layout in ([wanted.layout] if wanted else _LAYOUTS)
        for prefix, count in _counts(layout, layers, keys, prefixes).items()
        if under is None or prefix == under
    }
    best = max((count for _, count in counts.values()), default=0)
    if not best or (wanted is None and 2 * best <= len(layers)):
        raise _nothing(layers, counts, to, under)
    ends = [(layout, prefix) for (_, prefix), (layout, count) in counts.items() if count == best]
    candidates = _distinct([_found(layout, prefix, layers, keys, wanted) for layout, prefix in ends])
    if wanted is not None and wanted.prefix:
        candidates = [found for found in candidates if wanted.fits(found.prefix, keys)] or candidates
    if len(candidates) > 1:
        candidates = _usual(candidates) or candidates
    if len(candidates) > 1:
        names = ", ".join(f"{found.table.name} under '{found.prefix}'" for found in candidates)
        raise TransferError(f"several towers fit the bundle: {names}; {_NEXT}")
    return candidates[0]


def find_tower_layers(
    layers: Shapes, keys: Shapes, *, where: str, table: str | None, under: str | None, next_move: str
) -> Found:
    """`find_layers`, with every layer in its place. `where` names what has the `keys`, `next_move` ends the message.

    Raises TransferError, OptionError for an unknown table.
    """
    try:
        found = find_layers(layers, keys, to=table, under=under)
    except TransferError as error:
        head, _, detail = str(error).split("; ")[0].partition(": ")
        problem = "several towers fit" if head.startswith("several") else "the tower is not there"
        raise TransferError(f"{problem} in {where}: {detail}; {next_move}") from error
    if found.missing:
        others = f" and {len(found.missing) - 1} others" if len(found.missing) > 1 else ""
        raise TransferError(
            f"a layer has no place of its shape in {where}: {found.missing[0]}{others}, by the names of "
            f"{found.table.name} under '{found.prefix}'; {next_move}"
        )
    return found


def check_narrow(layers: Shapes, keys: Shapes, where: str) -> None:
    """Raises TransferError if all `layers` are in `keys` below one prefix, but some of them with fewer channels."""
    prefixes = _by_suffix(keys)
    for layout in _LAYOUTS:
        places = {layer: place for layer in layers for place in layout.places(weight_name(layer))[:1]}
        below = [set(prefixes.get(place.key, ())) for place in places.values()]
        for prefix in sorted(set.intersection(*below)) if len(places) == len(layers) and below else []:
            sides = {prefix + place.key: place.stored_shape(layers[layer]) for layer, place in places.items()}
            other = [key for key, shape in sides.items() if keys[key] != shape]
            fewer = [len(keys[key]) == len(sides[key]) and all(map(int.__le__, keys[key], sides[key])) for key in other]
            if other and all(fewer):
                raise TransferError(
                    f"narrower than the tower: '{other[0]}' is {written_shape(keys[other[0]])} in {where} and "
                    f"{written_shape(sides[other[0]])} in the tower; a program took channels out of it, but masks "
                    "keep shapes: import the masks that it had before, or prune with --pattern channel"
                )


_LAYOUTS = tuple(dict.fromkeys(table.layout for table in TABLES))
_Candidate = TypeVar("_Candidate", TowerPlace, Found)


def _by_suffix(keys: Iterable[str]) -> Mapping[str, list[str]]:
    """What stands before the end of a key, by that end; keys are cut at dots alone."""
    found: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        found[key].append("")
        for place, letter in enumerate(key):
            if letter == ".":
                found[key[place + 1 :]].append(key[: place + 1])
    return found


def _usual(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """Those below a prefix that only says where a model keeps its own tower."""
    return [found for found in candidates if set(found.prefix.split(".")[:-1]) <= _NOISE]


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
    text = {prefix for prefix in counts if _TEXT_PARTS & set(prefix.split(".")) or f"{prefix}visual." in counts}
    return Counter({prefix: count for prefix, count in sorted(counts.items()) if prefix not in text})


def _absolute(prefix: str, key: str) -> str | None:
    """`../` is the part of the name above the tower; None if there is none above it."""
    if not key.startswith("../"):
        return prefix + key
    if not prefix:
        return None
    return ".".join([*prefix.split(".")[:-2], key.removeprefix("../")])


def _found(layout: Layout, prefix: str, layers: Shapes, keys: Shapes, wanted: KeyTable | None) -> Found:
    table = wanted or next(table for table in TABLES if table.layout == layout and table.fits(prefix, keys))
    bare = Found(table, prefix, keys, {}, ())
    places = {layer: places[0] for layer, shape in layers.items() if (places := bare.places(weight_name(layer), shape))}
    return replace(bare, layers=places, missing=tuple(layer for layer in layers if layer not in places))


def _distinct(candidates: Sequence[Found]) -> list[Found]:
    """Without those that put every layer where an earlier one does: two names for the same tensors are no choice."""
    seen: dict[tuple[str, ...], Found] = {}
    for found in candidates:
        seen.setdefault(tuple(place.key for place in found.layers.values()), found)
    return list(seen.values())


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
