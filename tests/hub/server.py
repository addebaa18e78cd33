"""A Hugging Face Hub on loopback that the real client talks to: models, branches, tags, LFS, and faults on demand.

Only the standard library, only memory. It speaks what huggingface_hub 2.4 asks for: create, preupload, LFS batch, PUT,
parts and verify, commit, model info, tree, paths-info, refs, tag, and resolve with ranges. State is shared between
servers that are given the same `state`, so that one can be stopped and started.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

LONGEST_WAIT = 600.0
"""Seconds after which every wait of the server ends, whatever a test forgot."""

ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


@dataclass(frozen=True)
class Blob:
    """One file of a commit."""

    data: bytes
    lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def oid(self) -> str:
        """git's name for what is stored: the file itself, or the pointer that stands for it."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
        stored = pointer.encode() if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid

    def entry(self, path: str) -> dict[str, Any]:
        """The file in answers of `tree` and `paths-info`."""
        found: dict[str, Any] = {"type": "file", "oid": self.oid, "size": len(self.data), "path": path}
        if self.lfs:
            found["lfs"] = {"oid": self.sha256, "size": len(self.data), "pointerSize": 134}
        return found


@dataclass(frozen=True)
class Commit:
    """One commit of a repo."""

    files: Mapping[str, Blob]
    summary: str
    parent: str | None


@dataclass
class Repo:
    """One model repo."""

    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)  # by 40 hexadecimal digits, oldest first
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, a tag, or of at least the first 7 digits of a commit."""
        named = self.branches.get(revision) or self.tags.get(revision)
        short = (sha for sha in self.commits if len(revision) >= 7 and sha.startswith(revision))
        return named or next(short, None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Content by path at a revision."""
        sha = self.resolve(revision)
        assert sha is not None, f"no revision {revision}"
        return {path: blob.data for path, blob in self.commits[sha].files.items()}

    def add_commit(self, branch: str, files: Mapping[str, Blob], summary: str) -> str:
        parent = self.branches.get(branch)
        names = sorted((path, blob.oid) for path, blob in files.items())
        sha = hashlib.sha1(json.dumps([summary, parent, len(self.commits), names]).encode()).hexdigest()
        self.commits[sha] = Commit(dict(files), summary, parent)
        self.branches[branch] = sha
        return sha


@dataclass
class HubState:
    """What a Hub holds."""

    repos: dict[str, Repo] = field(default_factory=dict)  # by "org/name"
    objects: dict[str, bytes] = field(default_factory=dict)  # LFS content by sha256
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)  # of LFS content that is on its way


class Request(NamedTuple):
    """One request as it arrived."""

    method: str
    path: str  # without the query
    range: str | None  # the header
    authorized: bool  # came with a token
    sent: int  # bytes of body

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class _Fault:
    kind: str  # "fail", "drop", "lose" or "slow"
    pattern: str
    value: float  # status, bytes or seconds
    times: int  # left


