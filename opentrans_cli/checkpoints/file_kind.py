"""What a checkpoint file is, from its first bytes and not from its suffix; torch is not loaded."""

from __future__ import annotations

import zipfile
from pathlib import Path

from opentrans_cli.errors import SourceError

_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch's magic number, pickled

PLAIN_PICKLE = "a plain pickle, as detectron2's model zoo has them"
"""What `file_kind` calls a file that numpy_pickle reads."""


def file_kind(path: Path) -> str:
    """What the first bytes of a file say it is: "safetensors", "zip", "old torch", "json", or words for an error.

    Raises SourceError for a file that is missing, empty or cannot be read.
    """
    try:
        if not path.stat().st_size:  # before it is opened, which would wait for ever on a pipe
            raise SourceError(f"the checkpoint is empty: {path}; download or export it again")
        with path.open("rb") as file:
            start = file.read(64)
    except FileNotFoundError as error:
        raise SourceError(f"no such checkpoint: {path}; check the path") from error
    except OSError as error:
        raise SourceError(f"cannot read: {path} ({error.strerror or error}); check the path and its rights") from error
    if start.startswith(b"version https://git-lfs"):
        raise SourceError(f"Git LFS pointer instead of the checkpoint: {path}; run `git lfs pull` in its folder")
    if start.startswith(_OLD_TORCH):
        return "old torch"
    if start.startswith(b"PK\x03\x04"):
        return "zip"
    # A safetensors file starts with the length of its JSON header; text read as a length is absurdly large.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 40:
        return "safetensors"
    if start.startswith(b"\x80"):
        return PLAIN_PICKLE
    return "json" if start.lstrip().startswith(b"{") else "something else"


def refuse_torchscript(path: Path) -> None:
    """Raises SourceError for a zip file with code in it, and one that cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise SourceError(f"cannot read the checkpoint: {path} ({reason}); download or export it again") from error
    if any(name.endswith("/constants.pkl") for name in names):
        raise SourceError(
            f"a TorchScript archive, which holds code: {path}; save its tensors alone with "
            "torch.save(torch.jit.load(FILE).state_dict(), NEW), or name the model as open_clip does (RN50:openai)"
        )
