"""The laws of a bundle's tensors, each judged while the files are read once, piece by piece."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.bundle import layout
from opentrans_cli.bundle.layout import SNAPSHOT, weight_name
from opentrans_cli.bundle.manifest import Manifest
from opentrans_cli.bundle.nested import saved_rounds
from opentrans_cli.bundle.rounds import recorded_counts
from opentrans_cli.errors import BundleError, MaskError
from opentrans_cli.files.header import TensorPlace
from opentrans_cli.files.scan import TensorPiece

Places = Mapping[str, Mapping[str, TensorPlace]]
"""By file, by tensor: what the headers say."""

_AGAIN = "write or download the bundle again"


class Law:
    """One law. It sees the pieces of `files` and then gives its verdict; both may raise OpentransError."""

    name = ""
    files: tuple[str, ...] = ()

    def see(self, piece: TensorPiece) -> None:
        """Look at some values of one of `files`."""

    def verdict(self, places: Places) -> str:
        """What was counted, once every file was read."""
        raise NotImplementedError


class Padding(Law):
    """Unused bits of a packed mask are zero."""

    name, files = "padding", (layout.MASK,)

    def __init__(self, manifest: Manifest) -> None:
        self._totals = {layer.name: layer.total for layer in manifest.layers}

    def see(self, piece: TensorPiece) -> None:
        total = self._totals[piece.tensor]
        if 8 * (piece.start + len(piece.values)) > total and int(piece.values[-1]) >> (total % 8):
            raise BundleError(f"packed mask has padding bits set: layer {piece.tensor!r}; {_AGAIN}")

    def verdict(self, places: Places) -> str:
        return "unused bits are zero"


class MaskCounts(Law):
    """Masks keep as many weights as the manifest says."""

    name, files = "mask counts", (layout.MASK,)

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._layers = {layer.name: layer for layer in manifest.layers}
        self._kept = dict.fromkeys(self._layers, 0)
        self._remember = manifest.file(layout.ROUNDS) is not None
        self.bits: dict[str, bytearray] = {name: bytearray() for name in self._layers}  # for the law of the rounds

    def see(self, piece: TensorPiece) -> None:
        total = self._layers[piece.tensor].total
        kept = unpacked(piece.values, min(8 * len(piece.values), total - 8 * piece.start))
        self._kept[piece.tensor] += int(np.count_nonzero(kept))
        if self._remember:
            self.bits[piece.tensor] += piece.values.tobytes()

    def verdict(self, places: Places) -> str:
        for name, layer in self._layers.items():
            if self._kept[name] != layer.kept:
                raise BundleError(
                    f"mask keeps {self._kept[name]} weights, the manifest says {layer.kept}: layer {name!r}; {_AGAIN}"
                )
        return f"{self._manifest.kept} of {self._manifest.total} weights kept"


class ValueCounts(Law):
    """There is a value for every kept weight."""

    name, files = "value counts", (layout.WEIGHTS,)

    def __init__(self, manifest: Manifest) -> None:
        self._layers = [layer.name for layer in manifest.layers]

    def verdict(self, places: Places) -> str:
        """The header was compared with the manifest, and the mask's count is a law of its own."""
        stored = places[layout.WEIGHTS]
        values = sum(stored[weight_name(layer)].header.shape[0] for layer in self._layers)
        return f"{values} values, one for every kept weight"


class FiniteValues(Law):
    """Values of tower and segmentor are neither NaN nor infinite."""

    name = "finite values"

    def __init__(self, manifest: Manifest) -> None:
        self.files = tuple(file for file in (layout.WEIGHTS, layout.HEAD) if manifest.file(file))

    def see(self, piece: TensorPiece) -> None:
        if not all_finite(piece):
            raise BundleError(f"tensor holds NaN or infinite values: {piece.tensor!r}; train or export it again")

    def verdict(self, places: Places) -> str:
        return f"{sum(len(places[file]) for file in self.files)} tensors hold neither NaN nor infinity"


