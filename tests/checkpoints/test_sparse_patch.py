"""Sparse patches: base and patch are the other set of tensors bit by bit, in the layout that other readers take."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn
from safetensors import safe_open

from opentrans_cli.checkpoints.sparse_patch import apply_sparse_patch, differing, sparse_patch, write_sparse_patch
from opentrans_cli.errors import TransferError
from opentrans_cli.files.tensorfile import write_tensors

DTYPES = ("float32", "float16", "int64", "uint8")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_base_and_patch_are_the_subnet_bit_by_bit(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Also for minus zero, for NaN, for scalars and empty tensors; and the same patch gives the same bytes."""
    base, wanted = {}, {}
    for name in ("a.weight", "b", "c"):
        array = hn.arrays(data.draw(st.sampled_from(DTYPES)), hn.array_shapes(min_dims=0, max_dims=3, min_side=0))
        base[name] = data.draw(array)
        other = np.array(base[name]).reshape(-1)
        for place in data.draw(st.sets(st.integers(0, max(other.size - 1, 0)), max_size=other.size)):
            other[place] = data.draw(hn.from_dtype(other.dtype))
        wanted[name] = other.reshape(base[name].shape)
    patch = sparse_patch(base, wanted)
    folder = tmp_path_factory.mktemp("patch")
    one, two = (write_sparse_patch(folder / name, patch, base_source="x", facts={"k": 1}) for name in ("one", "two"))
    assert one == two and not list(differing(apply_sparse_patch(base, folder / "one"), wanted))
    assert patch.changed == sum((_bytes(base[name]) != _bytes(wanted[name])).any(-1).sum() for name in base)


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1, 1).view(np.uint8)


def test_another_reader_applies_it_from_the_file_alone(tmp_path: Path) -> None:
    """As readers of torch do: names from the metadata, int32 positions, values of the tensor's own dtype."""
    base = {"w": torch.arange(6, dtype=torch.bfloat16).float().reshape(2, 3), "same": torch.ones(2)}
    wanted = {"w": base["w"].clone(), "same": base["same"].clone()}
    wanted["w"][0, 2], wanted["w"][1, 0] = 0.0, -0.0
    patch = sparse_patch(*({name: value.numpy() for name, value in each.items()} for each in (base, wanted)))
    write_sparse_patch(tmp_path / "p.safetensors", patch, base_source="RN50:openai", facts={"base": "sha256:0"})
    with safe_open(tmp_path / "p.safetensors", framework="pt") as file:
        metadata = file.metadata()
        assert list(file.keys()) == ["w.indices", "w.values"] and metadata["format"] == "sparse_weight_patch"
        for name in json.loads(metadata["changed_params"]):
            indices, values = file.get_tensor(f"{name}.indices"), file.get_tensor(f"{name}.values")
            assert indices.tolist() == [2, 3] and indices.dtype == torch.int32 and values.dtype == base[name].dtype
            base[name].view(-1)[indices.long()] = values
        assert json.loads(metadata["opentrans"]) == {"base": "sha256:0", "shapes": {"w": [2, 3]}}
    assert torch.equal(base["w"].view(torch.int32), wanted["w"].view(torch.int32))


def test_a_patch_of_another_base_is_refused_by_name(tmp_path: Path) -> None:
    base = {"w": np.zeros(4, np.float32)}
    for other in ({}, {"v": base["w"]}, {"w": np.zeros(5, np.float32)}, {"w": np.zeros(4, np.float16)}):
        with pytest.raises(TransferError, match=r"'[vw]' .*; use the base of this bundle|'[vw]'; use the base"):
            sparse_patch(base, other)
    path = tmp_path / "p.safetensors"
    write_sparse_patch(path, sparse_patch(base, {"w": np.ones(4, np.float32)}), base_source="x", facts={})
    for other in ({}, {"w": np.zeros(3, np.float32)}, {"w": np.zeros(4, np.float16)}):
        with pytest.raises(TransferError, match=r"patch does not fit: 'w' of .*; use its own base"):
            apply_sparse_patch(other, path)
    write_tensors(path, {"w": np.zeros(4, np.float32)})
    with pytest.raises(TransferError, match=r"not a sparse patch: .*; write one with `opentrans transfer --to patch`"):
        apply_sparse_patch(base, path)
