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

SECONDS = 60  # of a whole process on a busy machine; what is read takes a few
MEMORY = 700 << 20  # bytes beyond those of a process that has imported all

# Prints what refuses, and dies of anything but our own errors.
JUDGE = """
import resource, sys
from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.bundle.verify import verify_bundle
from opentrans_cli.errors import OpentransError
from opentrans_cli.steps.inspect import inspect
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = used + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
path = sys.argv[1]
def attempt(name, work):
    try:
        work()
    except OpentransError as error:
        assert "\\n" not in str(error) and len(str(error)) < 4000
        print(name)
def verify():
    if not all(check.ok for check in verify_bundle(path)):
        raise OpentransError("not valid")
if "verify" in sys.argv[3:]:
    attempt("verify", verify)
opened = []
attempt("open", lambda: opened.append(open_bundle(path)))
attempt("inspect", lambda: inspect(path))
for name in ("masks", "tower", "rounds", "head", "alpha") if opened else ():
    attempt(name, lambda: getattr(Bundle, name)(opened[0]))
"""


def refusing(path: Path, *, verify: bool = True) -> set[str]:
    line = [sys.executable, "-c", JUDGE, str(path), str(MEMORY), *(["verify"] if verify else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return set(done.stdout.split())


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


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_that_would_grow(victim: Any, kind: str) -> None:
    path = victim.path / "manifest.json"
    text = MANIFESTS[kind](path.read_text())
    assert len(text) > 1 << 20
    path.write_text(text)
    assert {"verify", "open", "inspect"} <= refusing(victim.path)


def test_a_manifest_of_100_megabytes_is_refused_unread(victim: Any) -> None:
    with (victim.path / "manifest.json").open("r+b") as file:
        file.truncate(100_000_000)
    assert {"verify", "open", "inspect"} <= refusing(victim.path)


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


@pytest.mark.parametrize("kind", HEADERS)
@pytest.mark.parametrize("name", ["mask", "alpha"])
def test_a_header_that_would_grow(victim: Any, name: str, kind: str) -> None:
    text, count = HEADERS[kind][0]().encode(), HEADERS[kind][1]
    victim.put(f"{name}.safetensors", len(text).to_bytes(8, "little") + text + bytes(count))
    refused = refusing(victim.path)
    sound = name == "alpha" and kind == "spaces"  # large, and nothing is wrong
    assert sound or {"verify", {"mask": "masks"}.get(name, name)} <= refused, refused


def test_a_tensor_larger_than_memory_is_told_and_not_awaited(victim: Any) -> None:
    """Eight gigabytes of zeros that take no space on the disk, declared as one more tensor of the segmentor."""
    size = 8 << 30
    header = f'{{"x":{{"dtype":"U8","shape":[{size}],"data_offsets":[0,{size}]}}}}'.encode()
    path = victim.path / "segmentor.safetensors"
    victim.put(path.name, len(header).to_bytes(8, "little") + header)
    with path.open("r+b") as file:
        file.truncate(8 + len(header) + size)

    def vouch(document: dict[str, Any]) -> None:
        next(file for file in document["files"] if file["name"] == path.name)["bytes"] = 8 + len(header) + size

    victim.edit(vouch)
    assert refusing(victim.path, verify=False) == {"head"}


def test_layers_of_the_largest_size_allowed_reserve_nothing(victim: Any) -> None:
    def change(document: dict[str, Any]) -> None:
        layer, other = document["layers"]
        layer.update(shape=[2**16, 2**16], total=2**32, kept=2**31)
        kept, total = layer["kept"] + other["kept"], layer["total"] + other["total"]
        document["achieved_sparsity"] = 1 - kept / total

    victim.edit(change)
    assert {"verify", "masks", "tower", "rounds"} <= refusing(victim.path)
    assert json.loads((victim.path / "manifest.json").read_text())["layers"][0]["total"] == 2**32
