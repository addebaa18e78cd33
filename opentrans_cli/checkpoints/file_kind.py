"""Find the kind of a checkpoint file from its first bytes, not from its suffix."""

from __future__ import annotations

from pathlib import Path

from opentrans_cli.checkpoints.pickle_data import OLD_MAGIC
from opentrans_cli.errors import SourceError
from opentrans_cli.files.header import is_lfs_pointer
from opentrans_cli.files.near import near_path
from opentrans_cli.files.regular import open_regular

SAFETENSORS, SHARDS = "a safetensors file", "an index of shards"
TORCH, OLD_TORCH, PICKLE = "a file of torch", "a file of torch before 1.6", "a plain pickle"

AGAIN = "download or export it again"
_UNPACK = "unpack it and give the checkpoint inside"
_EXPORT = "give a state dict saved with safetensors or torch.save"
_PICKLES = (b"\x80", b"(dp", b"}q", b"ccollections\n", b"ccopy_reg\n")  # a dict or an object in any protocol
# Other files that people pass as checkpoints: their first bytes, a description, and what to do next.
_OTHERS = (
    (b"\x89HDF", "an HDF5 file", _EXPORT),
    (b"GGUF", "a GGUF file", _EXPORT),
    (b"\x93NUMPY", "one array of numpy", _EXPORT),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"BZh", "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ", "an xz archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstandard archive", _UNPACK),
    (b"7z\xbc\xaf", "a 7-zip archive", _UNPACK),
    (b"/annex/objects", "a pointer of git-annex", "run `git annex get` in its folder"),
)


def file_kind(path: Path) -> str:
    """The kind of the checkpoint `path`, one of the constants above.

    Raises SourceError for a file that is missing or of another kind; it says what the file is and what to do next.
    """
    try:
        with open_regular(path) as file:
            start = file.read(512)
    except FileNotFoundError as error:
        raise SourceError(f"no such checkpoint: {path}; check the path{near_path(path)}") from error
    except OSError as error:
        raise SourceError(f"cannot read: {path} ({error.strerror or error}); check the path and its rights") from error
    if not start:
        raise SourceError(f"the checkpoint is empty: {path}; {AGAIN}")
    if is_lfs_pointer(start):
        raise SourceError(f"Git LFS pointer instead of the checkpoint: {path}; run `git lfs pull` in its folder")
    if start.startswith(OLD_MAGIC):
        return OLD_TORCH
    if start.startswith(b"PK\x03\x04"):
        return TORCH
    # A safetensors file starts with the length of its JSON header; text read as a length gives a far too large number.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 40:
        return SAFETENSORS
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"{"):
        return SHARDS
    what, move = "something else", _EXPORT
    if text.startswith(b"<"):
        what, move = "a web page", "download the file itself, with its direct link"
    elif start[257:262] == b"ustar":
        what, move = "a tar archive", _UNPACK
    else:
        found = next((other for other in _OTHERS if start.startswith(other[0])), None)
        if found is None and start.startswith(_PICKLES):
            return PICKLE
        what, move = found[1:] if found else (what, move)
    raise SourceError(f"not a checkpoint but {what}: {path}; {move}")
