"""Bombs: small files that would grow, and large ones that claim to be needed. Each in a process with little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and sparse files are those of Linux")

MEMORY = 700 << 20  # bytes beyond those of a process that has imported all

# Judges each folder in a process of its own, forked from one that has imported everything: prints what refuses it, and
# dies of anything but our own errors.
JUDGE = """
import os, resource, sys
from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.bundle.verify.verify import verify_bundle
from opentrans_cli.errors import OpentransError
from opentrans_cli.steps.look.inspect import inspect

def attempt(name, work):
    try:
        work()
    except OpentransError as error:
        assert "\\n" not in str(error) and len(str(error)) < 4000
        print(name, end=" ")

def verify(path):
    if not all(check.ok for check in verify_bundle(path)):
        raise OpentransError("not valid")

def judge(path):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    limit = used + int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if not path.endswith("too large to verify"):
        attempt("verify", lambda: verify(path))
    opened = []
    attempt("open", lambda: opened.append(open_bundle(path)))
    attempt("inspect", lambda: inspect(path))
    for name in ("masks", "tower", "rounds", "head", "alpha") if opened else ():
        attempt(name, lambda: getattr(Bundle, name)(opened[0]))
    print(flush=True)

for path in sys.argv[2:]:
    child = os.fork()
    if child == 0:
        judge(path)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        sys.exit(path)
"""


def refusing(*paths: Path) -> list[set[str]]:
    """For each folder, who refuses it."""
    line = [sys.executable, "-c", JUDGE, str(MEMORY), *map(str, paths)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [set(text.split()) for text in done.stdout.splitlines()]
    assert len(found) == len(paths) > 0
    return found


def _fill(size: int, start: str, unit: str, end: str) -> str:
    """About `size` characters."""
    return start + unit * ((size - len(start) - len(end)) // len(unit)) + end


def _file(number: int) -> str:
    return f'{{"name":"reports/{number}.json","sha256":"{"0" * 64}","bytes":0}},'


MANIFESTS: dict[str, Callable[[str], str]] = {
    "31 MiB of lists": lambda text: text.replace('"loss": 0.25', _fill(31 << 20, '"loss": [', "[],", "[]]"), 1),
    "31 MiB of objects": lambda text: text.replace('"loss": 0.25', _fill(31 << 20, '"loss": [', "{},", "{}]"), 1),
    "31 MiB of numbers": lambda text: text.replace('"loss": 0.25', _fill(31 << 20, '"loss": [', "1.5,", "1]"), 1),
    "31 MiB of text": lambda text: text.replace('"loss": 0.25', _fill(31 << 20, '"loss": "', "a", '\\u0007"'), 1),
    "31 MiB of escapes": lambda text: text.replace(
        '"loss": 0.25', _fill(31 << 20, '"loss": "', "\\u0041", '\\u0007"'), 1
    ),
    "a key of 16 MiB above a million values": lambda text: text.replace(
        '"loss": 0.25', f'"{"k" * (16 << 20)}": [{"0," * 900_000}1e999]', 1
    ),
    "a million keys": lambda text: text.replace('"loss": 0.25', ",".join(f'"{n}":0' for n in range(1 << 20)), 1),
    "a million layers": lambda text: text.replace('"layers": [', '"layers": [' + '{"name":"a"},' * (1 << 20), 1),
    "a hundred thousand files": lambda text: text.replace(
        '"files": [', '"files": [' + "".join(map(_file, range(100_000)))
    ),
}


def test_manifests_that_would_grow_or_are_too_large(victims: Any) -> None:
    made = []
    for kind, grow in MANIFESTS.items():
        path = victims(kind).path / "manifest.json"
        text = grow(path.read_text())
        assert len(text) > 1 << 20, kind
        path.write_text(text)
        made.append(path.parent)
    made.append(victims("100 megabytes").path)
    with (made[-1] / "manifest.json").open("r+b") as file:
        file.truncate(100_000_000)
    for path, found in zip(made, refusing(*made), strict=True):
        assert {"verify", "open", "inspect"} <= found, path


def _entry(name: str, at: int) -> str:
    return f'"{name}":{{"dtype":"U8","shape":[],"data_offsets":[{at},{at + 1}]}}'


HEADERS: dict[str, tuple[Callable[[], str], int]] = {  # text of the header, bytes behind it
    "lists": (lambda: _fill(31 << 20, '{"x":[', "[],", "[]]}"), 0),
    "a shape of a million sides": (lambda: _fill(4 << 20, '{"x":{"dtype":"U8","shape":[', "1,", "1]}}"), 1),
    "too many tensors": (
        lambda: "{" + ",".join(_entry(f"{n:x}", n) for n in range(140_000)) + "}",
        140_000,
    ),
    "a name of 31 MiB": (lambda: "{" + _entry("n" * (31 << 20), 0) + "}", 1),
    "metadata of 31 MiB": (lambda: _fill(31 << 20, '{"__metadata__":{"opentrans":"[', "[],", '[]]"}}'), 0),
    "spaces": (lambda: "{}" + " " * (31 << 20), 0),
}


def test_headers_that_would_grow(victims: Any) -> None:
    made = {}
    for kind, (header, count) in HEADERS.items():
        text = header().encode()
        for name in ("mask", "alpha"):
            victim = victims(f"{name}, {kind}")
            victim.put(f"{name}.safetensors", len(text).to_bytes(8, "little") + text + bytes(count))
            made[name, kind] = victim.path
    for (name, kind), found in zip(made, refusing(*made.values()), strict=True):
        sound = name == "alpha" and kind == "spaces"  # large, and nothing is wrong
        assert sound or {"verify", {"mask": "masks"}.get(name, name)} <= found, (name, kind, found)


def test_a_tensor_larger_than_memory_is_told_and_not_awaited(victims: Any) -> None:
    """Eight gigabytes of zeros that take no space on the disk, declared as one more tensor of the segmentor."""
    size = 8 << 30
    header = f'{{"x":{{"dtype":"U8","shape":[{size}],"data_offsets":[0,{size}]}}}}'.encode()
    victim = victims("x")
    path = victim.path / "segmentor.safetensors"
    victim.put(path.name, len(header).to_bytes(8, "little") + header)
    with path.open("r+b") as file:
        file.truncate(8 + len(header) + size)

    def vouch(document: dict[str, Any]) -> None:
        next(file for file in document["files"] if file["name"] == path.name)["bytes"] = 8 + len(header) + size

    victim.edit(vouch)
    hasty = victim.path.rename(victim.path.with_name("too large to verify"))
    assert refusing(hasty) == [{"head"}]


def test_layers_of_the_largest_size_allowed_reserve_nothing(victim: Any) -> None:
    def change(document: dict[str, Any]) -> None:
        layer, other = document["layers"]
        layer.update(shape=[2**16, 2**16], total=2**32, kept=2**31)
        kept, total = layer["kept"] + other["kept"], layer["total"] + other["total"]
        document["achieved_sparsity"] = 1 - kept / total

    victim.edit(change)
    assert {"verify", "masks", "tower", "rounds"} <= refusing(victim.path)[0]
    assert json.loads((victim.path / "manifest.json").read_text())["layers"][0]["total"] == 2**32
