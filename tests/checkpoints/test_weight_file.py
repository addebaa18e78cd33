"""Checkpoint files of every kind give the same tensors one at a time, and damaged or hostile ones one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from opentrans_cli.checkpoints import weight_file
from opentrans_cli.checkpoints.weight_file import Header, open_weight_file
from opentrans_cli.errors import SourceError

State = dict[str, Tensor]


def state() -> State:
    torch.manual_seed(0)
    return {
        "blocks.2.weight": torch.randn(4, 3, 3, 3),
        "blocks.10.weight": torch.randn(6, 4).half(),
        "blocks.10.bias": torch.randn(6).bfloat16(),
        "steps": torch.tensor(3),
    }


def sharded(path: Path, save: Callable[[State, Path], object] = save_file) -> None:
    names = list(state())
    places = {name: f"part-{number % 2}.bin" for number, name in enumerate(names)}
    for part in set(places.values()):
        save({name: state()[name] for name in names if places[name] == part}, path.parent / part)
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))


FORMATS: dict[str, Callable[[Path], object]] = {
    "safetensors": lambda path: save_file(state(), path),
    "torch": lambda path: torch.save(state(), path),
    "old torch": lambda path: torch.save(state(), path, _use_new_zipfile_serialization=False),
    "safetensors shards": sharded,
    "torch shards": lambda path: sharded(path, torch.save),
}
every_format = pytest.mark.parametrize("kind", FORMATS)


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    def write(kind: str) -> Path:
        FORMATS[kind](tmp_path / "checkpoint")
        return tmp_path / "checkpoint"

    return write


# Reading.


@every_format
def test_every_format_gives_each_tensor_as_it_was_saved_whatever_the_file_is_called(written, kind):
    file = open_weight_file(written(kind))
    assert set(file.headers) == set(state())
    for name, tensor in state().items():
        read = file.read(name)
        assert torch.equal(read, tensor) and read.dtype == tensor.dtype
        assert file.headers[name].shape == tuple(tensor.shape)
    assert torch.equal(file.read("blocks.10.weight", slice(2, 5)), state()["blocks.10.weight"][2:5])


@every_format
def test_blocks_come_in_the_order_of_their_numbers(written, kind):
    names = [name for name in open_weight_file(written(kind)).headers if name.endswith(".weight")]
    assert names == ["blocks.2.weight", "blocks.10.weight"]


@every_format
def test_several_threads_read_the_same_values(written, kind, monkeypatch):
    monkeypatch.setattr(weight_file, "_MAPPED_AT_ONCE", 100)  # so that the file is mapped anew again and again
    file = open_weight_file(written(kind))
    names = list(state()) * 25
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(file.read, names))
    assert all(torch.equal(tensor, state()[name]) for tensor, name in zip(read, names, strict=True))


@every_format
def test_a_closed_file_holds_no_handle_and_can_be_read_again(written, kind):
    path = written(kind)
    before = set(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else set()
    file = open_weight_file(path)
    file.read("blocks.2.weight")
    file.close()
    if before:
        assert len(os.listdir("/proc/self/fd")) <= len(before)
    assert torch.equal(file.read("blocks.2.weight"), state()["blocks.2.weight"])


@every_format
def test_what_can_be_no_weight_says_why(written, kind):
    headers = open_weight_file(written(kind)).headers
    assert headers["steps"] == Header((), "not floating point")
    assert headers["blocks.10.bias"] == Header((6,), None)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_sparse_and_missing_values_are_named(tmp_path):
    odd = {"sparse": torch.eye(3).to_sparse(), "absent": torch.empty(2, 2, device="meta"), "whole": torch.eye(3)}
    torch.save(odd, tmp_path / "odd.pth")
    headers = open_weight_file(tmp_path / "odd.pth").headers
    assert {name: header.problem for name, header in headers.items()} == {
        "sparse": "sparse storage",
        "absent": "without values",
        "whole": None,
    }


def test_no_length_of_the_header_is_taken_for_another_format(tmp_path):
    for length in range(1, 300, 8):
        save_file({"a" * length: torch.ones(2, 2)}, tmp_path / "a")
        assert len(open_weight_file(tmp_path / "a").headers) == 1


def test_nan_is_let_through(tmp_path):
    save_file({"weight": torch.full((2, 2), float("nan"))}, tmp_path / "nan")
    assert open_weight_file(tmp_path / "nan").read("weight").isnan().all()


@pytest.mark.parametrize(
    ("saved", "names"),
    [
        ({"state_dict": {"a": 1}, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": 1}}}}, ["a"]),
        ({"model": {"a": 1}, "optimizer": {"b": 1}}, ["a"]),
        ({"state_dict": {"model": {"a": 1}}}, ["a"]),
        ({"model_state_dict": {"a": 1}, "lr_scheduler": {"b": 1}}, ["a"]),
        ({"backbone": {"a": 1}, "head": {"b": {"c": 1}}, "optimizer": {"d": 1}}, ["backbone.a", "head.b.c"]),
        ({"model": {"depth": 3}, "a": 1}, ["a"]),  # settings called model
    ],
)
def test_wrappers_are_taken_off_and_optimisers_left_away(tmp_path, saved, names):
    def tensors(value: object) -> object:
        return {key: tensors(v) for key, v in value.items()} if isinstance(value, dict) else torch.ones(value, 2)

    given = {key: value if value == {"depth": 3} else tensors(value) for key, value in saved.items()}
    torch.save(given, tmp_path / "run.pth")
    assert list(open_weight_file(tmp_path / "run.pth").headers) == names


def test_a_dict_that_contains_itself_ends(tmp_path):
    loop: dict[str, object] = {"a": torch.ones(2, 2)}
    loop["model"] = loop
    torch.save(loop, tmp_path / "loop.pth")
    assert "a" in open_weight_file(tmp_path / "loop.pth").headers


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_memory_stays_near_one_layer(tmp_path, kind):
    layers = {f"{number}.weight": torch.ones(2048, 1024) for number in range(20)}  # 20 times 8 MiB
    path = tmp_path / "large"
    save_file(layers, path) if kind == "safetensors" else torch.save(layers, path)
    code = (
        "import sys\nfrom pathlib import Path\nfrom opentrans_cli.checkpoints import weight_file\n"
        "weight_file._MAPPED_AT_ONCE = 16 << 20\n"
        "def peak():\n"
        "    lines = Path('/proc/self/status').read_text().splitlines()\n"
        "    return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM'))\n"
        "before = peak()\n"
        "file = weight_file.open_weight_file(Path(sys.argv[1]))\n"
        "assert sum(float(file.read(name).sum()) for name in file.headers) == 20 * 2048 * 1024\n"
        "print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64 << 10  # KiB, of a file of 160 MiB


# Refusing.


def refused(path: Path, match: str) -> None:
    with pytest.raises(SourceError, match=match) as caught:
        open_weight_file(path)
    assert "\n" not in str(caught.value) and "; " in str(caught.value) and path.name in str(caught.value)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "the checkpoint is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "not a checkpoint but something else"),
        (b"\x80\x04\x95\x10\x00", "not a checkpoint but a plain pickle"),
        (b'{"weights": 1}', "no index of shards"),
        (b"[" * 70, "not a checkpoint"),
        (b"PK\x03\x04" + b"\0" * 100, "cannot read the checkpoint"),
        ((1 << 20).to_bytes(8, "little") + b'{"a": ', "cannot read the checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_refused_by_its_content(tmp_path, content, match):
    (tmp_path / "file.safetensors").write_bytes(content)
    refused(tmp_path / "file.safetensors", match)


def test_a_missing_file_a_folder_and_a_pipe_are_refused(tmp_path):
    refused(tmp_path / "none.pth", "no such checkpoint")
    (tmp_path / "folder.pth").mkdir()
    refused(tmp_path / "folder.pth", "cannot read")
    os.mkfifo(tmp_path / "pipe.pth")
    refused(tmp_path / "pipe.pth", "empty")


@pytest.mark.parametrize("kind", ["safetensors", "torch", "old torch"])
def test_a_file_cut_off_anywhere_is_refused(written, kind):
    path = written(kind)
    whole = path.read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 40):
        path.write_bytes(whole[:length])
        refused(path, "cannot read the checkpoint|not a checkpoint")


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("new", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, monkeypatch, new):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.ones(2, 2), "b": Payload()}, "code.pth", _use_new_zipfile_serialization=new)
    refused(tmp_path / "code.pth", r"refused, it holds more than tensors \(\w+\.mkdir\)")
    assert not (tmp_path / "executed").exists()


def test_a_whole_model_is_refused_with_what_to_save(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "model.pth")
    refused(tmp_path / "model.pth", r"more than tensors \(torch\.nn.*Linear\).*save its state_dict\(\) alone")


def test_a_torchscript_archive_is_refused_with_how_to_convert_it(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, its archives are still around
        torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(tmp_path / "RN50.pt")
    refused(tmp_path / "RN50.pt", r"TorchScript archive.*torch\.jit\.load\(FILE\)\.state_dict\(\)")


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.ones(2)], torch.ones(2)])
def test_a_file_without_named_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "none.pth")
    refused(tmp_path / "none.pth", "no tensors in the checkpoint")


@pytest.mark.parametrize("shard", ["../part.bin", "/etc/passwd", "..", "sub/part.bin", ""])
def test_an_index_does_not_lead_out_of_its_folder(tmp_path, shard):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard}}))
    refused(index, "a shard that is not beside it")


def test_an_index_that_disagrees_with_its_shards_is_refused(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "part.safetensors"}}))
    with pytest.raises(SourceError, match=r"^no such checkpoint: .*part\.safetensors"):
        open_weight_file(index)
    save_file({"b": torch.ones(2, 2)}, tmp_path / "part.safetensors")
    with pytest.raises(SourceError, match=r"^the index names a tensor its shard lacks: 'a' in part\.safetensors"):
        open_weight_file(index)
    for wrong in (
        '{"weight_map": {"a": 3}}',
        '{"weight_map": [1]}',
        '{"weight_map": {"a": "model.safetensors.index.json"}}',
    ):
        index.write_text(wrong)
        refused(index, "no index of shards|not a checkpoint but json")


def test_a_file_replaced_while_it_is_read_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_file, "_MAPPED_AT_ONCE", 0)
    torch.save({"a": torch.ones(2, 2)}, tmp_path / "a.pth")
    file = open_weight_file(tmp_path / "a.pth")
    file.read("a")
    torch.save({"a": torch.ones(3, 2)}, tmp_path / "b.pth")
    os.replace(tmp_path / "b.pth", tmp_path / "a.pth")
    with pytest.raises(SourceError, match=r"^the checkpoint changed while it was read"):
        file.read("a")
