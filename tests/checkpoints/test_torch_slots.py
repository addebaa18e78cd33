"""Tensors of a file of torch.save are found in its bytes, and changed ones are read by torch and by zip alike."""

from __future__ import annotations

import zipfile

import pytest
import torch

from opentrans_cli.checkpoints.torch_slots import torch_slots
from opentrans_cli.errors import SourceError
from opentrans_cli.files.slots import Slot, checksum_patches, edit_slot, patched, read_slot


def checkpoint():
    torch.manual_seed(0)
    flat = torch.randn(20)
    return {
        "model": {
            "a.weight": torch.nn.Parameter(torch.randn(3, 4)),
            "half": torch.randn(5).half(),
            "last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
            "views.first": flat[:8],
            "views.second": flat[8:20].view(3, 4),
            "empty": torch.zeros(0, 2),
            "steps": torch.tensor(4),
        },
        "optimizer": {"state": [{"momentum": torch.randn(3, 4)}, torch.randn(3, 4)]},
        "iteration": 7,
    }


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "m.pth"
    torch.save(checkpoint(), path)
    return path


def test_every_tensor_is_where_its_slot_says(saved):
    found = torch_slots(saved)
    model = checkpoint()["model"]
    assert found.slots.keys() == model.keys() and found.others == ("optimizer", "iteration")
    with saved.open("rb") as file:
        for name, slot in found.slots.items():
            assert torch.equal(torch.from_numpy(read_slot(file, Slot(*slot)).copy()), model[name].detach()), name


def test_a_patched_copy_is_a_whole_archive_with_the_same_pickle(saved, tmp_path):
    found, size = torch_slots(saved), saved.stat().st_size
    changed = ("last", "views.second", "half")
    with saved.open("rb") as file:
        patches = [edit_slot(Slot(*found.slots[name]), lambda old: -old) for name in changed]
        patches += checksum_patches(file, patches, found.records)
        copy = tmp_path / "copy.pth"
        copy.write_bytes(b"".join(patched(file, patches, 0, size)))
    before, after = checkpoint(), torch.load(copy, weights_only=True)
    for name, tensor in after["model"].items():
        assert torch.equal(tensor, -before["model"][name] if name in changed else before["model"][name]), name
    assert torch.equal(after["optimizer"]["state"][0]["momentum"], before["optimizer"]["state"][0]["momentum"])
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(copy) as new:
        assert new.testzip() is None
        pickles = [name for name in old.namelist() if name.endswith(".pkl")]
        assert pickles and all(old.read(name) == new.read(name) for name in pickles)


def test_every_zip_of_equal_tensors_is_read_right(tmp_path):
    state = {f"w{number}": torch.full((32, 32), float(number)) for number in range(6)}
    torch.save({"model": state, "optimizer": [torch.full((32, 32), -1.0) for _ in range(6)]}, tmp_path / "m.pth")
    found = torch_slots(tmp_path / "m.pth")
    with (tmp_path / "m.pth").open("rb") as file:
        for name, slot in found.slots.items():
            assert (read_slot(file, Slot(*slot)) == state[name].numpy()).all()


@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_compressed_archives_and_odd_tensors_are_refused(saved, tmp_path):
    squeezed = tmp_path / "z.pth"
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(squeezed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(SourceError, match=r"z\.pth"):
        torch_slots(squeezed)
    torch.save({"w": torch.eye(3).to_sparse()}, tmp_path / "s.pth")
    with pytest.raises(SourceError, match="no plain tensor in the checkpoint: 'w'"):
        torch_slots(tmp_path / "s.pth")