class Rounds(Law):
    """Round 0 marks exactly the kept weights, so masks are nested, and recorded counts are those of the tensors."""

    name, files = "rounds", (layout.MASK, layout.ROUNDS)

    def __init__(self, manifest: Manifest, masks: MaskCounts) -> None:
        self._manifest, self._masks = manifest, masks
        self.counts = {layer.name: np.zeros(256, np.int64) for layer in manifest.layers}  # weights of each round

    def see(self, piece: TensorPiece) -> None:
        if piece.file != layout.ROUNDS:
            return
        numbers = piece.values
        self.counts[piece.tensor] += np.bincount(numbers, minlength=256)
        first, last = piece.start // 8, (piece.start + len(numbers) + 7) // 8
        bits = np.frombuffer(self._masks.bits[piece.tensor], np.uint8)[first:last]
        if not np.array_equal(unpacked(bits, len(numbers)), numbers == 0):
            raise MaskError(
                f"rounds and mask disagree: layer {piece.tensor!r}; round 0 must mark exactly the kept weights"
            )

    @property
    def last(self) -> int:
        """The last round that removed a weight; 0 if none did."""
        return max(int(np.flatnonzero(counts).max(initial=0)) for counts in self.counts.values())

    def kept(self, number: int) -> dict[str, int]:
        """By layer, the weights that round `number` left."""
        return {layer: int(counts[0] + counts[number + 1 :].sum()) for layer, counts in self.counts.items()}

    def verdict(self, places: Places) -> str:
        for number, recorded in enumerate(recorded_counts(self._manifest) or (), start=1):
            for layer, kept in self.kept(number).items():
                if recorded[layer] != kept:
                    raise BundleError(
                        f"rounds and manifest disagree: round {number} of layer {layer!r} keeps {kept} weights, "
                        f"recorded are {recorded[layer]}; {_AGAIN}"
                    )
        return f"{self.last} nested rounds, round 0 is the mask"


class RoundWeights(Law):
    """Towers of earlier rounds have a value for every weight that their round kept."""

    name, files = "round weights", (layout.WEIGHTS, layout.ROUNDS, layout.ROUND_WEIGHTS)

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds

    def see(self, piece: TensorPiece) -> None:
        if piece.file == layout.ROUND_WEIGHTS and not all_finite(piece):
            raise BundleError(f"tensor holds NaN or infinite values: {piece.tensor!r}; train or export it again")

    def verdict(self, places: Places) -> str:
        stored = {name: place.header for name, place in places[layout.ROUND_WEIGHTS].items()}
        last = {name: place.header for name, place in places[layout.WEIGHTS].items()}
        end, saved = self._rounds.last, saved_rounds(stored)
        if saved and saved[-1] >= end:
            raise BundleError(f"weights of round {saved[-1]}, the last is {end}; {_AGAIN}")
        for number in saved:
            wanted = {name: header.shape for name, header in last.items()}
            wanted |= {weight_name(layer): (kept,) for layer, kept in self._rounds.kept(number).items()}
            for name, shape in wanted.items():
                found = stored.get(f"{number}/{name}", last[name])
                if found.shape != shape or found.dtype != last[name].dtype:
                    raise BundleError(
                        f"tensor does not fit its round: '{number}/{name}' is {found.dtype} {found.shape}, not "
                        f"{last[name].dtype} {shape}; {_AGAIN}"
                    )
        odd = sorted(name for name in stored if (match := SNAPSHOT.fullmatch(name)) and match[2] not in last)
        if odd:
            raise BundleError(f"tensor does not fit its round: {odd[0]!r} has no counterpart; {_AGAIN}")
        return f"towers of {len(saved)} earlier rounds, each with a value for every kept weight"


class TensorHashes(Law):
    """No law: the hashes of chosen tensors of the tower, over their bytes as they are stored."""

    name, files = "tensor hashes", (layout.WEIGHTS,)

    def __init__(self, names: Collection[str]) -> None:
        self._hashes = {name: hashlib.sha256() for name in names}
        self.found: dict[str, str] = {}  # hex, of those that are there

    def see(self, piece: TensorPiece) -> None:
        if piece.tensor in self._hashes:
            self._hashes[piece.tensor].update(piece.values.data)

    def verdict(self, places: Places) -> str:
        self.found = {name: sha.hexdigest() for name, sha in self._hashes.items() if name in places[layout.WEIGHTS]}
        return f"{len(self.found)} tensors"


def unpacked(bits: NDArray[np.uint8], count: int) -> NDArray[np.bool_]:
    """The first `count` bits of packed mask bytes, bool."""
    return np.unpackbits(bits, count=count, bitorder="little").view(np.bool_)


def all_finite(piece: TensorPiece) -> bool:
    """Whether no value is NaN or infinite; whole numbers never are."""
    values: NDArray[Any] = piece.values
    if piece.dtype == "bfloat16":
        return bool(((values & 0x7F80) != 0x7F80).all())
    return not np.issubdtype(values.dtype, np.floating) or bool(np.isfinite(values).all())
