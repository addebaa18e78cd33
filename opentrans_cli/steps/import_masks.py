"""import: make a bundle, with masks and values, from a checkpoint that another program pruned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.bundle.contents import BundleContents
from opentrans_cli.bundle.folder import check_replaceable
from opentrans_cli.bundle.layout import weight_name
from opentrans_cli.bundle.manifest import DTYPES
from opentrans_cli.bundle.store import write_bundle
from opentrans_cli.checkpoints.pruned import ZEROS, PrunedCheckpoint, masked, open_pruned
from opentrans_cli.checkpoints.state_names import MASKS_BESIDE
from opentrans_cli.clip.architecture import NarrowTower
from opentrans_cli.clip.key_tables import Found, Place, check_narrow, find_tower_layers, laid_out
from opentrans_cli.clip.layers import choose_layers, tower_candidates
from opentrans_cli.errors import MaskError, OptionError, SourceError, TransferError, unknown
from opentrans_cli.files.records import json_bytes
from opentrans_cli.files.targets import prepare_parent
from opentrans_cli.reporter import LOGGED, Reporter
from opentrans_cli.steps.sources import Tower, load_tower
from opentrans_cli.steps.step_record import step_record

REPORT = "reports/import.json"
PATTERN = "unstructured"
FEW = 0.01
"""Below this sparsity the zeros of a checkpoint may be there by chance, as in weights that were stored as float16."""

_NAME_BASE = "name the CLIP it was pruned from with --base, for example --base RN50-quickgelu:openai"


@dataclass(frozen=True)
class ImportResult:
    """What `import` made."""

    path: Path | None  # of the bundle; None in the report inside the bundle
    format: str  # kind of the file, see checkpoints/pruned.py
    keys: str  # the key table that fits the file's names
    prefix: str  # prefix of its keys
    sparsity: float  # removed / prunable, exact
    kept: int
    total: int
    layers: int  # number of layers in the bundle
    from_base: tuple[str, ...]  # tensors of the tower that the file lacks, or has in another shape
    unused_masks: tuple[str, ...]  # tensors with a mask in the file that are no layer of the tower
    mask_only: bool

    def to_json(self) -> dict[str, Any]:
        """The import report of `artifacts.schema.json`."""
        report = asdict(self) | {"path": None if self.path is None else str(self.path)}
        return report | {name: list(report[name]) for name in ("from_base", "unused_masks")}


@dataclass(frozen=True)
class _Read:
    """What was read from the file, by names inside the tower."""

    masks: dict[str, np.ndarray]  # by layer
    tower: dict[str, np.ndarray]
    from_base: tuple[str, ...]
    unused_masks: tuple[str, ...]


def import_masks(
    source: str | Path,
    *,
    out: str | Path,
    force: bool = False,
    reporter: Reporter | None = None,
    base: str | None = None,
    format: str | None = None,
    keys: str | None = None,
    under: str | None = None,
    include: Iterable[str] = (),
    mask_only: bool = False,
    dtype: str = "float32",
) -> ImportResult:
    """Read the checkpoint `source`, which another program pruned, and write masks and values as a new bundle at `out`.

    base: the CLIP it was pruned from, any source but a bundle; it gives the architecture, and the tensors that the
    file lacks. None: the file is a whole CLIP. format, keys, under: kind of file, key table and prefix; they are found
    from the content if not given. Layers are those that are pruned by default, those with a mask in the file, and those
    that match the globs `include`; without masks in the file, its zeros are the removed weights. With `mask_only` no
    values are written. Raises OptionError, SourceError, TransferError, BundleError, or MaskError for a file that prunes
    nothing.
    """
    if dtype not in DTYPES:
        raise OptionError(unknown("dtype", dtype, DTYPES))
    reporter, out = reporter or LOGGED, Path(out)
    check_replaceable(out, force=force)
    prepare_parent(out)
    include, path = tuple(include), Path(source)
    foreign = open_pruned(path, format)
    _check_whole(foreign)
    tower = _base(foreign, base, reporter)
    found, layers = _places(foreign, tower, keys=keys, under=under, include=include)
    read = _read(foreign, tower, found, layers, values=not mask_only)
    sparsity = _sparsity(read.masks, foreign)
    _tell(read, sparsity, found, foreign, reporter)
    recorded = {
        "file": str(source),
        "format": foreign.format,
        "keys": found.table.name,
        "under": found.prefix,
        "include": list(include),
        "base": base,
        "dtype": dtype,
        "mask_only": mask_only,
    }
    step = step_record("import", recorded, seed=None, data=f"sha256:{foreign.file.sha256()}")
    contents = BundleContents(
        base=tower.base,
        pattern=PATTERN,
        target_sparsity=sparsity,
        masks=read.masks,
        tower=read.tower,
        steps=(step,),
        dtype=dtype,
    )
    return _written(contents, out, foreign, found, read, force=force)


def _check_whole(foreign: PrunedCheckpoint) -> None:
    """Raises SourceError if weights are parametrized and their masks are not in the file."""
    bare = next((name for name in foreign.tensors if name.endswith(".parametrizations.weight.original")), None)
    if bare is not None:
        raise SourceError(
            f"a parametrized weight without its mask: '{bare}' in {foreign.path}; torch.ao.pruning leaves masks out of "
            "state_dict(), so save the sparsifier's state_dict() beside it, or call its squash_mask() first"
        )


def _base(foreign: PrunedCheckpoint, base: str | None, reporter: Reporter) -> Tower:
    """The tower that was pruned, or one with the same architecture."""
    if base is not None:
        tower = load_tower(base, reporter)
        if tower.bundle is not None:
            raise OptionError(f"a base is a CLIP, not a bundle: {base}; name what it was cut from, {tower.base.source}")
        return tower
    if foreign.format != ZEROS:
        raise SourceError(f"the checkpoint cannot be its own base, for it holds masks: {foreign.path}; {_NAME_BASE}")
    try:
        return load_tower(str(foreign.path), reporter)
    except NarrowTower:
        raise
    except SourceError as error:
        raise SourceError(f"no whole CLIP in the checkpoint: {foreign.path}; {_NAME_BASE}") from error


def _places(
    foreign: PrunedCheckpoint, tower: Tower, *, keys: str | None, under: str | None, include: tuple[str, ...]
) -> tuple[Found, tuple[str, ...]]:
    """The place of the tower in the file, and the layers that get a mask, in module order."""
    possible = tower_candidates(tower.shapes)
    chosen = choose_layers(possible, include=include)
    shapes = {candidate.name: candidate.shape for candidate in possible if candidate.name in chosen}
    try:
        found = find_tower_layers(
            shapes,
            foreign.shapes,
            where=str(foreign.path),
            table=keys,
            under=under,
            next_move="name the CLIP it was pruned from with --base, or where it is with --keys and --under",
        )
    except TransferError:
        check_narrow(shapes, foreign.shapes, where=str(foreign.path))
        raise
    masked = foreign.masked
    layers = tuple(
        candidate.name
        for candidate in possible
        if candidate.name in chosen
        or any(place.key in masked for place in found.places(weight_name(candidate.name), candidate.shape))
    )
    return found, layers


def _read(foreign: PrunedCheckpoint, tower: Tower, found: Found, layers: tuple[str, ...], *, values: bool) -> _Read:
    """Masks of all layers and, with `values`, the dense tower, one tensor of the file at a time."""
    weights = {weight_name(layer): layer for layer in layers}
    masks: dict[str, np.ndarray] = {}
    dense: dict[str, np.ndarray] = {}
    from_base: list[str] = []
    used: set[str] = set()
    for name, own in tower.state.items():
        places = found.places(name, own.shape)
        value, mask = _tensor(foreign, found, name, places, own)
        if value is None:
            from_base.append(name)
            value = own
        if mask is not None:
            value = masked(value, mask)
        if name in weights:
            used |= {place.key for place in places}
            whole = value != 0 if foreign.format == ZEROS else np.ones(value.shape, np.bool_)
            masks[weights[name]] = np.ascontiguousarray(whole if mask is None else mask)
        if values:
            dense[name] = np.asarray(value, order="C")
    return _Read(masks, dense, tuple(from_base), tuple(sorted(foreign.masked - used)))


def _tensor(
    foreign: PrunedCheckpoint, found: Found, name: str, places: tuple[Place, ...], own: NDArray[Any]
) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Values and mask of the tensor `name`, the values with the dtype of the base's tensor `own`; None if missing."""
    values, masks = [], []
    for place in places:
        rows = found.rows(place)
        value, mask = foreign.values(place.key, rows), foreign.mask(place.key, rows)
        if value is not None and _floating(own) and not _floating(value):
            raise SourceError(f"weight is {value.dtype}: '{place.key}' in {foreign.path}; export it in floating point")
        values += [] if value is None else [laid_out(value, place).astype(own.dtype)]
        masks += [] if mask is None else [laid_out(mask, place)]
    if masks and len(masks) < len(places):
        raise SourceError(f"only a part of a tensor has a mask: '{name}' in {foreign.path}; export it again")
    return _joined(values), _joined(masks)


