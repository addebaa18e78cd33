"""transfer --checkpoint: the subnet is in the file, all else is bit for bit what it was, and the receipt says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file, save_file

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.clip.key_tables import TABLES, find_table
from opentrans_cli.clip.layers import split_packed
from opentrans_cli.clip.source import load_clip
from opentrans_cli.errors import OptionError, OutputError, SourceError, TransferError
from opentrans_cli.reporter import LOGGED
from opentrans_cli.steps.transfer.checkpoint import transfer_checkpoint

RESNETS = [table for table in TABLES if table.name != "huggingface"]
SEED = 5


def foreign_state(table, *, dtype=torch.float32, noise="") -> dict[str, torch.Tensor]:
    """A checkpoint of the tiny tower with other values, as `table` names it, and a head beside it."""
    torch.manual_seed(SEED)
    state = {}
    for name, tensor in load_clip("tiny").model.visual.state_dict().items():
        places = table.layout.places(name)
        if places:
            value = torch.rand(tensor.shape) + 0.5 if tensor.is_floating_point() else tensor
            state[noise + table.prefix + places[-1].key] = value.to(dtype) if value.is_floating_point() else value
    state |= {noise + table.prefix.removesuffix("visual.") + mark: torch.tensor(3) for mark in table.marks}
    return state | {"head.weight": torch.randn(3, 4), "head.steps": torch.tensor(9)}


def masked(table, bundle: Path, state, noise=""):
    """What `state` should be after --what mask."""
    expected = dict(state)
    for layer, mask in open_bundle(bundle).masks().items():
        key = noise + table.prefix + table.layout.places(f"{layer}.weight")[-1].key
        expected[key] = torch.where(torch.from_numpy(mask), state[key], torch.zeros((), dtype=state[key].dtype))
    return expected


def same(one, other) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert value.dtype == other[key].dtype and value.shape == other[key].shape, key
        assert value.numpy().tobytes() == other[key].numpy().tobytes(), key


@pytest.mark.parametrize("table", RESNETS, ids=lambda table: table.name)
def test_pruned_weights_of_every_kind_of_checkpoint_become_zero_and_nothing_else_changes(table, tiny_bundle, tmp_path):
    state = foreign_state(table, noise="module.")
    save_file(state, tmp_path / "in.safetensors", {"note": "kept"})
    before = (tmp_path / "in.safetensors").read_bytes()
    result = transfer_checkpoint(tiny_bundle, tmp_path / "in.safetensors", out=tmp_path / "out.safetensors")
    same(load_file(tmp_path / "out.safetensors"), masked(table, tiny_bundle, state, "module."))
    assert (tmp_path / "in.safetensors").read_bytes() == before
    header = int.from_bytes(before[:8], "little") + 8
    assert (tmp_path / "out.safetensors").read_bytes()[:header] == before[:header]
    assert result.framework == table.name
    layers = open_bundle(tiny_bundle).manifest.layers
    assert result.output["changed"] == len(layers) and result.output["unchanged"] == len(state) - len(layers)
    assert {key["source"]: key["kept"] for key in result.keys if key["verdict"] == "masked"} == {
        f"{layer.name}.weight": layer.kept for layer in layers
    }
    assert result.parity["reason"] is None and result.parity["difference"] == 0 < result.parity["largest"]
    receipt = json.loads((tmp_path / "out.safetensors.receipt.json").read_text())
    assert receipt == result.to_json()
    check_document(receipt, "transfer_receipt")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_weights_of_the_subnet_arrive_in_the_type_of_the_checkpoint(dtype, tiny_bundle, tmp_path):
    table = find_table("detectron2")
    state = foreign_state(table, dtype=dtype)
    save_file(state, tmp_path / "in.safetensors")
    result = transfer_checkpoint(
        tiny_bundle, tmp_path / "in.safetensors", what="weights", out=tmp_path / "out.safetensors"
    )
    after, tower = load_file(tmp_path / "out.safetensors"), open_bundle(tiny_bundle).tower()
    for name, value in tower.items():
        places = table.layout.places(name)
        key = places[0].key if places else None
        if key is not None:
            torch.testing.assert_close(after.pop(key), torch.from_numpy(value).to(state[key].dtype), rtol=0, atol=0)
    same(after, {key: state[key] for key in after})
    verdicts = {key["source"]: key["verdict"] for key in result.keys}
    assert verdicts == {name: "no place" if name.startswith("attnpool.") else "moved" for name in tower}
    assert result.parity["difference"] <= {2: 0.05, 4: 1e-6, 8: 1e-6}[dtype.itemsize] * result.parity["largest"]


def nested_checkpoint(table) -> dict[str, object]:
    momentum = [torch.randn(4, 4), torch.randn(4, 4)]
    return {
        "model": foreign_state(table),
        "optimizer": {"state": {0: momentum}, "param_groups": [{"lr": 0.1}]},
        "iteration": 7,
    }


def test_a_torch_file_keeps_its_wrapper_its_optimizer_and_its_pickle(tiny_bundle, tmp_path):
    import zipfile

    table = find_table("fcclip")
    torch.save(nested_checkpoint(table), tmp_path / "in.pth")
    result = transfer_checkpoint(tiny_bundle, tmp_path / "in.pth", out=tmp_path / "out.pth")
    before, after = (torch.load(tmp_path / name, weights_only=True) for name in ("in.pth", "out.pth"))
    same(after["model"], masked(table, tiny_bundle, before["model"]))
    assert after["iteration"] == 7 and after["optimizer"]["param_groups"] == [{"lr": 0.1}]
    for one, other in zip(after["optimizer"]["state"][0], before["optimizer"]["state"][0], strict=True):
        assert torch.equal(one, other)
    with zipfile.ZipFile(tmp_path / "in.pth") as old, zipfile.ZipFile(tmp_path / "out.pth") as new:
        assert new.testzip() is None and new.namelist() == old.namelist()
        assert all(new.read(name) == old.read(name) for name in old.namelist() if "/data/" not in name)
    assert result.checkpoint["left_out"] == []


def test_a_torch_file_becomes_a_safetensors_file_with_its_tensors_alone(tiny_bundle, tmp_path):
    table = find_table("han")
    torch.save(nested_checkpoint(table), tmp_path / "in.pth")
    result = transfer_checkpoint(tiny_bundle, tmp_path / "in.pth", out=tmp_path / "out.safetensors")
    before = torch.load(tmp_path / "in.pth", weights_only=True)["model"]
    same(load_file(tmp_path / "out.safetensors"), masked(table, tiny_bundle, before))
    assert result.checkpoint["left_out"] == ["optimizer", "iteration"]
    # The library reads it, so the bytes are those its own writer would agree with.
    assert load_arrays(tmp_path / "out.safetensors").keys() == before.keys()


@pytest.mark.parametrize("kind", ["untrained", "trained", "masks", "bare"])
def test_an_earlier_round_is_taken_for_masks_from_every_bundle_that_has_it(kind, nested_bundle, tmp_path):
    bundle = open_bundle(nested_bundle(kind))
    table = find_table("han")
    state = foreign_state(table)
    save_file(state, tmp_path / "in.safetensors")
    transfer_checkpoint(bundle.path, tmp_path / "in.safetensors", out=tmp_path / "o.safetensors", at_sparsity=0.5)
    after, rounds = load_file(tmp_path / "o.safetensors"), bundle.rounds()
    removed = sum(int((after[f"backbone.{layer}.weight"] == 0).sum()) for layer in rounds)
    assert abs(removed / bundle.manifest.total - 0.5) < 1e-3
    for layer, numbers in rounds.items():
        kept = torch.from_numpy((numbers == 0) | (numbers > 2))
        assert torch.equal(after[f"backbone.{layer}.weight"], state[f"backbone.{layer}.weight"] * kept)


def test_weights_of_an_earlier_round_are_those_it_had(nested_bundle, tmp_path):
    save_file(foreign_state(find_table("han")), tmp_path / "in.safetensors")
    given = {"what": "weights", "at_sparsity": 0.5}
    transfer_checkpoint(nested_bundle("trained"), tmp_path / "in.safetensors", out=tmp_path / "o.safetensors", **given)
    tower, after = open_bundle(nested_bundle("trained")).round_tower(2), load_file(tmp_path / "o.safetensors")
    for name, value in tower.items():
        assert np.array_equal(after[f"backbone.{name}"].numpy(), value), name
    with pytest.raises(OptionError, match="only the masks of this round are there"):
        transfer_checkpoint(
            nested_bundle("masks"), tmp_path / "in.safetensors", out=tmp_path / "p.safetensors", **given
        )


def test_masks_alone_need_no_base_and_weights_take_it_from_where_it_is(nested_bundle, tmp_path, monkeypatch):
    from opentrans_cli.steps import sources

    save_file(foreign_state(find_table("fcclip")), tmp_path / "in.safetensors")
    bare = nested_bundle("bare")
    with_base = transfer_checkpoint(bare, tmp_path / "in.safetensors", what="weights", out=tmp_path / "w.safetensors")
    assert with_base.parity["difference"] == 0
    monkeypatch.setattr(sources, "load_clip", lambda source: pytest.fail("a base was loaded"))
    result = transfer_checkpoint(bare, tmp_path / "in.safetensors", out=tmp_path / "m.safetensors")
    assert result.parity["difference"] == 0
    with pytest.raises(OptionError, match="masks need no base: --base tiny; leave it out"):
        transfer_checkpoint(bare, tmp_path / "in.safetensors", out=tmp_path / "n.safetensors", base="tiny")


def test_a_layer_without_a_place_is_an_error_unless_it_is_allowed_by_name(tiny_bundle, tmp_path):
    table = find_table("han")
    state = foreign_state(table)
    del state["backbone.conv2.weight"]
    state["backbone.conv3.weight"] = torch.rand(3, 3)
    save_file(state, tmp_path / "in.safetensors")
    out = tmp_path / "out.safetensors"
    dry = transfer_checkpoint(tiny_bundle, tmp_path / "in.safetensors", out=None)
    assert dry.unmatched == ("conv2", "conv3") and dry.output is None
    verdicts = {key["source"]: key["verdict"] for key in dry.keys}
    assert (verdicts["conv2.weight"], verdicts["conv3.weight"]) == ("no place", "another shape")
    for allowed in ((), ("conv2",), ("conv3", "layer1.*")):
        with pytest.raises(TransferError, match=r"layers without a place in the checkpoint: 'conv[23]'"):
            transfer_checkpoint(tiny_bundle, tmp_path / "in.safetensors", out=out, allow_missing=allowed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.safetensors"]
    done = transfer_checkpoint(tiny_bundle, tmp_path / "in.safetensors", out=out, allow_missing=("conv[23]",))
    assert done.unmatched == () and done.parity["reason"] == "the checkpoint lacks a tensor of the trunk: conv2.weight"
    assert {key["verdict"] for key in done.keys if key["source"] == "conv2.weight"} == {"no place, allowed"}
    with pytest.raises(OptionError, match="no layer is called so: --allow-missing stem"):
        transfer_checkpoint(tiny_bundle, tmp_path / "in.safetensors", out=None, allow_missing=("stem",))


def test_integers_in_place_of_weights_are_no_match(tiny_bundle, tmp_path):
    state = foreign_state(find_table("han"))
    state["backbone.conv2.weight"] = (state["backbone.conv2.weight"] * 100).to(torch.int8)
    save_file(state, tmp_path / "in.safetensors")
    dry = transfer_checkpoint(tiny_bundle, tmp_path / "in.safetensors", out=None)
    assert dry.unmatched == ("conv2",)
    assert {key["verdict"] for key in dry.keys if key["source"] == "conv2.weight"} == {"of type int8"}


def test_half_precision_that_cannot_hold_the_subnet_is_refused(tiny_bundle, tmp_path, monkeypatch):
    from opentrans_cli.steps.transfer.subnet import SubnetArrays

    save_file(foreign_state(find_table("han"), dtype=torch.float16), tmp_path / "in.safetensors")
    value = SubnetArrays.value
    monkeypatch.setattr(SubnetArrays, "value", lambda self, name: value(self, name) * np.float32(1e8))
    with pytest.raises(TransferError, match="a value is too large for float16"):
        transfer_checkpoint(tiny_bundle, tmp_path / "in.safetensors", what="weights", out=tmp_path / "out.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.safetensors"]


def test_tensors_that_share_their_memory_with_a_layer_are_refused(tiny_bundle, tmp_path):
    state = foreign_state(find_table("han"))
    state["ema.copy"] = state["backbone.conv2.weight"]
    torch.save(state, tmp_path / "in.pth")
    with pytest.raises(TransferError, match="two tensors of the checkpoint share their memory: "):
        transfer_checkpoint(tiny_bundle, tmp_path / "in.pth", out=tmp_path / "out.pth")


def test_a_file_that_is_written_wrong_is_found_and_removed(tiny_bundle, tmp_path, monkeypatch):
    from opentrans_cli.steps.transfer import checkpoint as step

    save_file(foreign_state(find_table("han")), tmp_path / "in.safetensors")
    from opentrans_cli.checkpoints.reader import open_checkpoint

    tensors, honest = open_checkpoint(tmp_path / "in.safetensors").tensors, step.copy_chunks

    def flipped(place):
        def chunks(checkpoint, patches):
            data = bytearray(b"".join(honest(checkpoint, patches)))
            data[place] ^= 1
            yield bytes(data)

        return chunks

    for key, message in (
        ("head.weight", "a byte outside the layers changed"),
        ("backbone.conv2.weight", "a tensor was not written as it should be: 'backbone.conv2.weight'"),
    ):
        monkeypatch.setattr(step, "copy_chunks", flipped(tensors[key].start))
        with pytest.raises(TransferError, match=message):
            transfer_checkpoint(tiny_bundle, tmp_path / "in.safetensors", out=tmp_path / "out.safetensors")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.safetensors"]


def test_nothing_is_overwritten_without_force_and_the_input_never(tiny_bundle, tmp_path):
    save_file(foreign_state(find_table("han")), tmp_path / "in.safetensors")
    given = (tiny_bundle, tmp_path / "in.safetensors")
    (tmp_path / "out.safetensors").write_text("mine")
    with pytest.raises(OutputError, match=r"already exists: .*out\.safetensors'; choose another"):
        transfer_checkpoint(*given, out=tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").read_text() == "mine"
    transfer_checkpoint(*given, out=tmp_path / "out.safetensors", force=True)
    first = (tmp_path / "out.safetensors").read_bytes()
    transfer_checkpoint(*given, out=tmp_path / "out.safetensors", force=True)
    assert (tmp_path / "out.safetensors").read_bytes() == first
    (tmp_path / "link").symlink_to(tmp_path / "in.safetensors")
    for out in (tmp_path / "in.safetensors", tmp_path / "link"):
        with pytest.raises(OptionError, match="would replace the checkpoint it reads"):
            transfer_checkpoint(*given, out=out, force=True)


def test_formats_that_are_not_written_or_read_are_named(tiny_bundle, tmp_path):
    state = foreign_state(find_table("han"))
    save_file(state, tmp_path / "in.safetensors")
    torch.save(state | {"phase": torch.zeros(2, dtype=torch.complex64)}, tmp_path / "complex.pth")
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pth").write_text("hello, this is no checkpoint")
    out = tmp_path / "out.pth"
    for name, error, message in (
        (
            "in.safetensors",
            TransferError,
            "no pickle is written: .pth from .*, a safetensors file; name --out",
        ),
        ("empty.pth", SourceError, "the checkpoint is empty"),
        ("text.pth", SourceError, "not a checkpoint but something else"),
        ("none.pth", SourceError, "no such checkpoint"),
    ):
        with pytest.raises(error, match=message):
            transfer_checkpoint(tiny_bundle, tmp_path / name, out=out)
    with pytest.raises(TransferError, match=r"no safetensors file holds this tensor: 'phase' is of type complex64"):
        transfer_checkpoint(tiny_bundle, tmp_path / "complex.pth", out=tmp_path / "out.safetensors")
    transfer_checkpoint(tiny_bundle, tmp_path / "complex.pth", out=tmp_path / "kept.pth")
    assert torch.equal(torch.load(tmp_path / "kept.pth")["phase"], torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(TransferError, match=r"unknown kind of checkpoint: --out with '\.onnx'"):
        transfer_checkpoint(tiny_bundle, tmp_path / "in.safetensors", out=tmp_path / "out.onnx")
    with pytest.raises(OptionError, match="unknown part of a subnet: 'head'; choose one of mask, weights"):
        transfer_checkpoint(tiny_bundle, tmp_path / "in.safetensors", what="head", out=None)
    assert not out.exists() and not list(tmp_path.glob(".*"))


def test_a_vit_is_moved_into_the_names_of_hugging_face_and_back(vit_bundle, tmp_path, caplog):
    table = find_table("huggingface")
    bundle, state = vit_bundle
    tower = split_packed(state)
    for name in [name for name in tower if name.endswith("in_proj_bias")]:
        parts = tower.pop(name).chunk(3)
        tower |= {
            name.replace("in_proj_bias", f"{part}_proj.bias"): value for part, value in zip("qkv", parts, strict=True)
        }
    places = {name: table.layout.places(name)[0] for name in tower}
    keys = {
        name: place.key.removeprefix("../") if place.key.startswith("../") else f"vision_model.{place.key}"
        for name, place in places.items()
    }
    foreign = {keys[name]: torch.rand(place.stored_shape(tuple(tower[name].shape))) for name, place in places.items()}
    save_file(foreign, tmp_path / "in.safetensors")
    out = tmp_path / "out.safetensors"
    result = transfer_checkpoint(bundle, tmp_path / "in.safetensors", what="weights", out=out)
    assert result.framework == "huggingface" and result.parity["reason"] == "the trunk is no ResNet"
    flat = {key.removeprefix("vision_model."): value for key, value in foreign.items() if key.startswith("vision_")}
    save_file(flat, tmp_path / "flat.safetensors")
    with caplog.at_level("INFO"):
        transfer_checkpoint(bundle, tmp_path / "in.safetensors", out=None, reporter=LOGGED)
        assert "transformers" not in caplog.text
        transfer_checkpoint(bundle, tmp_path / "flat.safetensors", out=tmp_path / "f.safetensors", reporter=LOGGED)
    assert "flat.safetensors: names without 'vision_model.': transformers 5.6 and later read it" in caplog.text
    written = load_file(tmp_path / "f.safetensors")
    assert written.keys() == flat.keys() and (written["encoder.layers.0.mlp.fc1.weight"] == 0).any()
    after, own = load_file(out), open_bundle(bundle).tower()
    assert torch.equal(after["visual_projection.weight"].T, torch.from_numpy(own["proj"]))
    assert {key["verdict"] for key in result.keys} == {"moved"}
    save_file(
        {f"visual.{name}": torch.rand(value.shape) for name, value in state.items()}, tmp_path / "clip.safetensors"
    )
    back = transfer_checkpoint(bundle, tmp_path / "clip.safetensors", what="weights", out=tmp_path / "b.safetensors")
    assert back.framework == "open-clip"
    packed = load_file(tmp_path / "b.safetensors")
    for name, value in split_packed({key.removeprefix("visual."): value for key, value in packed.items()}).items():
        assert np.array_equal(value.numpy(), own[name]), name


@pytest.fixture
def vit_bundle(tmp_path):
    """A small ViT's bundle, half pruned, and the state of its tower."""
    from opentrans_cli.steps.prune.prune import prune

    text = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1}
    vision = {"layers": 2, "width": 64, "patch_size": 16, "image_size": 32}
    from opentrans_cli.clip.architecture import build_clip

    torch.manual_seed(0)
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    model, folder = build_clip(config), tmp_path / "vit"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    out = prune(str(folder), sparsity=0.5, out=tmp_path / "bundle", device="cpu").path
    return out, model.visual.state_dict()
