"""Whatever another program pruned, the bundle has its masks and its values, or an error says why not."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils import prune

from opentrans_cli.bundle.rounds import untrained
from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.bundle.verify.verify import verify_bundle
from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.key_tables import find_table
from opentrans_cli.clip.layers import PARTS, arrays, layer_weights, prunable_layers, split_packed
from opentrans_cli.clip.source import LoadedClip, load_clip
from opentrans_cli.errors import BundleError, MaskError, OpentransError, OptionError, SourceError, TransferError
from opentrans_cli.files.digest import tower_digest
from opentrans_cli.steps import sources
from opentrans_cli.steps.import_masks import import_masks
from opentrans_cli.steps.provenance.provenance import provenance

once = cache(load_clip)


@pytest.fixture(autouse=True)
def _sources_are_loaded_once(monkeypatch) -> None:
    """Nothing here changes a loaded CLIP, and loading it is most of the time an import of the tiny one takes."""
    monkeypatch.setattr(sources, "load_clip", lambda source: once(source) if source == "tiny" else load_clip(source))


def trained_clip() -> LoadedClip:
    """The embedded CLIP after something that moved every weight."""
    clip, generator = load_clip("tiny"), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in clip.model.visual.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    return clip


@pytest.fixture(scope="module")
def pruned() -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """The trained tower with 60 % pruned by torch: state dict, masks by layer, and the tower with zeros."""
    visual = trained_clip().model.visual
    layers = prunable_layers(visual)
    modules = [(visual.get_submodule(layer), "weight") for layer in layers]
    prune.global_unstructured(modules, prune.L1Unstructured, amount=0.6)
    state = {name: tensor.detach().clone() for name, tensor in visual.state_dict().items()}
    masks = {layer: state[f"{layer}.weight_mask"] != 0 for layer in layers}
    for module, name in modules:
        prune.remove(module, name)
    return state, masks, {name: tensor.detach().clone() for name, tensor in visual.state_dict().items()}


def packed(tower: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A tower as compressed-tensors has it."""
    state: dict[str, Tensor] = {}
    for name, tensor in tower.items():
        module = name.removesuffix(".weight")
        if module == name:
            state[name] = tensor
            continue
        kept = tensor != 0
        bits = np.packbits(kept.numpy(), axis=-1, bitorder="little")
        counts = kept.sum(-1)
        state |= {
            f"{module}.compressed": tensor[kept],
            f"{module}.bitmask": torch.from_numpy(bits),
            f"{module}.shape": torch.tensor(tensor.shape),
            f"{module}.row_offsets": counts.cumsum(0) - counts,
        }
    return state


def check(out: Path, masks: Mapping[str, Tensor], tower: Mapping[str, Tensor]) -> None:
    bundle = open_bundle(out)
    found, values = bundle.masks(), bundle.tower()
    assert set(found) == set(masks)
    assert all(np.array_equal(found[layer], mask.numpy()) for layer, mask in masks.items())
    assert set(values) == set(tower)
    assert all(np.array_equal(values[name], tensor.float().numpy()) for name, tensor in tower.items())
    assert not [check for check in verify_bundle(out) if not check.ok]


def test_the_papers_backbone_gives_its_masks_and_values_and_lends_the_pool_of_the_base(pruned, tmp_path) -> None:
    state, masks, tower = pruned
    trunk = OrderedDict((name, tensor) for name, tensor in state.items() if not name.startswith("attnpool."))
    torch.save(
        {"first_conv": OrderedDict(weight=state["conv1.weight"]), "backbone": trunk, "sem_seg_head": {}},
        tmp_path / "seg_backbone_imp3.pth",
    )
    result = import_masks(tmp_path / "seg_backbone_imp3.pth", out=tmp_path / "b", base="tiny")
    base = once("tiny").model.visual.state_dict()
    pool = {name: tensor for name, tensor in base.items() if name.startswith("attnpool.")}
    check(tmp_path / "b", masks, {**tower, **pool})
    assert result.format == "opentrans" and set(result.from_base) == set(pool)
    assert result.kept == sum(int(mask.sum()) for mask in masks.values()) and result.layers == len(masks)
    manifest = open_bundle(tmp_path / "b").manifest
    assert manifest.base.digest == tower_digest(arrays(base)) and manifest.pattern == "unstructured"
    assert manifest.achieved_sparsity == manifest.target_sparsity == result.sparsity


