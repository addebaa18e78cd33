"""A subnet stays on anybody's model through anybody's training loop, and says so when it did not."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, nn
from torch.optim.swa_utils import AveragedModel

from opentrans_cli.bundle.contents import BundleContents
from opentrans_cli.bundle.store import open_bundle, write_bundle
from opentrans_cli.clip.architecture import build_visual, meta_visual
from opentrans_cli.clip.layers import arrays, layer_weights, prunable_layers, split_packed
from opentrans_cli.clip.source import load_clip
from opentrans_cli.errors import MaskError, OptionError, TransferError
from opentrans_cli.steps.apply import apply
from opentrans_cli.steps.sources import base_record, bundle_tower


class Wrapped(nn.Module):
    """A tower where frameworks put it, and a head."""

    def __init__(self, tower: nn.Module, path: str = "backbone.clip_model.visual") -> None:
        super().__init__()
        *parents, last = path.split(".")
        owner: nn.Module = self
        for name in parents:
            owner.add_module(name, nn.Module())
            owner = owner.get_submodule(name)
        owner.add_module(last, tower)
        self.path = path
        self.head = nn.Linear(64, 3)

    @property
    def tower(self) -> Any:
        return self.get_submodule(self.path)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.tower(images))
        return out


@cache
def stored_tower(bundle: Path) -> nn.Module:
    return bundle_tower(open_bundle(bundle)).visual.train()


def fresh_tower(bundle: Path, *, seed: int = 0) -> nn.Module:
    """A tower of the bundle's architecture with other values, none of them zero."""
    tower = copy.deepcopy(stored_tower(bundle))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(0.05 + 0.01 * torch.rand_like(parameter))
    return tower


@pytest.fixture
def model(tiny_bundle: Path) -> Wrapped:
    return Wrapped(fresh_tower(tiny_bundle))


def step(model: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
    images = torch.rand(2, 3, 64, 64)
    for optimizer in optimizers:
        optimizer.zero_grad()
    model(images.to(next(model.parameters()).dtype)).square().mean().backward()
    for optimizer in optimizers:
        optimizer.step()


def removed(bundle: Path, tower: nn.Module) -> Tensor:
    """The values of all removed weights."""
    masks = open_bundle(bundle).masks()
    weights = layer_weights(tower, masks)
    return torch.cat([weights[layer][~torch.from_numpy(mask)].float() for layer, mask in masks.items()])


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)


@pytest.mark.parametrize("path", ["tower_", "backbone.clip_model.visual", "model.vision_backbone.body"])
def test_removed_weights_stay_zero_below_any_prefix_and_all_others_train(tiny_bundle: Path, path: str) -> None:
    model = Wrapped(fresh_tower(tiny_bundle), path)
    before = copy.deepcopy(model.state_dict())
    subnet = apply(tiny_bundle, model)
    assert subnet.where.prefix == f"{path}." and not removed(tiny_bundle, model.tower).any()
    for layer, mask in open_bundle(tiny_bundle).masks().items():
        kept = torch.from_numpy(mask)
        weight = model.tower.get_parameter(f"{layer}.weight").detach()
        assert torch.equal(weight[kept], before[f"{path}.{layer}.weight"][kept]), "kept values are the model's own"
    optimizer = adamw(model)
    subnet.hold(optimizer)
    for _ in range(3):
        step(model, optimizer)
        assert not removed(tiny_bundle, model.tower).any()
    subnet.bake()
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert set(changed) == set(before)
    assert subnet.sparsity == open_bundle(tiny_bundle).manifest.achieved_sparsity


def test_without_holding_the_first_step_brings_removed_weights_back_and_bake_names_the_layer(
    tiny_bundle: Path, model: Wrapped
) -> None:
    """What `hold` is for; the weights are looked at before anything is zeroed."""
    subnet, optimizer = apply(tiny_bundle, model), adamw(model)
    step(model, optimizer)
    values = copy.deepcopy(model.state_dict())
    with pytest.raises(MaskError, match=r"^pruned weights are no longer zero: conv2; .*Subnet.apply$"):
        subnet.bake()
    assert all(torch.equal(tensor, values[name]) for name, tensor in model.state_dict().items())
    subnet.apply()
    subnet.bake()
    assert not removed(tiny_bundle, model.tower).any()


def test_weights_of_the_subnet_replace_all_of_the_tower_and_name_what_has_no_place(
    tiny_bundle: Path, model: Wrapped
) -> None:
    head = copy.deepcopy(model.head.state_dict())
    subnet = apply(tiny_bundle, model, weights="subnet")
    state = model.tower.state_dict()
    assert all(np.array_equal(state[name].numpy(), array) for name, array in open_bundle(tiny_bundle).tower().items())
    assert all(torch.equal(tensor, head[name]) for name, tensor in model.head.state_dict().items())
    assert subnet.where.left_out == ()
    del model.tower.attnpool
    left_out = apply(tiny_bundle, model, weights="subnet").where.left_out
    assert len(left_out) == 9 and all(name.startswith("attnpool.") for name in left_out)