class HubServer:
    """The server, running while the `with` block does; `url` is its endpoint.

    A pattern of a fault is a regular expression searched in "METHOD /path". A fault strikes `times` times.
    """

    def __init__(self, *, state: HubState | None = None) -> None:
        self.state = state or HubState()
        self.log: list[Request] = []
        self.lfs_above = 10 << 20  # bytes; larger files go the LFS way, like all .safetensors
        self.part_bytes: int | None = None  # larger LFS files are sent in parts of this size
        self.token: str | None = None  # the only one accepted; None: any
        self.refusal = "this token may not do that"  # what others are told
        self.ranges = True
        self.lock = threading.RLock()
        self._arrived = threading.Condition(self.lock)
        self._healed = threading.Event()
        self._generation = 0
        self._faults: list[_Fault] = []
        self._corrupt: dict[str, int] = {}
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.daemon_threads = True
        self._http.block_on_close = False
        self._http.hub = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    @property
    def repos(self) -> dict[str, Repo]:
        return self.state.repos

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.forget()
        self.heal()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(LONGEST_WAIT)

    def fail(self, pattern: str, status: int = 503, times: int = 1) -> None:
        """Answer with an error instead of doing what is asked."""
        self._faults.append(_Fault("fail", pattern, status, times))

    def drop(self, pattern: str, after_bytes: int = 0, times: int = 1) -> None:
        """Close the connection in the midst of the body: of the request where it has one, else of the answer."""
        self._faults.append(_Fault("drop", pattern, after_bytes, times))

    def lose(self, pattern: str, times: int = 1) -> None:
        """Do what is asked, and close the connection instead of answering."""
        self._faults.append(_Fault("lose", pattern, 0, times))

    def slow(self, pattern: str, seconds: float = LONGEST_WAIT, times: int = 1) -> None:
        """Wait: before the second half of the answer's body where a file is read, else before anything is done."""
        self._faults.append(_Fault("slow", pattern, min(seconds, LONGEST_WAIT), times))

    def corrupt(self, path: str, times: int = 1 << 30) -> None:
        """Send the file `path` with the right size and one wrong byte."""
        self._corrupt[path] = times

    def heal(self) -> None:
        """No faults any more; whoever waits goes on."""
        with self.lock:
            self._faults.clear()
            self._corrupt.clear()
            self.ranges = True
            waited, self._healed = self._healed, threading.Event()
        waited.set()

    def forget(self) -> None:
        """Do nothing of what is waiting: its client is gone."""
        with self.lock:
            self._generation += 1

    def refuse_range(self) -> None:
        """Answer a request for a range with the whole file, as servers without ranges do."""
        self.ranges = False

    def requests(self, pattern: str) -> list[Request]:
        """Those that matched so far."""
        with self.lock:
            return [request for request in self.log if re.search(pattern, str(request))]

    def wait_for(self, pattern: str, count: int = 1, seconds: float = 30) -> bool:
        """Whether `count` matching requests arrived within `seconds`."""
        with self._arrived:
            return self._arrived.wait_for(lambda: len(self.requests(pattern)) >= count, seconds)

    def pause(self, seconds: float) -> None:
        """Wait for the time to pass or `heal`; raises if the request is forgotten meanwhile."""
        generation, healed = self._generation, self._healed
        healed.wait(seconds)
        if self._generation != generation:
            raise _Dropped

    def arrived(self, request: Request) -> list[_Fault]:
        """Log a request; the faults that strike it, of each kind one."""
        with self._arrived:
            self.log.append(request)
            self._arrived.notify_all()
            struck: dict[str, _Fault] = {}
            for fault in self._faults:
                if fault.times > 0 and fault.kind not in struck and re.search(fault.pattern, str(request)):
                    fault.times -= 1
                    struck[fault.kind] = fault
            return list(struck.values())

    def content(self, path: str, blob: Blob) -> bytes:
        """What is sent for a file: its bytes, or a wrong copy."""
        if self._corrupt.get(path, 0) <= 0 or not blob.data:
            return blob.data
        self._corrupt[path] -= 1
        middle = len(blob.data) // 2
        return blob.data[:middle] + bytes([blob.data[middle] ^ 0xFF]) + blob.data[middle + 1 :]

    def is_lfs(self, path: str, size: int) -> bool:
        return size > 0 and (path.endswith(".safetensors") or size > self.lfs_above)