@pytest.mark.parametrize("prefix", ["", "module.backbone.clip_model.visual.", "model.vision.encoder."])
def test_prune_state_dicts_are_found_below_any_prefix(pruned, tmp_path, prefix: str) -> None:
    state, masks, tower = pruned
    more = {"head.weight_orig": torch.ones(2, 2), "head.weight_mask": torch.eye(2)}
    torch.save({"state_dict": {**{prefix + name: tensor for name, tensor in state.items()}, **more}}, tmp_path / "a.pt")
    result = import_masks(tmp_path / "a.pt", out=tmp_path / "b", base="tiny")
    check(tmp_path / "b", masks, tower)
    assert (result.format, result.prefix, result.from_base) == ("torch-prune", prefix, ())
    assert result.unused_masks == ("head.weight",)


def test_bitmasks_of_compressed_tensors_give_the_same_bundle_as_the_zeros_they_came_from(pruned, tmp_path) -> None:
    _, masks, tower = pruned
    save_file(packed(tower), tmp_path / "model.safetensors")
    save_file({f"backbone.{name}": tensor for name, tensor in tower.items()}, tmp_path / "plain.safetensors")
    first = import_masks(tmp_path / "model.safetensors", out=tmp_path / "a", base="tiny")
    second = import_masks(tmp_path / "plain.safetensors", out=tmp_path / "b", base="tiny")
    assert (first.format, second.format) == ("compressed-tensors", "zeros")
    everywhere = {"conv1", *(name for name in open_bundle(tmp_path / "a").masks() if name.startswith("attnpool."))}
    found = open_bundle(tmp_path / "a").masks()
    assert set(found) == set(masks) | everywhere, "it packs every weight, so that every layer has a mask"
    assert all(found[layer].all() for layer in everywhere)
    check(tmp_path / "b", masks, tower)
    assert open_bundle(tmp_path / "a").tower().keys() == tower.keys()


def test_zeros_of_either_sign_are_pruned(pruned, tmp_path) -> None:
    """A mask times a negative weight leaves -0.0, as detectron2 saves what the paper's code baked in."""
    state, masks, tower = pruned
    baked = {name: tensor for name, tensor in tower.items()}
    baked |= {f"{layer}.weight": state[f"{layer}.weight_orig"] * mask for layer, mask in masks.items()}
    assert any(torch.signbit(baked[f"{layer}.weight"][~mask]).any() for layer, mask in masks.items())
    torch.save(
        {"model": {f"backbone.{name}": tensor for name, tensor in baked.items()}, "iteration": 5}, tmp_path / "x"
    )
    import_masks(tmp_path / "x", out=tmp_path / "b", base="tiny")
    check(tmp_path / "b", masks, tower)


def test_a_whole_clip_with_zeros_is_its_own_base(pruned, tmp_path) -> None:
    _, masks, tower = pruned
    whole = {f"visual.{name}": tensor for name, tensor in tower.items()}
    whole |= {n: t for n, t in once("tiny").model.state_dict().items() if not n.startswith("visual.")}
    save_file({name: tensor.contiguous() for name, tensor in whole.items()}, tmp_path / "clip.safetensors")
    import_masks(tmp_path / "clip.safetensors", out=tmp_path / "b")
    check(tmp_path / "b", masks, tower)
    base = open_bundle(tmp_path / "b").manifest.base
    assert base.digest == tower_digest(arrays(tower)) and base.source == str(tmp_path / "clip.safetensors")


def test_masks_alone_keep_the_values_of_the_base(pruned, tmp_path) -> None:
    _, masks, _ = pruned
    torch.save({f"{layer}.weight_mask": mask.float() for layer, mask in masks.items()}, tmp_path / "masks.pth")
    result = import_masks(tmp_path / "masks.pth", out=tmp_path / "b", base="tiny")
    base = dict(once("tiny").model.visual.state_dict())
    base |= {f"{layer}.weight": base[f"{layer}.weight"] * mask + 0.0 for layer, mask in masks.items()}
    check(tmp_path / "b", masks, base)
    assert set(result.from_base) == set(base)


