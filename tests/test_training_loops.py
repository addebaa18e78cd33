"""The code of docs/training-loops.md runs as it stands: plain torch, and hooks for frameworks.

The frameworks themselves are not installed; the stand-ins have the names, and the order of calls, of detectron2 0.6 and
mmengine 0.10.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.clip.layers import layer_weights
from opentrans_cli.errors import MaskError
from opentrans_cli.steps.apply import apply
from opentrans_cli.steps.sources import bundle_tower

DOCUMENT = Path(__file__).parents[1] / "docs" / "training-loops.md"


def code(heading: str) -> str:
    """The Python under a heading."""
    section = DOCUMENT.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (found,) = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return found


class Backbone(nn.Module):
    """A segmentor as frameworks have it, its tower without zeros."""

    def __init__(self, bundle: Path) -> None:
        super().__init__()
        self.backbone = bundle_tower(open_bundle(bundle)).visual.train()
        with torch.no_grad():
            for parameter in self.backbone.parameters():
                parameter.add_(0.05)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.backbone(images)
        return out


@pytest.fixture
def model(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """A model beside a bundle that is called as in the document."""
    torch.manual_seed(0)
    shutil.copytree(tiny_bundle, tmp_path / "my-bundle")
    monkeypatch.chdir(tmp_path)
    return Backbone(tiny_bundle)


def sparse(model: Backbone) -> bool:
    masks = open_bundle("my-bundle").masks()
    weights = layer_weights(model.backbone, masks)
    return not any(bool(weights[layer][~torch.from_numpy(mask)].any()) for layer, mask in masks.items())


def train(model: Backbone, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.rand(2, 3, 64, 64)).square().mean().backward()
    optimizer.step()


def test_the_plain_loop_trains_a_subnet_and_saves_it_with_its_zeros(model: Backbone, run_cli: Any) -> None:
    before = model.backbone.conv1.weight.detach().clone()
    batches = [(torch.rand(2, 3, 64, 64), torch.rand(2, 64)) for _ in range(2)]
    exec(compile(code("Plain torch"), str(DOCUMENT), "exec"), {"model": model, "batches": batches})
    assert sparse(model) and not torch.equal(model.backbone.conv1.weight, before)
    assert run_cli("import", "trained.pth", "--base", "tiny", "--out", "trained").exit_code == 0
    assert open_bundle("trained").manifest.layers == open_bundle("my-bundle").manifest.layers


def test_the_hook_for_detectron2_holds_from_before_train_to_after_train(model: Backbone, monkeypatch: Any) -> None:
    engine = ModuleType("detectron2.engine")
    engine.HookBase = type("HookBase", (), {"trainer": None})
    monkeypatch.setitem(sys.modules, "detectron2", ModuleType("detectron2"))
    monkeypatch.setitem(sys.modules, "detectron2.engine", engine)
    names: dict[str, Any] = {}
    exec(compile(code("detectron2"), str(DOCUMENT), "exec"), names)
    hook = names["HoldSubnet"]("my-bundle")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    hook.trainer = SimpleNamespace(model=model, optimizer=optimizer)
    hook.before_train()
    for _ in range(2):
        train(model, optimizer)
        assert sparse(model)
    hook.after_train()
    train(model, optimizer)
    assert not sparse(model), "the hook has let go"


def test_the_hook_for_mmengine_is_registered_and_holds_the_optimizer_inside_its_wrapper(
    model: Backbone, monkeypatch: Any
) -> None:
    registered: dict[str, Any] = {}

    class Registry:
        def register_module(self) -> Any:
            return lambda kind: registered.setdefault(kind.__name__, kind)

    hooks, registry = ModuleType("mmengine.hooks"), ModuleType("mmengine.registry")
    hooks.Hook, registry.HOOKS = type("Hook", (), {}), Registry()
    for name, module in (("mmengine", ModuleType("mmengine")), (hooks.__name__, hooks), (registry.__name__, registry)):
        monkeypatch.setitem(sys.modules, name, module)
    exec(compile(code("mmsegmentation, and all of mmengine"), str(DOCUMENT), "exec"), {})
    hook = registered["HoldSubnet"](bundle="my-bundle")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9, weight_decay=1e-2)
    runner = SimpleNamespace(model=model, optim_wrapper=SimpleNamespace(optimizer=optimizer))
    hook.before_train(runner)
    for _ in range(2):
        train(model, optimizer)
    hook.after_train(runner)
    assert sparse(model)


def test_the_document_names_what_attach_and_its_subnet_have(model: Backbone) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    subnet = apply("my-bundle", model)
    public = {name for name in dir(subnet) if not name.startswith("_")} - {"sparsity"}
    assert not {name for name in public if f"`{name}" not in text}
    arguments = set(apply.__kwdefaults__ or {})
    assert not {name for name in arguments if f"`{name}`" not in text}
    with pytest.raises(MaskError):
        model.backbone.conv2.weight.data.fill_(1)
        subnet.check()