def test_an_earlier_round_is_applied_by_its_sparsity(nested_bundle: Callable[[str], Path]) -> None:
    for kind, weights in (("masks", "keep"), ("trained", "subnet")):
        path = nested_bundle(kind)
        model = Wrapped(fresh_tower(path))
        subnet = apply(path, model, at_sparsity=0.5, weights=weights)
        zeros = sum(int((weight == 0).sum()) for weight in layer_weights(model.tower, subnet.where.layers).values())
        assert abs(subnet.sparsity - 0.5) < 5e-4
        assert zeros == round(subnet.sparsity * open_bundle(path).manifest.total)


def test_the_model_may_change_its_form_while_it_is_held(tiny_bundle: Path) -> None:
    changes: tuple[Callable[[nn.Module], object], ...] = (
        lambda model: model.to(torch.float64),
        lambda model: model.to(memory_format=torch.channels_last),
        lambda model: model.load_state_dict(copy.deepcopy(model.state_dict()), assign=False),
    )
    for change in changes:
        model = Wrapped(fresh_tower(tiny_bundle))
        subnet = apply(tiny_bundle, model)
        change(model)
        optimizer = adamw(model)
        subnet.hold(optimizer)
        step(model, optimizer)
        assert not removed(tiny_bundle, model.tower).any()


def test_several_optimizers_of_parts_accumulation_autocast_and_a_scaler_do_not_bring_weights_back(
    tiny_bundle: Path, model: Wrapped
) -> None:
    first = torch.optim.SGD([model.tower.conv2.weight], lr=0.1, momentum=0.9, weight_decay=0.1)
    rest = [p for p in model.parameters() if p is not model.tower.conv2.weight]
    second = torch.optim.AdamW(rest, lr=1e-2)
    apply(tiny_bundle, model).hold(first, second)
    for _ in range(2):
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16):
                model(torch.rand(1, 3, 64, 64)).square().mean().backward()
        for optimizer in (first, second):
            optimizer.step()
            optimizer.zero_grad()
        assert not removed(tiny_bundle, model.tower).any()
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(torch.rand(2, 3, 64, 64)).square().mean()).backward()
    for optimizer in (first, second):
        scaler.step(optimizer)
    assert not removed(tiny_bundle, model.tower).any()


def test_a_wrapped_optimizer_is_followed_and_what_is_none_is_refused(tiny_bundle: Path, model: Wrapped) -> None:
    class OptimWrapper:
        """As mmengine's: it steps the optimizer it keeps."""

        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer = optimizer

    optimizer = adamw(model)
    subnet = apply(tiny_bundle, model).hold(OptimWrapper(optimizer), optimizer)
    step(model, optimizer)
    subnet.bake()
    with pytest.raises(OptionError, match="not an optimizer of torch: int; pass the one whose step"):
        subnet.hold(3)


