"""Files of a repo on the Hub: from any byte on, and never more of them than was asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from opentrans_cli.bundle.folder import MANIFEST, MAX_MANIFEST
from opentrans_cli.bundle.hub.client import HubRef, client, endpoint, hub_errors, retrying, silent_client
from opentrans_cli.bundle.manifest import FileEntry, Manifest
from opentrans_cli.errors import HubError
from opentrans_cli.files.header import PREFIX, Place, header_length, is_lfs_pointer, parse_header
from opentrans_cli.files.records import parse_json

COMMIT = re.compile(r"[0-9a-f]{40}")

_TIMEOUT = 30.0  # seconds without a byte
_FIRST_READ = 32 << 10  # bytes; holds the header of most files, so that one request is enough
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class Body(NamedTuple):
    """An answer that has begun: bytes of a file from `start` on. The server may ignore where we wanted to start."""

    start: int
    size: int | None  # of the whole file, as the server says
    chunks: Iterator[bytes]


@dataclass(frozen=True)
class RemoteRepo:
    """A repo at one commit. Every method raises HubError; what the network does meanwhile is tried again."""

    ref: HubRef
    commit: str

    def manifest_bytes(self) -> bytes | None:
        """The text of `manifest.json`; None if the repo has none."""
        from huggingface_hub.errors import EntryNotFoundError

        try:
            with silent_client():
                data = retrying(lambda: self._read(MANIFEST, MAX_MANIFEST))
        except EntryNotFoundError:
            return None
        except Exception:
            with hub_errors(str(self.ref)):
                raise
        if is_lfs_pointer(data):
            raise HubError(
                f"Git LFS pointer instead of the manifest: {self.ref}; ask its owner to upload the file itself"
            )
        return data

    def manifest(self) -> Manifest | None:
        """The checked manifest; None if the repo has none. Raises BundleError if it is wrong."""
        data = self.manifest_bytes()
        return None if data is None else self.parse(data)

    def parse(self, data: bytes) -> Manifest:
        """The manifest in the text `data`. Raises BundleError, naming the repo."""
        where = f"{MANIFEST} of {self.ref}"
        return Manifest.from_json(parse_json(data, where), where)

    def places(self, entry: FileEntry) -> dict[str, Place]:
        """The tensors of a declared file, from its header alone. Raises BundleError for a damaged one."""
        where = f"{entry.name} of {self.ref}"
        with hub_errors(f"{self.ref}, {entry.name}"), silent_client():
            start = retrying(lambda: self.read_range(entry, 0, _FIRST_READ))
            end = PREFIX + header_length(start[:64], entry.bytes, where)
            if end > len(start):
                start += retrying(lambda: self.read_range(entry, len(start), end))
        return parse_header(start[PREFIX:end], entry.bytes, where)

    def read_range(self, entry: FileEntry, start: int, end: int) -> bytes:
        """Bytes `start` to `end`, or to the end of the file. Raises what the client raises, and HubError."""
        end = min(end, entry.bytes)
        with self.opened(entry.name, start, end) as body:
            self.check_size(entry, body)
            skipped, data = start - body.start, bytearray()
            for chunk in body.chunks:
                data += chunk
                if len(data) >= skipped + end - start:
                    break
        if len(data) < skipped + end - start:
            raise ConnectionError("answer was cut off")
        return bytes(data[skipped : skipped + end - start])

    def check_size(self, entry: FileEntry, body: Body) -> None:
        """HubError if the server has another size for the file than the manifest."""
        if body.size is not None and body.size != entry.bytes:
            raise HubError(
                f"file on the Hub is not the declared one: {entry.name} of {self.ref} has {body.size} bytes, the "
                f"manifest says {entry.bytes}; ask its owner to push the bundle again"
            )

    def _read(self, name: str, limit: int) -> bytes:
        with self.opened(name) as body:
            data = bytearray()
            for chunk in body.chunks:
                data += chunk
                if max(len(data), body.size or 0) > limit:
                    raise HubError(
                        f"file on the Hub is too large: {name} of {self.ref}, at most {limit} bytes are read; "
                        "tell its owner"
                    )
        return bytes(data)

    @contextmanager
    def opened(self, name: str, start: int = 0, end: int | None = None) -> Iterator[Body]:
        """The file `name` from byte `start` on, to `end` if that is given. Raises what the client raises."""
        from huggingface_hub import hf_hub_url, utils

        hub: Any = utils  # what it offers is public, but not declared
        headers = {**hub.build_hf_headers(library_name="opentrans"), "Accept-Encoding": "identity"}
        if start or end is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        url = hf_hub_url(self.ref.repo, name, revision=self.commit, endpoint=endpoint())
        with hub.get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT) as response:
            if response.status_code >= 400:
                response.read()
            hub.hf_raise_for_status(response)
            yield _body(response)


def _body(response: Any) -> Body:
    headers = response.headers
    chunks = response.iter_bytes()
    given = _RANGE.fullmatch(headers.get("Content-Range") or "")
    if response.status_code == 206 and given:
        return Body(int(given[1]), int(given[3]), chunks)
    length = headers.get("Content-Length") or ""
    return Body(0, int(length) if length.isdigit() else None, chunks)


def resolve(ref: HubRef, *, attempts: int = 5) -> RemoteRepo:
    """The repo at the commit its revision names now. Raises what the client raises."""
    if ref.revision and COMMIT.fullmatch(ref.revision):
        return RemoteRepo(ref, ref.revision)
    with silent_client():
        info = retrying(lambda: client().model_info(ref.repo, revision=ref.revision), attempts=attempts)
    if not COMMIT.fullmatch(info.sha or ""):
        raise HubError(f"the Hub names no commit: {ref}; check HF_ENDPOINT")
    return RemoteRepo(ref, str(info.sha))
