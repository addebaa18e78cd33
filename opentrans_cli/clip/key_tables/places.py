"""Where the tensors of a tower are in a checkpoint or model of another library, all layers or an error."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from opentrans_cli.clip.key_tables import Found, Place, find_layers
from opentrans_cli.clip.layers import PARTS
from opentrans_cli.errors import TransferError

_PACKED_BIAS = "in_proj_bias"


def find_tower_layers(
    layers: Mapping[str, tuple[int, ...]],
    keys: Mapping[str, tuple[int, ...]],
    *,
    where: str,
    table: str | None,
    under: str | None,
    next_move: str,
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


def places_of(found: Found, name: str, shape: tuple[int, ...]) -> tuple[Place, ...]:
    """Where the tensor `name` of the tower, of `shape`, is: mostly one place, three for a packed bias that the library
    keeps apart (each a third of the rows), none if it has none or of another shape.
    """
    owner, _, leaf = name.rpartition(".")
    place = found.place(name)
    if place is None and leaf == _PACKED_BIAS:
        parts = [found.place(f"{owner}.{part}.bias") for part in PARTS]
        third = (shape[0] // 3,)
        whole = tuple(part for part in parts if part and found.keys[part.key] == part.stored_shape(third))
        return whole if len(whole) == len(PARTS) else ()
    return (place,) if place is not None and found.keys[place.key] == place.stored_shape(shape) else ()


def rows_of(place: Place, stored: tuple[int, ...]) -> slice | None:
    """The rows of the checkpoint's tensor, of shape `stored`, that are meant; None: all of it, which may have none."""
    return None if place.third is None else place.rows(stored)


def laid_out(tensor: Tensor, place: Place) -> Tensor:
    """A tensor of the tower as it lies at `place`, and the other way round."""
    return tensor.T if place.transposed else tensor