def _floating(values: NDArray[Any]) -> bool:
    return np.issubdtype(values.dtype, np.floating)


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any] | None:
    return None if not parts else parts[0] if len(parts) == 1 else np.concatenate(parts)


def _sparsity(masks: Mapping[str, np.ndarray], foreign: PrunedCheckpoint) -> float:
    """Removed / prunable, exact. Raises MaskError if nothing is pruned, or everything."""
    path, entries = (
        foreign.path,
        (*foreign.file.beside, *(name.split(".")[0] for name in foreign.file.tensors if "." in name)),
    )
    apart = None if foreign.file.masks else next((key for key in entries if MASKS_BESIDE.fullmatch(key)), None)
    move = (
        "give a pruned one"
        if apart is None
        else f"the masks in '{apart}' are not read, as names or shapes are not those of the weights: give them these"
    )
    kept = sum(int(np.count_nonzero(mask)) for mask in masks.values())
    total = sum(mask.size for mask in masks.values())
    if kept == total:
        raise MaskError(f"nothing is pruned: {path} has no zero among {total} prunable weights; {move}")
    if not kept:
        raise MaskError(f"everything is pruned: {path} keeps none of {total} prunable weights; give another one")
    return 1 - kept / total


def _tell(read: _Read, sparsity: float, found: Found, foreign: PrunedCheckpoint, reporter: Reporter) -> None:
    reporter.say(
        f"{foreign.path}: {foreign.format}, keys of {found.table.name} under '{found.prefix}', "
        f"{len(read.masks)} layers, sparsity {sparsity:.4f}"
    )
    if foreign.file.note is not None:
        reporter.say(foreign.file.note)
    if read.from_base:
        reporter.say(f"not in the file, taken from the base: {_list(read.from_base)}")
    if read.unused_masks:
        reporter.say(f"masked in the file, but no layer of the tower: {_list(read.unused_masks)}")
    if foreign.format == ZEROS and sparsity < FEW:
        reporter.say(f"only {100 * sparsity:.4f} % are zero, which may be chance: is the file pruned?")


def _list(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _written(
    contents: BundleContents, out: Path, foreign: PrunedCheckpoint, found: Found, read: _Read, *, force: bool
) -> ImportResult:
    """Write the bundle with the report in it, without the bundle's path, which would change its bytes."""
    masks = read.masks
    result = ImportResult(
        path=None,
        format=foreign.format,
        keys=found.table.name,
        prefix=found.prefix,
        sparsity=contents.target_sparsity,
        kept=sum(int(np.count_nonzero(mask)) for mask in masks.values()),
        total=sum(mask.size for mask in masks.values()),
        layers=len(masks),
        from_base=read.from_base,
        unused_masks=read.unused_masks,
        mask_only=not read.tower,
    )
    written = write_bundle(out, replace(contents, reports={REPORT: json_bytes(result.to_json())}), force=force)
    return replace(result, path=written.path)
