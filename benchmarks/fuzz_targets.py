"""What `fuzz.py` runs on an input, and what must hold: errors of our own in one clean line, and agreement."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from fuzz_mutations import Files

from opentrans_cli.bundle import schema
from opentrans_cli.bundle.bitmask import kept_values, pack_mask, scatter_values, unpack_mask
from opentrans_cli.bundle.layout import check_rounds
from opentrans_cli.bundle.manifest import Manifest
from opentrans_cli.bundle.nested import kept_after, last_round, masks_after, rounds_until
from opentrans_cli.bundle.rounds import at_round, available
from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.bundle.verify import verify
from opentrans_cli.errors import OpentransError
from opentrans_cli.files.records import is_clean, json_bytes, parse_json
from opentrans_cli.files.tensorfile import parse_tensors, read_metadata, tensor_headers

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
MAX_MESSAGE = 4000  # characters


class Target:
    """One part of the reader. `run` raises for anything that must not happen, and gives what was accepted."""

    name = ""
    traced = 1  # of so many executions one is traced, and may be kept: tracing can take more time than reading

    def seeds(self) -> list[Files]:
        """Sound inputs to begin with."""
        raise NotImplementedError

    def run(self, files: Files) -> bool:
        """Whether the input was accepted."""
        raise NotImplementedError


@contextmanager
def refusing() -> Any:
    """Lets our own errors pass, if they can be shown."""
    try:
        yield
    except OpentransError as error:
        text = str(error)
        assert text and is_clean(text) and len(text) < MAX_MESSAGE and "; " in text, f"unfit message: {text[:500]!r}"


class ManifestTarget(Target):
    """The bytes of a manifest to a record and back."""

    name = "manifest"

    def seeds(self) -> list[Files]:
        return [{"manifest.json": path.read_bytes()} for path in sorted(GOLDEN.rglob("manifest.json"))]

    def run(self, files: Files) -> bool:
        with refusing():
            manifest = Manifest.from_json(parse_json(files["manifest.json"], "'x'"), "'x'")
            text = json_bytes(manifest.to_json())
            assert Manifest.from_json(parse_json(text, "x")) == manifest, "a manifest is not the one it is written as"
            assert json_bytes(Manifest.from_json(parse_json(text, "x")).to_json()) == text
            return True
        return False


class TensorTarget(Target):
    """One tensor file; what we accept the safetensors library accepts with the same bytes."""

    name = "tensor file"

    def __init__(self) -> None:
        self._path = Path(tempfile.mkdtemp(dir=memory())) / "x.safetensors"

    def seeds(self) -> list[Files]:
        return [{"x.safetensors": path.read_bytes()} for path in sorted(GOLDEN.rglob("*.safetensors"))]

    def run(self, files: Files) -> bool:
        data = files["x.safetensors"]
        self._path.write_bytes(data)
        with refusing():
            read_metadata(self._path)
        with refusing():
            found = tensor_headers(self._path)
            arrays = parse_tensors(data, "x")
            assert list(found) == list(arrays) and all(found[name].shape == arrays[name].shape for name in found)
            library = dict(safetensors.deserialize(data))
            assert library.keys() == arrays.keys(), "the library sees other tensors"
            for name, entry in library.items():
                if entry["dtype"] != "BF16":
                    assert bytes(entry["data"]) == arrays[name].tobytes(), f"the library reads {name!r} otherwise"
            return True
        return False


class CodecTarget(Target):
    """Packed masks, kept values and rounds. Bytes: dimensions, sides, then rounds and bits as they come."""

    name = "mask codec"

    def seeds(self) -> list[Files]:
        shapes = ((3,), (2, 3, 1, 2), (5, 2), (8, 1), (1,), (4, 4, 2))
        seeds = []
        for shape in shapes:
            rounds = np.arange(prod(shape), dtype=np.uint8) % 4
            mask = pack_mask(rounds == 0)
            seeds.append({"x": bytes([len(shape), *shape]) + rounds.tobytes() + mask.tobytes()})
        return seeds

    def run(self, files: Files) -> bool:
        data = files["x"]
        count = data[0] % 6 if data else 0
        shape = tuple(data[1 : 1 + count])
        total = prod(shape)
        if total > 1 << 16:
            return False
        rest = np.frombuffer(data, np.uint8)[1 + count :]
        with refusing():
            rounds = rest[:total].reshape(shape) if len(rest) >= total else rest[:total]
            mask = unpack_mask(rest[total:], shape)
            assert pack_mask(mask).tobytes() == rest[total:].tobytes(), "bits do not come back"
            values = np.arange(mask.size, dtype=np.float32).reshape(shape) + 1
            dense = scatter_values(kept_values(values, mask), mask)
            assert np.array_equal(dense, values * mask), "values do not come back"
            check_rounds("x", rounds, mask)
            _check_nested({"x": rounds} if rounds.size else {}, mask)
            return True
        return False


def _check_nested(rounds: dict[str, np.ndarray], mask: np.ndarray) -> None:
    if not rounds:
        return
    end = last_round(rounds)
    kept = kept_after(rounds, end)["x"]
    inside = masks_after(rounds, end)["x"]
    assert np.array_equal(inside, mask), "the last round is not the mask"
    for number in range(end, 0, -1):
        outer = masks_after(rounds, number)["x"]
        assert not (inside & ~outer).any() and kept[number - 1] == outer.sum(), "masks are not nested"
        check_rounds("x", rounds_until(rounds, number)["x"], outer)
        inside = outer


class BundleTarget(Target):
    """A whole folder in memory, hashes and sizes forged so that they agree: everything that reads a bundle.

    Documents are checked against the JSON Schema once in sixteen times, because that takes as long as all the rest.
    """

    name, traced = "bundle", 3

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(dir=memory()))
        (self._folder / "reports").mkdir()
        self._written: Files = {}
        self._count = 0
        schema.check_document(json.loads(self.seeds()[0]["manifest.json"]), "manifest")  # loads the library

    def seeds(self) -> list[Files]:
        roots = sorted(path.parent for path in GOLDEN.rglob("manifest.json"))
        seeds = [
            {
                file.relative_to(root).as_posix(): file.read_bytes()
                for file in sorted(root.rglob("*.*"))
                if file.is_file()
            }
            for root in roots
        ]
        bare = {name: data for name, data in seeds[0].items() if name in ("manifest.json", "mask.safetensors")}
        document = json.loads(bare["manifest.json"])
        document.update(files=[entry for entry in document["files"] if entry["name"] in bare], segmentor=None)
        return [*seeds, {**bare, "manifest.json": json_bytes(document)}]

    def run(self, files: Files) -> bool:
        self._write({**files, "manifest.json": forged(files)})
        self._count += 1
        judged = schema.check_document if self._count % 16 == 0 else lambda *_: None
        setattr(verify, "check_document", judged)  # noqa: B010, the contract costs more than all the rest
        sound = False
        with refusing():
            checks = verify.verify_bundle(self._folder)
            sound = all(check.ok for check in checks)
            for check in checks:
                assert is_clean(check.detail) and len(check.detail) < MAX_MESSAGE, f"unfit: {check.detail[:300]!r}"
        bundle = None
        with refusing():
            bundle = open_bundle(self._folder)
        if bundle is None:
            assert not sound, "what cannot be opened is said to be sound"
            return False
        refused = [name for name, read in READS.items() if not _read(bundle, read)]
        assert not (sound and refused), f"what is said to be sound cannot be read: {refused}"
        return sound

    def _write(self, files: Files) -> None:
        """Only what changed."""
        for name in self._written.keys() - files.keys():
            (self._folder / name).unlink()
        for name, data in files.items():
            if self._written.get(name) != data:
                (self._folder / name).write_bytes(data)
        self._written = files


def forged(files: Files) -> bytes:
    """The manifest vouching for the files as they are, as far as it can be understood."""
    try:
        document = json.loads(files["manifest.json"])
        for entry in document["files"]:
            data = files.get(entry["name"])
            if data is not None:
                entry.update(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
        return json.dumps(document).encode()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return files["manifest.json"]


def _rounds(bundle: Bundle) -> None:
    for info in available(bundle):
        view = at_round(bundle, info)
        view.masks()
        if info.weights == "bundle":
            view.tower()


READS: dict[str, Callable[[Bundle], object]] = {
    "masks": Bundle.masks,
    "tower": lambda bundle: bundle.tower() if bundle.has("weights.safetensors") else None,
    "rounds": Bundle.rounds,
    "round towers": lambda bundle: [bundle.round_tower(number) for number in bundle.saved_rounds()],
    "views": _rounds,
    "head": Bundle.head,
    "alpha": Bundle.alpha,
    "documents": lambda bundle: [bundle.read(file.name) for file in bundle.manifest.files],
    "digest": lambda bundle: (bundle.digest, bundle.size_bytes),
}


def _read(bundle: Bundle, read: Callable[[Bundle], object]) -> bool:
    with refusing():
        read(bundle)
        return True
    return False


def memory() -> str | None:
    """A folder that is no disk, where there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


TARGETS: dict[str, Callable[[], Target]] = {
    target.name: target for target in (ManifestTarget, TensorTarget, CodecTarget, BundleTarget)
}
