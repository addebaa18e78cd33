"""Checkpoint files of every kind give the same tensors one at a time, and what is none is told in one line."""

from __future__ import annotations

import collections
import json
import os
import pickle
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from opentrans_cli.checkpoints.reader import Checkpoint, open_checkpoint
from opentrans_cli.checkpoints.state_names import shared_prefix
from opentrans_cli.errors import SourceError


def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "blocks.2.weight": torch.randn(4, 3, 3, 3),
        "blocks.10.weight": torch.randn(6, 4).half().t(),
        "blocks.10.bias": torch.randn(6).double(),
        "steps": torch.tensor(3),
        "flags": torch.tensor([True, False]),
        "empty": torch.zeros(0, 2),
    }


def read(path: Path) -> dict[str, Tensor]:
    opened = open_checkpoint(path)
    return {name: opened.read(name) for name in opened.tensors}


def same(found: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    assert found.keys() == given.keys()
    for name, tensor in given.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor.detach()), name


# Reading.


def test_a_model_of_float8_is_read_but_not_one_whose_weights_need_scales(tmp_path):
    weight = torch.tensor([[0.5, -448.0]]).to(torch.float8_e4m3fn)
    save_file({"a.weight": weight}, tmp_path / "a")
    same(open_checkpoint(tmp_path / "a").finite(), {"a.weight": weight})
    save_file({"a.weight": weight, "a.weight_scale": torch.ones(1, 1)}, tmp_path / "a")
    with pytest.raises(
        SourceError, match=r"quantised, with scales beside them: 'a.weight_scale' in .*; save the model"
    ):
        open_checkpoint(tmp_path / "a").finite()
    trained = {"a.weight": torch.ones(2, 2), "a.weight_scale": torch.ones(2, 1)}  # quantised only in its forward pass
    save_file(trained, tmp_path / "a")
    same(open_checkpoint(tmp_path / "a").finite(), trained)


def test_every_kind_of_file_gives_each_tensor_as_it_was_saved_whatever_it_is_called(tmp_path, kinds, kind):
    kinds[kind](state(), tmp_path / "checkpoint")
    opened = open_checkpoint(tmp_path / "checkpoint")
    prefix = shared_prefix(opened.tensors)
    same({name.removeprefix(prefix): opened.read(name) for name in opened.tensors}, state())
    assert opened.shapes == {prefix + name: tuple(tensor.shape) for name, tensor in state().items()}
    rows = opened.read(f"{prefix}blocks.10.weight", slice(1, 3))
    assert torch.equal(rows, state()["blocks.10.weight"][1:3])
    assert opened.tensors[f"{prefix}steps"].problem == "not floating point"
    assert opened.tensors[f"{prefix}blocks.10.bias"].problem is None
    weights = [name.removeprefix(prefix) for name in opened.tensors if name.endswith(".weight")]
    assert weights == ["blocks.2.weight", "blocks.10.weight"], "blocks come in the order of their numbers"
    with ThreadPoolExecutor(4) as pool:
        names = list(opened.tensors) * 10
        for name, tensor in zip(names, pool.map(opened.read, names), strict=True):
            assert torch.equal(tensor, state()[name.removeprefix(prefix)])


def test_what_was_taken_is_told_where_several_sets_of_weights_are_there(tmp_path, kinds):
    kinds["average beside"](state(), tmp_path / "a.pth")
    opened = open_checkpoint(tmp_path / "a.pth")
    assert opened.note == f"{tmp_path / 'a.pth'}: weights are taken from 'model', not from 'model_ema' beside it"
    assert opened.beside == ("model_ema", "epoch")


ONE, TWO = {"a.b": torch.ones(1)}, {"a.b": torch.ones(2)}


