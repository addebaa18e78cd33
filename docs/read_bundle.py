"""Reads an opentrans bundle of version 1 with numpy alone: `python read_bundle.py FOLDER`. See bundle-format.md."""

import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np

KINDS = {f"{kind}{8 * n}": f"<{kind.lower()}{n}" for kind in "FIU" for n in (1, 2, 4, 8)} | {"BF16": "<u2", "BOOL": "?"}
OWN = r"((round_)?weights|mask|rounds|alpha|segmentor)\.safetensors|README\.md|reports/[a-z0-9][a-z0-9._-]*\.(json|png)"


def content(folder, entry):
    """The bytes of a declared file, once name, size and hash are right."""
    if not re.fullmatch(OWN, entry["name"]):
        sys.exit(f"not a file of a bundle: {entry['name']!r}")
    path = folder / entry["name"]
    pending = path.with_name(f".{path.name}.{entry['sha256'][:16]}.next")  # a writer was killed before it renamed it
    data = (pending if pending.is_file() else path).read_bytes()
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        sys.exit(f"damaged: {path}")
    return data


def tensors(data):
    """The arrays in a safetensors file by name; bfloat16 as float32."""
    base, arrays = 8 + int.from_bytes(data[:8], "little"), {}
    for name, at in json.loads(data[8:base]).items():
        if name != "__metadata__":
            flat = np.frombuffer(memoryview(data)[base:][slice(*at["data_offsets"])], KINDS[at["dtype"]])
            flat = (flat.astype(np.uint32) << 16).view(np.float32) if at["dtype"] == "BF16" else flat
            arrays[name] = flat.reshape(at["shape"])
    return arrays


def read_bundle(folder):
    """(manifest, masks by layer, dense tower by tensor); the tower is empty where a bundle has masks alone."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    if (manifest["format"], manifest["version"]) != ("opentrans-bundle", 1):
        sys.exit("not a bundle of version 1")
    files = {entry["name"]: content(folder, entry) for entry in manifest["files"]}
    bits, masks = tensors(files["mask.safetensors"]), {}
    tower = tensors(files["weights.safetensors"]) if "weights.safetensors" in files else {}
    tower = {name: t.astype(np.float32) if np.issubdtype(t.dtype, np.floating) else t for name, t in tower.items()}
    for layer in manifest["layers"]:
        kept = np.unpackbits(bits[layer["name"]], count=layer["total"], bitorder="little").astype(bool)
        masks[layer["name"]] = kept.reshape(layer["shape"])
        if tower:
            dense = np.zeros(layer["shape"], np.float32)
            dense[masks[layer["name"]]] = tower[f"{layer['name']}.weight"]  # a value for every bit set, in C order
            tower[f"{layer['name']}.weight"] = dense
    return manifest, masks, tower


if __name__ == "__main__":
    _, masks, tower = read_bundle(Path(sys.argv[1]))
    lines = [f"{name} keeps {mask.sum()} of {mask.size}" for name, mask in masks.items()]
    print(*lines, *(f"{name} {array.dtype} {list(array.shape)}" for name, array in tower.items()), sep="\n")
