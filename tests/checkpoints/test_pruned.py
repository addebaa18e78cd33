"""Pruned checkpoints of other programs are read with the masks and values those programs meant."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.ao.pruning import WeightNormSparsifier
from torch.nn.utils import prune

from opentrans_cli.checkpoints.pruned import open_pruned
from opentrans_cli.errors import MaskError, OptionError, SourceError

GOLDEN = Path(__file__).parents[1] / "golden" / "compressed-tensors"  # written by compressed-tensors 0.14.0.1


def pruned_net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.MultiheadAttention(4, 1))
    prune.l1_unstructured(net[0], "weight", amount=0.5)
    prune.l1_unstructured(net[0], "bias", amount=1)
    prune.l1_unstructured(net[2], "in_proj_weight", amount=0.25)
    return net


def saved(tmp_path: Path, state: object) -> Path:
    torch.save(state, tmp_path / "pruned.pth")
    return tmp_path / "pruned.pth"


@pytest.mark.parametrize("name", ["bitmask", "bitmask-24"])
def test_packed_weights_are_those_that_compressed_tensors_packed(name: str) -> None:
    foreign = open_pruned(GOLDEN / f"{name}.safetensors")
    dense = load_file(GOLDEN / f"{name.replace('bitmask', 'dense')}.safetensors")
    assert foreign.format == "compressed-tensors"
    assert foreign.shapes == {key: tuple(tensor.shape) for key, tensor in dense.items()}
    for key, tensor in dense.items():
        values = foreign.values(key)
        assert values is not None and np.array_equal(values, tensor.float())
        mask = foreign.mask(key)
        assert (mask is None) == key.endswith("bias")
        assert mask is None or np.array_equal(mask, tensor != 0)


def test_quantised_weights_are_those_that_compressed_tensors_gives_back() -> None:
    """Written and read by compressed-tensors 0.20.1, those called `old_` by 0.17.1; scales are float32."""
    foreign, dense = open_pruned(GOLDEN / "quantised.safetensors"), load_file(GOLDEN / "dense-quantised.safetensors")
    left = {"mxfp6.weight_packed", "mxfp6.weight_scale"}
    assert foreign.tensors.keys() == dense.keys() | left, "a form that is not known stays what it is in the file"
    for key, tensor in dense.items():
        near = 2**-7 if key.startswith("nvfp4") else 0  # its own values are rounded to bfloat16
        assert foreign.shapes[key] == tuple(tensor.shape)
        np.testing.assert_allclose(foreign.weight(key), tensor, rtol=near, err_msg=key)
        assert np.array_equal(foreign.weight(key, slice(3, 5)), foreign.weight(key)[3:5])


def test_bits_with_values_of_float8_are_times_their_scales(tmp_path: Path) -> None:
    state = load_file(GOLDEN / "bitmask.safetensors")
    scale, packed = torch.arange(1.0, 6).unsqueeze(1), "linear.compressed"
    plain = open_pruned(GOLDEN / "bitmask.safetensors").weight("linear.weight")
    state |= {packed: state[packed].to(torch.float8_e4m3fn), "linear.weight_scale": scale}
    save_file(state, tmp_path / "a.safetensors")
    foreign = open_pruned(tmp_path / "a.safetensors")
    assert "linear.weight_scale" not in foreign.tensors
    np.testing.assert_allclose(foreign.weight("linear.weight"), plain * scale.numpy(), rtol=2**-3)


def test_scales_that_do_not_fit_leave_a_quantised_weight_unread(tmp_path: Path) -> None:
    state = {"a.weight": torch.ones(4, 6, dtype=torch.int8), "a.weight_scale": torch.ones(3, 1)}
    save_file(state, tmp_path / "a.safetensors")
    assert open_pruned(tmp_path / "a.safetensors").tensors["a.weight"].problem == "not floating point"


def test_some_rows_of_a_packed_weight_are_those_rows() -> None:
    foreign, dense = open_pruned(GOLDEN / "bitmask.safetensors"), load_file(GOLDEN / "dense.safetensors")
    rows = slice(1, 3)
    values, mask = foreign.values("linear.weight", rows), foreign.mask("linear.weight", rows)
    assert values is not None and np.array_equal(values, dense["linear.weight"][rows])
    assert mask is not None and np.array_equal(mask, dense["linear.weight"][rows] != 0)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("linear.shape", torch.tensor([5, 17])),
        ("linear.shape", torch.arange(9)),
        ("linear.shape", torch.tensor([5.0, 11.0])),
        ("linear.compressed", torch.ones(20)),
        ("linear.compressed", torch.ones(21, dtype=torch.int8)),
        ("linear.bitmask", torch.ones(5, 2)),
    ],
)
def test_packed_weights_that_contradict_themselves_are_refused(tmp_path: Path, key: str, change: torch.Tensor) -> None:
    save_file({**load_file(GOLDEN / "bitmask.safetensors"), key: change}, tmp_path / "bad.safetensors")
    with pytest.raises(SourceError, match=r"'linear(\.weight)?' in .*bad.safetensors"):
        open_pruned(tmp_path / "bad.safetensors").values("linear.weight")
        open_pruned(tmp_path / "bad.safetensors").mask("linear.weight")


def test_a_state_dict_under_torch_prune_is_as_its_modules_were(tmp_path: Path) -> None:
    net = pruned_net()
    foreign = open_pruned(saved(tmp_path, net.state_dict()))
    assert foreign.format == "torch-prune"
    for key in foreign.masked:
        prune.remove(net.get_submodule(key.rpartition(".")[0]), key.rpartition(".")[2])
    assert foreign.masked == {"0.weight", "0.bias", "2.in_proj_weight"}
    assert set(foreign.shapes) == set(net.state_dict())
    modules = [name.split(".")[0] for name in foreign.shapes]
    assert modules == sorted(modules), "modules stay in their order, masked or not"
    for key, tensor in net.state_dict().items():
        values, mask = foreign.values(key), foreign.mask(key)
        assert values is not None and np.array_equal(values if mask is None else values * mask, tensor)


def test_the_papers_file_is_known_by_its_three_parts(tmp_path: Path) -> None:
    parts = {"first_conv": OrderedDict(weight=torch.ones(2, 2)), "sem_seg_head": {"x": torch.ones(1)}}
    foreign = open_pruned(saved(tmp_path, {**parts, "backbone": pruned_net().state_dict()}))
    assert foreign.format == "opentrans"
    assert foreign.masked == {"backbone.0.weight", "backbone.0.bias", "backbone.2.in_proj_weight"}


def test_masks_alone_and_masks_beside_dense_weights_are_masks(tmp_path: Path) -> None:
    mask, weight = torch.tensor([[1, 0], [0, 1]]), torch.ones(2, 2)
    foreign = open_pruned(saved(tmp_path, {"a.weight_mask": mask, "b.weight": weight, "b.weight_mask": mask.bool()}))
    for name, values in (("a.weight", None), ("b.weight", weight)):
        found, kept = foreign.values(name), foreign.mask(name)
        assert kept is not None and np.array_equal(kept, mask.bool())
        assert found is None if values is None else found is not None and np.array_equal(found, values)


def test_a_file_of_masks_under_the_names_of_weights_holds_no_weights(tmp_path: Path) -> None:
    mask = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    for given in (mask, mask.bool(), mask.to(torch.uint8)):
        alone = open_pruned(
            saved(tmp_path, {"a.weight": given, "b.weight": torch.ones_like(given), "n": torch.ones(3)})
        )
        assert alone.format == "masks" and alone.masked == {"a.weight", "b.weight"}
        kept = alone.mask("a.weight")
        assert alone.values("a.weight") is None and kept is not None and np.array_equal(kept, mask != 0)
    for state in ({"a.weight": mask, "b.weight": 2 * mask}, {"a.weight": torch.ones(2, 2)}):
        assert open_pruned(saved(tmp_path, state)).format == "zeros"


def test_a_dict_of_masks_beside_weights_is_read_where_its_names_fit_them(tmp_path: Path) -> None:
    mask, weight = torch.tensor([[True, False], [False, True]]), torch.ones(2, 2)
    state = {"module.visual.a.weight": weight, "module.visual.b": weight.clone(), "module.n": torch.ones(3)}
    for content in (
        {"state_dict": state, "masks": {"module.visual.a.weight": mask, "module.visual.b": mask.float()}},
        {"model": state, "weight_masks": {"a.weight": mask, "b": mask}},
        {**state, "mask": {"visual.a.weight": mask, "visual.b": mask}},
    ):
        foreign = open_pruned(saved(tmp_path, content))
        assert foreign.masked == {"module.visual.a.weight", "module.visual.b"} and foreign.shapes.keys() == state.keys()
        for name in foreign.masked:
            kept, values = foreign.mask(name), foreign.values(name)
            assert kept is not None and np.array_equal(kept, mask)
            assert values is not None and np.array_equal(values, weight), "the weights stay as they are"
        assert foreign.file.note is None
    by_module = open_pruned(saved(tmp_path, {"model": state, "masks": {"visual.a": mask}}))
    assert by_module.masked == {"module.visual.a.weight"}
    for masks in ({"a.weight": mask, "c.weight": mask}, {"a.weight": mask[:1]}):
        foreign = open_pruned(saved(tmp_path, {"state_dict": state, "masks": masks}))
        assert foreign.masked == set() and foreign.format == "zeros"
        assert foreign.file.note is not None and "'masks' beside it" in foreign.file.note


def test_a_buffer_called_mask_is_not_taken_for_one(tmp_path: Path) -> None:
    foreign = open_pruned(saved(tmp_path, {"attn_mask": torch.ones(2, 2), "a.weight": torch.ones(2, 2)}))
    assert foreign.format == "zeros" and not foreign.masked


def test_a_mask_of_other_numbers_is_an_error(tmp_path: Path) -> None:
    state = {"a.weight_orig": torch.ones(2), "a.weight_mask": torch.tensor([0.5, 1.0])}
    with pytest.raises(MaskError, match=r"not made of 0 and 1: 'a.weight_mask'"):
        open_pruned(saved(tmp_path, state)).mask("a.weight")


def test_a_named_format_is_one_of_the_known_and_fits_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a.weight": torch.ones(2, 2)})
    with pytest.raises(OptionError, match="unknown format: 'gguf'; choose one of opentrans, torch-prune"):
        open_pruned(path, "gguf")
    for name in ("opentrans", "torch-prune", "torch-ao", "nncf", "compressed-tensors", "masks"):
        with pytest.raises(SourceError, match=f"no mask by the names of {name}"):
            open_pruned(path, name)


def test_masks_by_the_names_of_torch_ao_and_nncf_are_those_of_their_weights(tmp_path: Path) -> None:
    """The names are those that NNCF 2.14 and 3.4 write; what else NNCF adds to a model is no weight of it."""
    mask, weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.randn(2, 2)
    logits, hook = 4 * mask - 1, "m.__nncf_hooks.post_hooks.a"
    for format, state in (
        ("torch-ao", {"m.a.parametrizations.weight.original": weight, "m.a.parametrizations.weight.0.mask": mask}),
        ("nncf", {"m.a.weight": weight, "m.a.pre_ops.0.op._mask": mask}),
        ("nncf", {"m.a.weight": weight, "m.a.pre_ops.0.op._mask": logits, "m.a.pre_ops.0.op.uniform": weight}),
        ("nncf", {"m.a.weight": weight, "m.a.pre_ops.0.op._binary_mask": mask}),
        ("nncf", {"m.a.weight": weight, f"{hook}:weight__0.0.binary_mask": mask.bool()}),
        ("nncf", {"m.a.weight": weight, f"{hook}:weight__0.0.mask": logits, f"{hook}__0.0.scale": weight}),
    ):
        pruned = open_pruned(saved(tmp_path, {"state_dict": {**state, "b.weight": weight}}))
        assert pruned.format == format and pruned.shapes == {"m.a.weight": (2, 2), "b.weight": (2, 2)}
        kept = pruned.mask("m.a.weight")
        assert kept is not None and np.array_equal(kept, mask != 0)
        assert np.array_equal(pruned.weight("m.a.weight"), weight * mask)
        assert np.array_equal(pruned.weight("b.weight"), weight)


def test_a_packed_projection_and_whole_filters_have_masks_of_nncf_too(tmp_path: Path) -> None:
    mask, weight = torch.tensor([1.0, 0.0, 1.0]), torch.randn(3, 2, 1, 1)
    state = {"a.in_proj_weight": weight[..., 0, 0], "c.weight": weight}
    rows = {"__nncf_hooks.post_hooks.a:in_proj_weight__0.0.binary_mask": mask.expand(2, 3).t().bool()}
    pruned = open_pruned(saved(tmp_path, {**state, **rows, "c.pre_ops.0.op._binary_filter_pruning_mask": mask}))
    assert pruned.masked == state.keys()
    for name, values in state.items():
        assert np.array_equal(pruned.weight(name), values * mask.reshape(3, *[1] * (values.ndim - 1)))
        assert np.array_equal(pruned.weight(name, slice(1, 3)), pruned.weight(name)[1:3])


def test_masks_of_a_real_sparsifier_are_found_in_its_own_state(tmp_path: Path) -> None:
    """torch.ao.pruning leaves them out of the state dict, and torch saves no parametrized module whole."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    sparsifier = WeightNormSparsifier(sparsity_level=0.5, sparse_block_shape=(1, 4), zeros_per_block=4)
    sparsifier.prepare(net, [{"tensor_fqn": "0.weight"}])
    sparsifier.step()
    assert not [name for name in net.state_dict() if "mask" in name]
    wanted = net[0].weight.detach()
    assert (wanted == 0).float().mean() == 0.5
    pruned = open_pruned(saved(tmp_path, {"model": net.state_dict(), "sparsifier": sparsifier.state_dict()}))
    assert pruned.format == "torch-ao" and pruned.masked == {"0.weight"}
    assert np.array_equal(pruned.weight("0.weight"), wanted)
    bare = open_pruned(saved(tmp_path, net.state_dict()))
    assert "0.parametrizations.weight.original" in bare.tensors and not bare.masked