def test_wrappers_are_taken_off_and_what_stands_beside_them_is_named(tmp_path):
    loop: dict[str, object] = {"a.b": ONE["a.b"]}
    loop["loop"] = loop
    for content, names, beside, note in (
        ({"state_dict": ONE, "epoch": 3, "optimizer": {"state": {0: TWO}}}, ["a.b"], ("epoch", "optimizer"), None),
        ({"state_dict": {"model": ONE}, "lr_scheduler": TWO}, ["a.b"], ("lr_scheduler",), None),
        ({"backbone": ONE, "head": {"b": TWO}, "optimizer": TWO}, ["backbone.a.b", "head.b.a.b"], ("optimizer",), None),
        ({"model": {"depth": 3}, **ONE}, ["a.b"], ("model",), None),  # settings called model
        ({"model": ONE, "best_accuracy": torch.ones(1)}, ["a.b"], ("best_accuracy",), None),
        ({"student": ONE, "teacher": TWO}, ["a.b"], ("teacher",), "'student', not from 'teacher'"),
        ({"state_dict_ema": TWO, "state_dict": ONE}, ["a.b"], ("state_dict_ema",), "'state_dict', not from"),
        ({"params": ONE, "params_ema": TWO}, ["a.b"], ("params_ema",), "'params', not from 'params_ema'"),
        ({"backbone": ONE, "ema": TWO}, ["backbone.a.b"], ("ema",), None),
        ({"swa_model": ONE}, ["a.b"], (), None),
        (loop, ["a.b"], (), None),
        ({"net": nn.Sequential(nn.Linear(1, 1))}, ["0.weight", "0.bias"], (), None),
        ({b"a": torch.ones(1), 3: torch.ones(1)}, ["a", "3"], (), None),
    ):
        torch.save(content, tmp_path / "run.pth")
        opened = open_checkpoint(tmp_path / "run.pth")
        assert (list(opened.tensors), opened.beside) == (names, beside)
        assert (note or "") in (opened.note or "") and (note is None) == (opened.note is None)
        if "a.b" in names:
            assert opened.shapes["a.b"] == (1,)


def test_parts_that_wrappers_of_torch_put_into_names_are_left_out_wherever_they_are(tmp_path):
    saved = {"visual._orig_mod.conv1": torch.ones(1), "visual._orig_mod.a._checkpoint_wrapped_module.b": torch.ones(2)}
    torch.save(saved, tmp_path / "a.pth")
    opened = open_checkpoint(tmp_path / "a.pth")
    assert {name: tensor.key for name, tensor in opened.tensors.items()} == dict(
        zip(("visual.conv1", "visual.a.b"), saved, strict=True)
    )
    torch.save({"a.b": torch.ones(1), "a._orig_mod.b": torch.ones(2)}, tmp_path / "b.pth")
    assert list(open_checkpoint(tmp_path / "b.pth").tensors) == ["a.b", "a._orig_mod.b"]


def test_buffers_that_no_state_dict_has_are_not_read_from_a_whole_module(tmp_path):
    model = nn.Linear(2, 2)
    model.register_buffer("passing", torch.ones(2), persistent=False)
    torch.save(model, tmp_path / "a.pth")
    same(read(tmp_path / "a.pth"), dict(model.state_dict()))