def test_a_vit_of_another_library_is_found_with_packed_attention(tmp_path) -> None:
    """Hugging Face keeps q, k and v apart; a bundle has them as three layers, and one bias."""
    config = {
        "embed_dim": 16,
        "vision_cfg": {"layers": 2, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 32},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
    }
    clip = build_clip(config)
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    torch.save(clip.state_dict(), tmp_path / "clip" / "open_clip_pytorch_model.bin")
    tower = dict(split_packed(clip.visual.state_dict()))
    layers = prunable_layers(clip.visual)
    masks = {
        layer: weight.abs() > weight.abs().median() for layer, weight in layer_weights(clip.visual, layers).items()
    }
    tower |= {f"{layer}.weight": tower[f"{layer}.weight"] * mask + 0.0 for layer, mask in masks.items()}
    apart: dict[str, Tensor] = {}
    for name, tensor in tower.items():
        owner = name.removesuffix("in_proj_bias")
        names = [name] if owner == name else [f"{owner}{part}.bias" for part in PARTS]
        apart |= dict(zip(names, tensor.chunk(len(names)) if len(names) > 1 else (tensor,), strict=True))
    layout, theirs = find_table("huggingface").layout, {}
    for name, tensor in apart.items():
        place = layout.places(name)[0]
        key = "visual_projection.weight" if place.key.startswith("../") else f"vision_model.{place.key}"
        theirs[key] = (tensor.T if place.transposed else tensor).contiguous()
    save_file(theirs, tmp_path / "hf.safetensors")
    result = import_masks(tmp_path / "hf.safetensors", out=tmp_path / "b", base=str(tmp_path / "clip"))
    check(tmp_path / "b", masks, tower)
    assert result.keys == "huggingface" and result.from_base == ()


def test_masks_only_dtypes_and_further_layers_are_as_asked(pruned, tmp_path) -> None:
    _, masks, tower = pruned
    save_file({name: tensor.contiguous() for name, tensor in tower.items()}, tmp_path / "x.safetensors")
    bare = import_masks(tmp_path / "x.safetensors", out=tmp_path / "a", base="tiny", mask_only=True)
    assert bare.mask_only and not open_bundle(tmp_path / "a").has("weights.safetensors")
    import_masks(tmp_path / "x.safetensors", out=tmp_path / "b", base="tiny", dtype="float16", include=["conv1"])
    assert set(open_bundle(tmp_path / "b").masks()) == {*masks, "conv1"}
    assert {layer.dtype for layer in open_bundle(tmp_path / "b").manifest.layers} == {"float16"}


def test_the_step_says_what_was_imported_and_values_may_be_trained(pruned, tmp_path) -> None:
    state, _, _ = pruned
    torch.save(state, tmp_path / "a.pt")
    result = import_masks(tmp_path / "a.pt", out=tmp_path / "b", base="tiny")
    (step,) = open_bundle(tmp_path / "b").manifest.steps
    digest = hashlib.sha256((tmp_path / "a.pt").read_bytes()).hexdigest()
    assert (step.verb, step.seed, step.data) == ("import", None, f"sha256:{digest}")
    assert not untrained((step,))
    report: dict[str, Any] = json.loads((tmp_path / "b" / "reports" / "import.json").read_text())
    check_document(report, "import_report")
    assert result.to_json() == {**report, "path": str(tmp_path / "b")}


