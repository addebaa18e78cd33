"""The content of a bundle's folder: where each declared file is, and what must not be there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from opentrans_cli.bundle.manifest import FILE_NAME, FORMAT, FileEntry, Manifest
from opentrans_cli.errors import BundleError
from opentrans_cli.files.atomic import replaced_copy
from opentrans_cli.files.header import is_lfs_pointer
from opentrans_cli.files.near import near_path
from opentrans_cli.files.records import parse_json
from opentrans_cli.files.targets import check_folder_target
from opentrans_cli.files.tensorfile import read_bytes

MANIFEST = "manifest.json"
MAX_MANIFEST = 32 << 20  # bytes
_MAX_FOLDERS = 32  # levels below a bundle; it needs one itself, and a repository around it may have more

# Tensor and pickle files that the manifest does not declare are refused: another program might load them.
_REFUSED = {".safetensors", ".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib", ".npy", ".npz", ".py", ".so"}
_HARMLESS = {".DS_Store", ".gitattributes", "model.sig"}


def read_manifest(folder: Path) -> Manifest:
    """The checked manifest of the bundle in `folder`.

    Raises BundleError when there is none or it is wrong.
    """
    where = f"{str(folder / MANIFEST)!r}"
    return Manifest.from_json(parse_json(manifest_bytes(folder), where), where)


def manifest_bytes(folder: Path) -> bytes:
    """The bytes of `manifest.json`. Raises BundleError, saying what to do next, if `folder` is not a bundle."""
    path = folder / MANIFEST
    try:
        there = folder.exists()
    except OSError as error:
        raise BundleError(f"cannot read: {str(folder)!r}, {error.strerror or error}; check the path") from error
    if not there:
        aside = None if "\0" in str(folder) else replaced_copy(Path(os.path.realpath(folder)))
        if aside is not None and aside.is_dir():
            raise BundleError(f"bundle was cut off while being replaced: {str(folder)!r}; rename {str(aside)!r} to it")
        raise BundleError(
            f"no such bundle: {str(folder)!r}; check the path, or make one with `opentrans prune`{near_path(folder)}"
        )
    if not path.is_file():
        raise BundleError(
            f"not a bundle: {str(folder)!r} has no {MANIFEST}; pass a folder that `opentrans prune` wrote"
        )
    _refuse_link_out(folder, path)
    if path.stat().st_size > MAX_MANIFEST:
        raise BundleError(f"manifest is too large: {str(path)!r}; write or download the bundle again")
    return read_bytes(path)


def file_path(folder: Path, entry: FileEntry) -> Path:
    """Where the content of `entry` is: its own name, or the pending name when `add_file` was killed before
    its last rename.

    Raises BundleError if a link leads out of the folder, even if it was put there after the bundle was opened.
    """
    pending = pending_path(folder, entry)
    path = pending if pending.is_file() else folder / entry.name
    _refuse_link_out(folder, path)
    _refuse_link_out(folder, path.parent)
    return path


def pending_path(folder: Path, entry: FileEntry) -> Path:
    """Where `add_file` puts new content first.

    The hash in the name ties it to the one manifest that declares it.
    """
    path = folder / entry.name
    return path.with_name(f".{path.name}.{entry.sha256[:16]}.next")


def check_bundle_folder(folder: Path, manifest: Manifest) -> None:
    """Raises BundleError unless every declared file is there with its size, no link leads out of the folder, and there
    are no dangerous files.
    """
    for entry in manifest.files:
        _check_file(file_path(folder, entry), entry)
    declared = {entry.name for entry in manifest.files}
    for path in _walk(folder):
        _refuse_link_out(folder, path)
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() in _REFUSED and name not in declared:
            raise BundleError(f"undeclared file in the bundle: {str(path)!r}; remove it, nothing vouches for it")


def check_replaceable(target: Path, *, force: bool) -> None:
    """Raises OutputError unless a new bundle may be written at `target`: nothing there, or with `force` a bundle or an
    empty folder.
    """
    check_folder_target(target, force=force, foreign=_foreign)


def _foreign(target: Path) -> Iterator[str]:
    """The content of a folder that is not part of a bundle."""
    ours = _is_ours(target)
    for path in _walk(target):
        name = path.relative_to(target).as_posix()
        part = name == MANIFEST or FILE_NAME.fullmatch(name) or name in _HARMLESS or name.endswith((".next", ".tmp"))
        if not path.is_dir() and not (ours and part):
            yield name


def _is_ours(target: Path) -> bool:
    """Whether manifest.json belongs to a bundle, damaged or not."""
    try:
        document = parse_json(manifest_bytes(target), MANIFEST)
    except BundleError:
        return False
    return isinstance(document, dict) and document.get("format") == FORMAT


def _walk(folder: Path) -> list[Path]:
    """Everything below `folder`, links not followed, in a fixed order."""
    found: list[Path] = []
    waiting = [folder]
    while waiting:  # no recursion: folders can be nested deeper than Python calls
        place = waiting.pop()
        if len(place.parts) > len(folder.parts) + _MAX_FOLDERS:
            raise BundleError(f"folders are nested too deeply: {str(folder)!r}; remove what is no part of the bundle")
        with suppress(OSError), os.scandir(place) as entries:  # a folder that cannot be listed cannot be loaded either
            for entry in entries:
                found.append(place / entry.name)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(place / entry.name)
    return sorted(found)


def _resolved(path: Path) -> Path:
    """`path` with its links resolved. Raises BundleError if they lead in a circle."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise BundleError(f"link leads nowhere: {str(path)!r}; replace it by the file itself") from error


def _refuse_link_out(folder: Path, path: Path) -> None:
    if path != folder and path.is_symlink() and not _resolved(path).is_relative_to(_resolved(folder)):
        raise BundleError(f"link leaves the bundle: {str(path)!r}; replace it by the file itself")


def _check_file(path: Path, entry: FileEntry) -> None:
    if not path.is_file():
        raise BundleError(f"file of the bundle is missing: {str(path)!r}; write or download the bundle again")
    size = path.stat().st_size
    if size == entry.bytes:
        return
    with path.open("rb") as file:
        if is_lfs_pointer(file.read(64)):
            raise BundleError(f"Git LFS pointer instead of the file: {str(path)!r}; run `git lfs pull` in its folder")
    raise BundleError(
        f"file has the wrong size: {str(path)!r} has {size} bytes, the manifest says {entry.bytes}; "
        "write or download the bundle again"
    )