@pytest.mark.filterwarnings("ignore")
def test_types_and_storages_of_every_sort_are_read_or_named(tmp_path):
    flat = torch.randn(20)
    plain = {
        "bfloat16": torch.randn(5).bfloat16(),
        "float8": torch.randn(4).to(torch.float8_e4m3fn),
        "uint16": torch.ones(3, dtype=torch.uint16),
        "parameter": nn.Parameter(torch.ones(2)),
        "channels last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "first view": flat[:8],
        "second view": flat[8:20].view(3, 4)[:, 1],
        "expanded": torch.ones(3, 1).expand(3, 4),
    }
    odd = {
        "sparse": (torch.eye(3).to_sparse(), "sparse storage"),
        "rows": (torch.eye(3).to_sparse_csr(), "sparse storage"),
        "absent": (torch.empty(2, 2, device="meta"), "without values"),
        "complex": (torch.ones(2, dtype=torch.complex64), "of type complex64"),
        "turned": (torch.ones(2, dtype=torch.complex64).conj(), "conjugated"),
        "quantised": (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "quantised"),
    }
    for new in (True, False):
        saved = plain | {key: tensor for key, (tensor, _) in odd.items()}
        torch.save(saved, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
        opened = open_checkpoint(tmp_path / "a.pth")
        assert {key: opened.tensors[key].problem for key in odd} == {key: problem for key, (_, problem) in odd.items()}
        for key, tensor in plain.items():
            value, wanted = opened.read(key), tensor.detach()
            assert value.dtype == wanted.dtype
            assert torch.equal(value.float(), wanted.float()) and value.shape == wanted.shape, key
        with pytest.raises(SourceError, match=r"^tensor is sparse storage: 'sparse' in .*a\.pth; convert it first$"):
            opened.read("sparse")
    save_file({"a": torch.ones(2).to(torch.float8_e5m2), "b": torch.ones(2, dtype=torch.complex64)}, tmp_path / "s")
    opened = open_checkpoint(tmp_path / "s")
    assert opened.read("a").dtype == torch.float8_e5m2 and opened.tensors["b"].problem == "of type complex64"


def test_no_length_of_the_header_is_taken_for_another_format_and_nan_is_let_through(tmp_path):
    for length in range(1, 250, 8):
        save_file({"a" * length: torch.full((2, 2), float("nan"))}, tmp_path / "a")
        assert next(iter(read(tmp_path / "a").values())).isnan().all()
    with pytest.raises(SourceError, match=r"NaN or infinite values: 'a+' in "):
        open_checkpoint(tmp_path / "a").finite()


def test_a_file_is_closed_between_reads_and_one_that_was_replaced_is_noticed(tmp_path):
    torch.save({"a": torch.ones(2, 2)}, tmp_path / "a.pth")
    before = set(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else None
    opened = open_checkpoint(tmp_path / "a.pth")
    opened.read("a")
    assert before is None or len(os.listdir("/proc/self/fd")) <= len(before)
    torch.save({"a": torch.zeros(2, 2)}, tmp_path / "b.pth")
    os.replace(tmp_path / "b.pth", tmp_path / "a.pth")
    with pytest.raises(SourceError, match=r"^the checkpoint changed while it was read"):
        opened.read("a")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("kind", ["safetensors", "torch", "old torch"])
def test_memory_stays_near_one_layer_and_torch_is_not_loaded(tmp_path, kinds, kind):
    kinds[kind]({f"{number}.weight": torch.ones(2048, 1024) for number in range(20)}, tmp_path / "large")  # 160 MiB
    code = (
        "import sys\nfrom pathlib import Path\nfrom opentrans_cli.checkpoints.reader import open_checkpoint\n"
        "def peak():\n"
        "    lines = Path('/proc/self/status').read_text().splitlines()\n"
        "    return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM'))\n"
        "before = peak()\n"
        "file = open_checkpoint(Path(sys.argv[1]))\n"
        "assert sum(float(file.array(name).sum()) for name in file.tensors) == 20 * 2048 * 1024\n"
        "assert 'torch' not in sys.modules\n"
        "print(peak() - before)"
    )
    line = [sys.executable, "-c", code, tmp_path / "large"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 48 << 10  # KiB


# Refusing.


def refused(path: Path, match: str) -> None:
    with pytest.raises(SourceError, match=match) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value) and "; " in str(caught.value) and path.name in str(caught.value)


def test_what_is_no_checkpoint_is_told_by_its_content_with_the_next_move(tmp_path):
    for content, match in (
        (b"", "the checkpoint is empty: .*; download or export it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS pointer.*git lfs pull"),
        (b"/annex/objects/SHA256E-s1--00\n", "a pointer of git-annex.*git annex get"),
        (b"<!DOCTYPE html><html>", "not a checkpoint but a web page: .*its direct link"),
        (b"\n  <?xml version='1.0'?><Error><Code>AccessDenied", "not a checkpoint but a web page"),
        (b"\x1f\x8b\x08\0" + bytes(99), "not a checkpoint but a gzip archive: .*unpack it"),
        (bytes(257) + b"ustar\0" + bytes(99), "not a checkpoint but a tar archive"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "not a checkpoint but an HDF5 file"),
        (b"GGUF" + bytes(99), "not a checkpoint but a GGUF file"),
        (b"\x93NUMPY\x01\0" + bytes(99), "not a checkpoint but one array of numpy"),
        (b"hello, this is no checkpoint", "not a checkpoint but something else"),
        (b"[" * 70, "not a checkpoint but something else"),
        (b'{"weights": 1}', "no index of shards"),
        (b"\x80\x04\x95\x10\x00", "cannot read the checkpoint"),
        (b"PK\x03\x04" + bytes(100), "cannot read the checkpoint"),
        ((1 << 20).to_bytes(8, "little") + b'{"a": ', "cannot read the checkpoint"),
    ):
        (tmp_path / "file.safetensors").write_bytes(content)
        refused(tmp_path / "file.safetensors", match)
    refused(tmp_path / "none.pth", "no such checkpoint: .*check the path")
    (tmp_path / "folder.pth").mkdir()
    refused(tmp_path / "folder.pth", "cannot read: .*not a regular file")
    os.mkfifo(tmp_path / "pipe.pth")
    refused(tmp_path / "pipe.pth", "cannot read: .*not a regular file")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", b"x")
    refused(tmp_path / "a.npz", "not a checkpoint but a zip archive")


def test_a_file_cut_off_anywhere_is_refused(tmp_path, kinds):
    for kind in ("safetensors", "torch", "old torch", "TorchScript", "pickled arrays", "pickled tensors", "strangers"):
        kinds[kind](state(), tmp_path / "cut")
        whole = (tmp_path / "cut").read_bytes()
        for length in (len(whole) - 1, len(whole) // 2, 100, 40, 1):
            (tmp_path / "cut").write_bytes(whole[:length])
            refused(tmp_path / "cut", "cannot read the checkpoint|not a checkpoint")


def test_tensors_outside_their_storage_and_compressed_archives_are_not_believed(tmp_path):
    torch.save({"w": torch.ones(4)}, tmp_path / "m.pth")
    data = (tmp_path / "m.pth").read_bytes()
    shape = b"K\x04\x85"  # the tuple (4,)
    assert data.count(shape) == 1
    (tmp_path / "n.pth").write_bytes(data.replace(shape, b"K\x09\x85"))
    refused(tmp_path / "n.pth", "cannot read the checkpoint")
    with zipfile.ZipFile(tmp_path / "m.pth") as old, zipfile.ZipFile(tmp_path / "z.pth", "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    refused(tmp_path / "z.pth", r"compressed tensors in the checkpoint: .*z\.pth; load it and save it again")
    with zipfile.ZipFile(tmp_path / "m.pth") as old, zipfile.ZipFile(tmp_path / "b.pth", "w") as new:
        for name in old.namelist():
            new.writestr(name, b"big" if name.endswith("byteorder") else old.read(name))
    refused(tmp_path / "b.pth", "written on a machine of another byte order")


def test_a_file_without_named_tensors_is_refused(tmp_path):
    for content in ({"epoch": 3}, [torch.ones(2)], torch.ones(2), collections.OrderedDict(), {"optimizer": ONE}):
        torch.save(content, tmp_path / "none.pth")
        refused(tmp_path / "none.pth", "no tensors in the checkpoint")


def test_more_dicts_than_any_file_has_end_in_one_line(tmp_path):
    bomb: dict[str, object] = {"a": 1}
    for _ in range(30):
        bomb = {str(number): bomb for number in range(10)}
    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps(bomb))
    refused(tmp_path / "bomb.pkl", r"cannot read the checkpoint: .*bomb\.pkl \(more than \d+ entries\)")


def test_an_index_does_not_lead_out_of_its_folder_and_agrees_with_its_shards(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    for shard in ("../part.bin", "/etc/passwd", "..", "sub/part.bin", ""):
        index.write_text(json.dumps({"weight_map": {"a": shard}}))
        refused(index, "a shard that is not beside it")
    index.write_text(json.dumps({"weight_map": {"a": "part.safetensors"}}))
    with pytest.raises(SourceError, match=r"^no such checkpoint: .*part\.safetensors"):
        open_checkpoint(index)
    save_file({"b": torch.ones(2, 2)}, tmp_path / "part.safetensors")
    with pytest.raises(SourceError, match=r"^the index names a tensor its shard lacks: 'a' in part\.safetensors"):
        open_checkpoint(index)
    for places in ({"a": 3}, [1], {"a": "model.safetensors.index.json"}):
        index.write_text(json.dumps({"weight_map": places}))
        refused(index, "no index of shards|the index names another index")


def test_arrays_that_numpy_pickles_in_any_order_come_as_they_are(tmp_path):
    given = {
        "half": np.linspace(0, 1, 5).astype("float16"),
        "big endian": np.arange(3, dtype=">f4"),
        "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "scalar": np.array(2.5, dtype="float64"),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 3), dtype="float32"),
    }
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for content in ({"model": collections.OrderedDict(given), "lr": 0.1}, given, {"blobs": {"a": given}}):
            (tmp_path / "zoo.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
            opened = open_checkpoint(tmp_path / "zoo.pkl")
            prefix = shared_prefix(opened.tensors)
            for key, array in given.items():
                value = opened.array(prefix + key)
                assert value.dtype == array.dtype.newbyteorder("<") and np.array_equal(value, array), key
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps({"x": np.array([{}], dtype=object), "y": np.array(["a"])}))
    problems = {tensor.problem for tensor in open_checkpoint(tmp_path / "zoo.pkl").tensors.values()}
    assert problems == {"an array of objects or text"}
    whole = pickle.dumps({"x": np.zeros((3, 5), "float32")}, protocol=2)
    assert whole.count(b"K\x03K\x05") == 1
    for shape in (b"K\x03K\x06", b"K\x02K\x05"):
        (tmp_path / "zoo.pkl").write_bytes(whole.replace(b"K\x03K\x05", shape))
        refused(tmp_path / "zoo.pkl", "do not fill its shape")


def test_the_digest_of_an_index_is_that_of_all_its_files(tmp_path, kinds):
    digests: set[str] = set()
    for factor in (1, 2):
        kinds["torch shards"]({key: tensor * factor for key, tensor in state().items()}, tmp_path / "i")
        digests.add(open_checkpoint(tmp_path / "i").sha256())
    assert len(digests) == 2 and isinstance(open_checkpoint(tmp_path / "i"), Checkpoint)