class _Error(Exception):
    """An answer that is an error; `code` selects the client's exception class."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class _Dropped(Exception):
    """The connection was closed on purpose."""


_REPO = r"(?P<repo>[^/]+/[^/]+)"
_MODEL = rf"/api/models/{_REPO}"
_ROUTES = [
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", "batch"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "put"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})/(?P<part>\d+)", "put_part"),
    ("POST", r"/lfs-complete/(?P<oid>[0-9a-f]{64})", "complete"),
    ("POST", r"/lfs-verify", "verify"),
    ("POST", rf"{_MODEL}/preupload/(?P<rev>[^/]+)", "preupload"),
    ("POST", rf"{_MODEL}/commit/(?P<rev>[^/]+)", "commit"),
    ("GET", rf"{_MODEL}", "info"),
    ("GET", rf"{_MODEL}/revision/(?P<rev>[^/]+)", "info"),
    ("GET", rf"{_MODEL}/tree/(?P<rev>[^/]+)(/.*)?", "tree"),
    ("POST", rf"{_MODEL}/paths-info/(?P<rev>[^/]+)", "paths_info"),
    ("GET", rf"{_MODEL}/refs", "refs"),
    ("POST", rf"{_MODEL}/tag/(?P<rev>[^/]+)", "tag"),
    ("GET", rf"/{_REPO}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", "resolve"),
]
# Storage answers to whoever knows the address, as the Hub's does.
_OPEN = {"put", "put_part", "complete", "validate"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = LONGEST_WAIT
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """No talk."""

    @property
    def hub(self) -> HubServer:
        return self.server.hub  # type: ignore[attr-defined,no-any-return]

    def do_GET(self) -> None:
        self._faults: dict[str, float] = {}
        try:
            body = self._receive()
            if "fail" in self._faults:
                raise _Error(int(self._faults["fail"]), "injected")
            self._route(body)
        except _Error as error:
            named = {"X-Error-Code": error.code} if error.code else {}
            self._send(error.status, {"error": str(error)}, {**named, "X-Error-Message": str(error)})
        except (_Dropped, OSError):
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_GET

    def _receive(self) -> bytes:
        """The body, after logging the request and with the faults of its first half."""
        path = unquote(urlsplit(self.path).path)
        size = int(self.headers.get("Content-Length") or 0)
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
        authorization = self.headers.get("Authorization")
        request = Request(self.command, path, self.headers.get("Range"), authorization is not None, size)
        self._faults = {fault.kind: fault.value for fault in self.hub.arrived(request)}
        if "slow" in self._faults and "/resolve/" not in path:
            self.hub.pause(self._faults["slow"])
        if "drop" in self._faults and (size or chunked):
            self.rfile.read(min(size, int(self._faults["drop"])))
            self._hang_up()
        return self._chunks() if chunked else self.rfile.read(size)

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.connection.shutdown(2)
        raise _Dropped

    def _send(self, status: int, content: object = None, headers: Mapping[str, str] | None = None) -> None:
        if "lose" in self._faults:
            self._hang_up()
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if "drop" in self._faults:
            self.wfile.write(data[: int(self._faults["drop"])])
            self._hang_up()
        half = len(data) // 2 if "slow" in self._faults and "/resolve/" in self.path else 0
        if half:
            self.wfile.write(data[:half])
            self.wfile.flush()
            self.hub.pause(self._faults["slow"])
        self.wfile.write(data[half:])

    def _route(self, body: bytes) -> None:
        path = urlsplit(self.path).path
        method = "GET" if self.command == "HEAD" else self.command
        fitting = ((name, re.fullmatch(pattern, path)) for wanted, pattern, name in _ROUTES if wanted == method)
        name, match = next((found for found in fitting if found[1]), ("", None))
        if match is None:
            raise _Error(404, f"no route {method} {path}")
        # Taken apart before it is unquoted: a revision may hold a quoted slash.
        groups = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
        self._authorize(name, groups.get("repo"))
        if name == "resolve":
            self._resolve(groups["repo"], groups["rev"], groups["path"])
            return
        with self.hub.lock:
            status, answer, headers = getattr(self, f"_{name}")(body, **groups)
        self._send(status, answer, headers)

    def _authorize(self, name: str, repo: str | None) -> None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        writes = self.command not in ("GET", "HEAD") and name not in (*_OPEN, "paths_info")
        hidden = repo in self.hub.repos and self.hub.repos[repo].private
        if (writes or hidden) and not token:
            raise _Error(401, "Invalid username or password.", "RepoNotFound" if hidden else None)
        if token and self.hub.token not in (None, token):
            raise _Error(403, self.hub.refusal)

    def _find(self, repo: str) -> Repo:
        if repo not in self.hub.repos:
            raise _Error(404, "Repository not found", "RepoNotFound")
        return self.hub.repos[repo]

    def _at(self, repo: str, rev: str | None) -> tuple[Repo, str, Commit]:
        found = self._find(repo)
        sha = found.resolve(rev or "main")
        if sha is None:
            raise _Error(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        return found, sha, found.commits[sha]

    def _create(self, body: bytes) -> _Answer:
        asked = json.loads(body)
        name = f"{asked.get('organization') or 'tester'}/{asked['name']}"
        url = f"{self.hub.url}/{name}"
        if name in self.hub.repos:
            return 409, {"error": "You already created this model repo", "url": url}, {}
        repo = self.hub.repos[name] = Repo(private=asked.get("visibility") == "private" or asked.get("private") is True)
        repo.add_commit("main", {".gitattributes": Blob(ATTRIBUTES, lfs=False)}, "initial commit")
        return 200, {"url": url, "name": name, "id": name}, {}

    def _validate(self, body: bytes) -> _Answer:
        return 200, {"errors": [], "warnings": []}, {}

    def _whoami(self, body: bytes) -> _Answer:
        return 200, {"type": "user", "name": "tester", "orgs": []}, {}

    def _batch(self, body: bytes, repo: str) -> _Answer:
        self._find(repo)
        return 200, {"transfer": "basic", "objects": [self._place(wish) for wish in json.loads(body)["objects"]]}, {}

    def _place(self, wish: dict[str, Any]) -> dict[str, Any]:
        """Where one LFS object is to be sent; nowhere when it is stored already."""
        oid, size, url = wish["oid"], wish["size"], self.hub.url
        answer: dict[str, Any] = {"oid": oid, "size": size}
        step = self.hub.part_bytes
        if oid in self.hub.state.objects:
            return answer
        upload: dict[str, Any] = {"href": f"{url}/lfs/{oid}"}
        if step is not None and size > step:
            parts = {str(n): f"{url}/lfs/{oid}/{n}" for n in range(1, -(-size // step) + 1)}
            upload = {"href": f"{url}/lfs-complete/{oid}", "header": {"chunk_size": str(step), **parts}}
        return {**answer, "actions": {"upload": upload, "verify": {"href": f"{url}/lfs-verify"}}}

    def _put(self, body: bytes, oid: str) -> _Answer:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Error(400, "content does not match its sha256")
        self.hub.state.objects[oid] = body
        return 200, {}, {}

    def _put_part(self, body: bytes, oid: str, part: str) -> _Answer:
        self.hub.state.parts.setdefault(oid, {})[int(part)] = body
        return 200, {}, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}

    def _complete(self, body: bytes, oid: str) -> _Answer:
        parts = self.hub.state.parts.pop(oid, {})
        wanted = [part["partNumber"] for part in json.loads(body)["parts"]]
        return self._put(b"".join(parts.get(number, b"") for number in wanted), oid)

    def _verify(self, body: bytes) -> _Answer:
        asked = json.loads(body)
        if len(self.hub.state.objects.get(asked["oid"], b"")) != asked["size"]:
            raise _Error(404, "no such object")
        return 200, {}, {}

    def _preupload(self, body: bytes, repo: str, rev: str) -> _Answer:
        current, asked = self._at(repo, rev)[2].files, json.loads(body)
        stored = current[".gitignore"].data.decode() if ".gitignore" in current else ""
        ignored = [line for line in asked.get("gitIgnore", stored).splitlines() if line]
        answers = []
        for file in asked["files"]:
            lfs = self.hub.is_lfs(file["path"], file["size"])
            ignore = any(fnmatch(file["path"], pattern) for pattern in ignored)
            answer = {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": ignore}
            if file["path"] in current:
                answer["oid"] = current[file["path"]].etag
            answers.append(answer)
        return 200, {"files": answers}, {}

    def _commit(self, body: bytes, repo: str, rev: str) -> _Answer:
        found, sha, commit = self._at(repo, rev)
        if rev not in found.branches:
            raise _Error(400, "not a branch")
        files, summary = dict(commit.files), ""
        for line in body.decode().splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "header":
                summary = value["summary"]
                if value.get("parentCommit") not in (None, sha):
                    raise _Error(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), lfs=False)
            elif key == "lfsFile":
                if value["oid"] not in self.hub.state.objects:
                    raise _Error(400, f"LFS object is missing: {value['oid']}")
                files[value["path"]] = Blob(self.hub.state.objects[value["oid"]], lfs=True)
            elif key == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise _Error(404, "A file with this name doesn't exist", "EntryNotFound")
            else:
                raise _Error(400, f"unknown operation {key}")
        new = found.add_commit(rev, files, summary)
        return 200, {"success": True, "commitOid": new, "commitUrl": f"{self.hub.url}/{repo}/commit/{new}"}, {}

    def _info(self, body: bytes, repo: str, rev: str | None = None) -> _Answer:
        found, sha, commit = self._at(repo, rev)
        date = "2026-01-01T00:00:00.000Z"
        facts = {"_id": "0", "id": repo, "modelId": repo, "author": repo.split("/")[0], "sha": sha, "tags": []}
        facts |= {"private": found.private, "gated": False, "disabled": False, "downloads": 0, "likes": 0}
        facts |= {"lastModified": date, "createdAt": date}
        return 200, {**facts, "siblings": [{"rfilename": path} for path in sorted(commit.files)]}, {}

    def _tree(self, body: bytes, repo: str, rev: str) -> _Answer:
        files = self._at(repo, rev)[2].files
        return 200, [blob.entry(path) for path, blob in sorted(files.items())], {}

    def _paths_info(self, body: bytes, repo: str, rev: str) -> _Answer:
        files = self._at(repo, rev)[2].files
        wanted = json.loads(body)["paths"] if body.startswith(b"{") else re.findall(r"paths=([^&]+)", body.decode())
        paths = [unquote(path.replace("+", " ")) for path in wanted]
        return 200, [files[path].entry(path) for path in paths if path in files], {}

    def _refs(self, body: bytes, repo: str) -> _Answer:
        found = self._find(repo)
        branches, tags = (
            [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in refs.items()]
            for kind, refs in (("heads", found.branches), ("tags", found.tags))
        )
        return 200, {"branches": branches, "converts": [], "tags": tags}, {}

    def _tag(self, body: bytes, repo: str, rev: str) -> _Answer:
        found, sha, _ = self._at(repo, rev)
        name = json.loads(body)["tag"]
        if name in found.tags:
            raise _Error(409, f"Tag reference exists already: {name}")
        found.tags[name] = sha
        return 200, {}, {}

    def _resolve(self, repo: str, rev: str, path: str) -> None:
        with self.hub.lock:
            _, sha, commit = self._at(repo, rev)
            blob = commit.files.get(path)
            if blob is None:
                raise _Error(404, f"no such file: {path}", "EntryNotFound")
            data = blob.data if self.command == "HEAD" else self.hub.content(path, blob)
        headers = {"X-Repo-Commit": sha, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
        if blob.lfs:
            headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(data))}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if not (asked and self.hub.ranges):
            self._send(200, data, headers)
            return
        first, last = asked.groups()
        start = int(first) if first else max(0, len(data) - int(last))
        end = min(int(last), len(data) - 1) if first and last else len(data) - 1
        if start > end:
            self._send(416, b"", {**headers, "Content-Range": f"bytes */{len(data)}"})
        else:
            self._send(206, data[start : end + 1], {**headers, "Content-Range": f"bytes {start}-{end}/{len(data)}"})


_Answer = tuple[int, object, Mapping[str, str]]


if __name__ == "__main__":
    with HubServer() as server:
        print(server.url, flush=True)
        time.sleep(24 * 3600)