def test_a_model_under_ddp_is_held(tiny_bundle: Path, model: Wrapped, tmp_path: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(model)
        optimizer = adamw(parallel)
        with apply(tiny_bundle, parallel) as subnet:
            assert subnet.where.prefix.startswith("module.backbone.")
            subnet.hold(optimizer)
            step(parallel, optimizer)
        assert not removed(tiny_bundle, model.tower).any()
    finally:
        distributed.destroy_process_group()


def test_an_average_of_a_held_model_is_sparse_as_well(tiny_bundle: Path, model: Wrapped) -> None:
    average = AveragedModel(model, avg_fn=lambda average, new, count: 0.9 * average + 0.1 * new)
    optimizer = adamw(model)
    apply(tiny_bundle, model).hold(optimizer)
    second = apply(tiny_bundle, average)
    assert second.where.prefix == f"module.{model.path}."
    for _ in range(3):
        step(model, optimizer)
        average.update_parameters(model)
    second.check()


def test_a_teacher_beside_the_model_is_left_alone_or_chosen_by_its_prefix(tiny_bundle: Path) -> None:
    model = Wrapped(fresh_tower(tiny_bundle), "backbone")
    model.teacher = fresh_tower(tiny_bundle)
    assert apply(tiny_bundle, model).where.prefix == "backbone."
    assert removed(tiny_bundle, model.teacher).all()
    apply(tiny_bundle, model, under="teacher.")
    assert not removed(tiny_bundle, model.teacher).any()


def test_a_weight_that_something_else_wrote_is_found_before_the_next_step_unless_it_is_let_go(
    tiny_bundle: Path, model: Wrapped
) -> None:
    dense, optimizer = copy.deepcopy(model.state_dict()), adamw(model)
    subnet = apply(tiny_bundle, model).hold(optimizer, check_every=2)
    step(model, optimizer)
    model.load_state_dict(dense)
    with pytest.raises(MaskError, match="no longer zero: conv2"):
        optimizer.step()
    subnet.apply()
    step(model, optimizer)
    step(model, optimizer)
    subnet.detach()
    step(model, optimizer)
    assert removed(tiny_bundle, model.tower).any()
    with pytest.raises(MaskError, match="no longer zero"):
        subnet.hold(optimizer)
    subnet.apply()
    subnet.hold(optimizer)
    step(model, optimizer)
    subnet.bake()
    assert not removed(tiny_bundle, model.tower).any()


def test_the_context_bakes_at_the_end_and_detaches_after_an_error(tiny_bundle: Path, model: Wrapped) -> None:
    optimizer = adamw(model)
    with apply(tiny_bundle, model) as subnet:
        subnet.hold(optimizer)
        step(model, optimizer)
    assert not removed(tiny_bundle, model.tower).any()
    with pytest.raises(KeyError), apply(tiny_bundle, model) as subnet:
        subnet.hold(optimizer)
        raise KeyError("x")
    step(model, optimizer)
    assert removed(tiny_bundle, model.tower).any(), "nothing follows the optimizer any more"


def test_nothing_of_a_subnet_is_in_what_training_saves(tiny_bundle: Path, model: Wrapped) -> None:
    optimizer, names = adamw(model), set(model.state_dict())
    subnet = apply(tiny_bundle, model).hold(optimizer)
    step(model, optimizer)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    assert set(saved["model"]) == names
    resumed = Wrapped(fresh_tower(tiny_bundle, seed=1))
    resumed.load_state_dict(saved["model"])
    other = adamw(resumed)
    other.load_state_dict(saved["optimizer"])
    again = apply(tiny_bundle, resumed).hold(other)
    for trained, by in ((model, optimizer), (resumed, other)):
        torch.manual_seed(3)
        step(trained, by)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    for one in (subnet, again):
        one.bake()


def vit_bundle(folder: Path) -> tuple[Path, nn.Module]:
    config = {
        "embed_dim": 64,
        "vision_cfg": {"layers": 2, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 64},
        "text_cfg": {},
    }
    torch.manual_seed(0)
    state = {name: torch.randn(tensor.shape) * 0.1 for name, tensor in meta_visual(config).state_dict().items()}
    visual = build_visual(config, state)
    masks = {n: w.abs() > w.abs().median() for n, w in layer_weights(visual, prunable_layers(visual)).items()}
    dense = arrays(split_packed(visual.state_dict()))
    dense |= {f"{layer}.weight": dense[f"{layer}.weight"] * mask.numpy() for layer, mask in masks.items()}
    base = replace(base_record(load_clip("tiny")), model_cfg=config, architecture="vit")
    contents = BundleContents(base, "unstructured", 0.5, arrays(masks), dense, ())
    return write_bundle(folder / "vit", contents).path, visual


def test_packed_attention_is_held_part_by_part(tmp_path: Path) -> None:
    path, visual = vit_bundle(tmp_path)
    model = Wrapped(visual, "image_encoder")
    optimizer = adamw(model)
    with apply(path, model, weights="subnet") as subnet:
        assert subnet.where.left_out == () and "transformer.resblocks.1.attn.v_proj" in subnet.where.layers
        subnet.hold(optimizer)
        step(model, optimizer)
    for layer, mask in open_bundle(path).masks().items():
        weight = layer_weights(visual, [layer])[layer]
        kept = torch.from_numpy(mask)
        assert not weight[~kept].any() and weight[kept].all(), layer


def test_with_whole_channels_what_they_leave_without_effect_is_held_too(tmp_path: Path, run_cli: Any) -> None:
    assert run_cli("prune", "tiny", "--pattern", "channel", "-s", "0.5", "-o", tmp_path / "narrow").exit_code == 0
    model = Wrapped(fresh_tower(tmp_path / "narrow"))
    optimizer = adamw(model)
    apply(tmp_path / "narrow", model).hold(optimizer)
    step(model, optimizer)
    dead = ~torch.from_numpy(open_bundle(tmp_path / "narrow").masks()["layer1.0.conv1"]).flatten(1).any(1)
    norm = model.tower.get_submodule("layer1.0.bn1")
    assert dead.any() and not norm.weight.detach()[dead].any() and not norm.bias.detach()[dead].any()
    assert norm.weight.detach()[~dead].all()


def test_what_cannot_be_applied_is_told_and_changes_nothing(tiny_bundle: Path, model: Wrapped) -> None:
    reshaped = Wrapped(fresh_tower(tiny_bundle))
    reshaped.tower.layer1[0].conv1 = nn.Conv2d(3, 4, 1)
    cases: tuple[tuple[nn.Module, dict[str, Any], type[Exception], str], ...] = (
        (nn.Linear(2, 2), {}, TransferError, "the tower is not there in the model: .*; pass the model that holds"),
        (model, {"weights": "half"}, OptionError, "unknown weights: 'half'; choose one of keep, subnet"),
        (model, {"at_sparsity": 0.3}, OptionError, "no round has this sparsity"),
        (model, {"keys": "flax"}, OptionError, "unknown key table"),
        (model, {"under": "elsewhere."}, TransferError, "the tower is not there in the model"),
        (reshaped, {}, TransferError, "no place of its shape in the model: layer1.0.conv1, by the names of"),
    )
    for target, options, kind, message in cases:
        before = copy.deepcopy(target.state_dict())
        with pytest.raises(kind, match=message) as caught:
            apply(tiny_bundle, target, **options)
        assert "\n" not in str(caught.value)
        assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())
