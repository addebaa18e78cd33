"""The format can be read without this package: a reader of sixty lines with numpy alone, and the committed vectors."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opentrans_cli.bundle.bitmask import pack_mask, unpack_mask
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.files.digest import tower_digest
from opentrans_cli.files.tensorfile import parse_tensors, tensor_chunks, to_bfloat16_bits

ROOT = Path(__file__).parents[1]
READER = ROOT / "docs" / "read_bundle.py"
VECTORS: dict[str, Any] = json.loads((ROOT / "docs" / "vectors.json").read_text(encoding="utf-8"))
GOLDEN = [ROOT / row["folder"] for row in VECTORS["bundles"]]

# Isolated, and with an importer in front that knows none of these.
ALONE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"opentrans_cli", "torch", "safetensors", "open_clip", "huggingface_hub"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import hashlib, json, runpy
from pathlib import Path
"""
PRINT_ALL = """
manifest, masks, tower = runpy.run_path(sys.argv[1])["read_bundle"](Path(sys.argv[2]))
def show(arrays):
    return {n: [a.dtype.name, list(a.shape), hashlib.sha256(a.tobytes()).hexdigest()] for n, a in arrays.items()}
print(json.dumps([manifest, show(masks), show(tower)]))
"""


def alone(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-I", "-c", ALONE + code, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=600)


def summary(arrays: dict[str, np.ndarray]) -> dict[str, list[Any]]:
    return {n: [a.dtype.name, list(a.shape), hashlib.sha256(a.tobytes()).hexdigest()] for n, a in arrays.items()}


def check_reader(folder: Path) -> None:
    """The reader of the documents gives what ours gives, bit for bit."""
    done = alone(PRINT_ALL, READER, folder)
    assert done.returncode == 0, done.stderr
    manifest, masks, tower = json.loads(done.stdout)
    bundle = open_bundle(folder)
    assert manifest == json.loads((folder / "manifest.json").read_text())
    assert masks == summary(bundle.masks())
    assert tower == (summary(bundle.tower()) if bundle.has("weights.safetensors") else {})


def test_the_reader_is_as_short_as_the_document_says_and_imports_numpy_and_the_standard_library_alone() -> None:
    text = READER.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    imported = {line.split()[1] for line in text.splitlines() if line.startswith(("import ", "from "))}
    assert imported - {"numpy"} <= set(sys.stdlib_module_names)
    assert alone("import opentrans_cli").returncode == alone("import safetensors").returncode == 1


def test_the_reader_reads_the_golden_bundles_as_we_do() -> None:
    for folder in GOLDEN:
        check_reader(folder)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_reader_reads_a_fresh_bundle_of_every_type_as_we_do(tmp_path: Path, run_cli: Any, dtype: str) -> None:
    line = ("prune", "tiny", "--sparsity", 0.7, "--dtype", dtype, "--out", tmp_path / "b", "--quiet")
    assert run_cli(*line).exit_code == 0
    check_reader(tmp_path / "b")


def test_the_reader_reads_masks_alone_earlier_rounds_and_a_file_whose_last_rename_is_missing(
    tmp_path: Path, nested_bundle: Any
) -> None:
    check_reader(nested_bundle("bare"))
    folder = Path(shutil.copytree(nested_bundle("trained"), tmp_path / "b"))
    entry = open_bundle(folder).manifest.file("weights.safetensors")
    assert entry is not None
    shutil.move(folder / entry.name, folder / f".{entry.name}.{entry.sha256[:16]}.next")
    check_reader(folder)


def test_the_reader_prints_a_summary_and_refuses_what_is_damaged_or_leads_out(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN[0], tmp_path / "b"))
    done = subprocess.run([sys.executable, "-I", READER, folder], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "conv2 keeps 5 of 10\n" in done.stdout
    assert "layer1.0.conv1.weight float32 [2, 3, 1, 2]" in done.stdout
    manifest = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(manifest.replace('"README.md"', '"../README.md"'))
    assert "not a file of a bundle" in alone(PRINT_ALL, READER, folder).stderr
    (folder / "manifest.json").write_text(manifest.replace('"version": 1', '"version": 2'))
    assert "not a bundle of version 1" in alone(PRINT_ALL, READER, folder).stderr
    (folder / "manifest.json").write_text(manifest)
    data = (folder / "mask.safetensors").read_bytes()
    (folder / "mask.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "damaged" in alone(PRINT_ALL, READER, folder).stderr


# The vectors, against our own code.


def tower_of(tensors: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.array(t["values"], dtype=t["dtype"]).reshape(t["shape"]) for name, t in tensors.items()}


def test_the_vectors_are_what_the_code_writes_today() -> None:
    path = ROOT / "tests" / "golden" / "make_vectors.py"
    spec = importlib.util.spec_from_file_location("make_vectors", path)
    assert spec is not None and spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert maker.text(maker.vectors()) == (ROOT / "docs" / "vectors.json").read_text(encoding="utf-8")


def test_masks_tensor_files_and_digests_of_the_vectors() -> None:
    for row in VECTORS["masks"]:
        mask, bits = np.array(row["mask"], bool), np.frombuffer(bytes.fromhex(row["bytes"]), np.uint8)
        assert pack_mask(mask).tobytes() == bits.tobytes()
        assert np.array_equal(unpack_mask(bits, row["shape"]), mask)
    for row in VECTORS["bfloat16"]:
        value = np.frombuffer(bytes.fromhex(row["float32"]), ">f4").astype(np.float32)
        assert f"{int(to_bfloat16_bits(value)[0]):04x}" == row["bfloat16"]
    for row in VECTORS["tensor_files"]:
        data, tensors = bytes.fromhex(row["bytes"]), tower_of(row["tensors"])
        assert b"".join(tensor_chunks(tensors, row["metadata"])) == data
        for name, array in parse_tensors(data, "vector").items():
            assert array.dtype == tensors[name].dtype and array.tobytes() == tensors[name].tobytes()
    for row in VECTORS["base_digests"]:
        assert tower_digest(tower_of(row["tensors"])) == row["digest"]


@pytest.mark.parametrize("row", VECTORS["bundles"], ids=lambda row: row["folder"])
def test_bundles_of_the_vectors(row: dict[str, Any]) -> None:
    bundle = open_bundle(ROOT / row["folder"])
    assert (bundle.digest, bundle.manifest.base.digest) == (row["digest"], row["base_digest"])
    assert f"sha256:{hashlib.sha256(row['digest_text'].encode()).hexdigest()}" == row["digest"]
    assert {name: mask.astype(int).tolist() for name, mask in bundle.masks().items()} == row["masks"]
    rounds = bundle.rounds()
    assert rounds is not None and {name: numbers.tolist() for name, numbers in rounds.items()} == row["rounds"]
    for tower, values in ((bundle.tower(), row["tower"]), *_round_towers(bundle, row)):
        assert {name: [a.dtype.name, a.tolist()] for name, a in tower.items()} == {
            name: [value["dtype"], value["values"]] for name, value in values.items()
        }


def _round_towers(bundle: Any, row: dict[str, Any]) -> list[tuple[dict[str, np.ndarray], dict[str, Any]]]:
    assert [str(number) for number in bundle.saved_rounds()] == sorted(row["round_towers"])
    return [(bundle.round_tower(int(number)), values) for number, values in row["round_towers"].items()]