def test_provenance_asks_for_the_file_and_imports_it_again(pruned, tmp_path, run_cli) -> None:
    state, _, _ = pruned
    torch.save(state, tmp_path / "a $(x).pt")
    import_masks(tmp_path / "a $(x).pt", out=tmp_path / "b", base="tiny", dtype="float16")
    history = provenance(tmp_path / "b")
    assert history.reproducible and f"FILE='{tmp_path}/a $(x).pt'" in history.script
    (step,) = history.steps
    assert step.command is not None and step.command.endswith('-- "$FILE"')
    program, verb, *given = shlex.split(step.command.replace("$BASE", "tiny").replace("\\\n", " "))
    assert (program, verb, *given[-2:]) == ("opentrans", "import", "--", "$FILE")
    again = [word for word in given[:-2] if not word.startswith("--out=")]
    assert run_cli("import", *again, "--out", tmp_path / "c", "--", tmp_path / "a $(x).pt").exit_code == 0
    assert open_bundle(tmp_path / "c").digest == open_bundle(tmp_path / "b").digest


def test_an_import_that_is_not_the_first_step_is_not_believed(pruned, tmp_path, tiny_bundle) -> None:
    state, _, _ = pruned
    torch.save(state, tmp_path / "a.pt")
    import_masks(tmp_path / "a.pt", out=tmp_path / "b", base="tiny")
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    forged = {**manifest["steps"][0], "parent": open_bundle(tiny_bundle).digest}
    manifest["steps"] = [open_bundle(tiny_bundle).manifest.to_json()["steps"][0], forged]
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(manifest))
    history = provenance(tmp_path / "b")
    assert not history.reproducible and "do not trust the record" in str(history.steps[1].problem)


def test_what_cannot_be_imported_is_told_in_one_line_and_leaves_nothing(pruned, tmp_path, tiny_bundle) -> None:
    tower, dense = dict(pruned[2]), dict(once("tiny").model.visual.state_dict())
    layer, base = "layer2.0.conv1.weight", {"base": "tiny"}
    two = {f"{prefix}.{name}": tensor.clone() for name, tensor in tower.items() for prefix in "ab"}
    less = {name: tensor for name, tensor in tower.items() if name != layer}
    beside = {"state_dict": dense, "masks": {"conv9.weight": torch.ones(2)}}
    cases: list[tuple[Mapping[str, Any], dict[str, Any], type, str]] = [
        (tower, {}, SourceError, "no whole CLIP in the checkpoint: .*; name the CLIP .* with --base"),
        ({"a.weight_mask": torch.ones(2)}, {}, SourceError, "cannot be its own base"),
        (tower, {"base": str(tiny_bundle)}, OptionError, "a base is a CLIP, not a bundle"),
        (dense, base, MaskError, "nothing is pruned"),
        (beside, base, MaskError, "nothing is pruned: .*; the masks in 'masks' are not read"),
        ({name: torch.zeros_like(tensor) for name, tensor in dense.items()}, base, MaskError, "everything is pruned"),
        ({"a.weight": torch.ones(2, 2)}, base, TransferError, "the tower is not there in .*--base"),
        (two, base, TransferError, "several towers fit in .*: .*; name the CLIP .*--under"),
        (less, base, TransferError, "a layer has no place of its shape in .*: layer2.0.conv1, by the names of tower"),
        ({**tower, layer: tower[layer] * torch.nan}, base, BundleError, "NaN or infinite"),
        ({**tower, layer: tower[layer].char()}, base, SourceError, f"weight is int8: '{layer}'"),
        (tower, {**base, "include": ["conv9"]}, OptionError, "no layer is called so"),
        (tower, {**base, "dtype": "int8"}, OptionError, "unknown dtype: 'int8'"),
        (tower, {**base, "keys": "flax"}, OptionError, "unknown key table: 'flax'"),
    ]
    for state, options, kind, message in cases:
        torch.save(state, tmp_path / "x.pth")
        with pytest.raises(OpentransError, match=message) as caught:
            import_masks(tmp_path / "x.pth", out=tmp_path / "b", **options)
        assert type(caught.value) is kind and "\n" not in str(caught.value)
        assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def test_a_parametrized_weight_without_its_mask_is_told(tmp_path: Path) -> None:
    save_file({"a.parametrizations.weight.original": torch.ones(2, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(SourceError, match=r"without its mask: 'a.parametrizations.weight.original' in .*squash_mask"):
        import_masks(tmp_path / "a.safetensors", out=tmp_path / "b", base="tiny")
