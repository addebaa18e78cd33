"""transfer --to patch: the subnet is the base with the patch in it, under the names that open_clip has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.layers import join_packed, tensors
from opentrans_cli.clip.source import load_clip
from opentrans_cli.errors import OptionError, OutputError
from opentrans_cli.steps.prune.prune import prune
from opentrans_cli.steps.sources import bundle_tower, tower_at_sparsity
from opentrans_cli.steps.transfer.patch import export_patch

VIT = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 1, "layers": 1},
}


def patched(base: str, path: Path) -> dict[str, torch.Tensor]:
    """The state dict of open_clip's model of `base` with the patch in it, by the few lines that the card has."""
    state = {name: value.clone() for name, value in load_clip(base).model.state_dict().items()}
    patch = load_file(path)
    for name in (key.removesuffix(".indices") for key in patch if key.endswith(".indices")):
        state[name].view(-1)[patch[name + ".indices"].long()] = patch[name + ".values"]
    return state


def same(state: dict[str, torch.Tensor], tower: dict[str, torch.Tensor], base: str) -> bool:
    """Whether the image tower in `state` is `tower`, and the rest that of the base, to the last bit."""
    wanted = {**load_clip(base).model.state_dict(), **{f"visual.{name}": value for name, value in tower.items()}}
    return all(value.numpy().tobytes() == wanted[name].numpy().tobytes() for name, value in state.items())


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of open_clip with a small ViT, whose attention is packed."""
    root = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    state = {name: value.contiguous() for name, value in build_clip(VIT).state_dict().items()}
    save_file(state, root / "open_clip_model.safetensors")
    (root / "open_clip_config.json").write_text(json.dumps({"model_cfg": VIT}))
    return root


def test_the_base_with_the_patch_is_the_subnet_bit_by_bit(
    tiny_bundle: Path, vit: Path, nested_bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    """A subnet of a ResNet, of a ViT, one that was trained, one of masks alone."""
    pruned = prune(str(vit), sparsity=0.6, dtype="float16", out=tmp_path / "vit", device="cpu").path
    sources = (
        (tiny_bundle, "tiny"),
        (pruned, str(vit)),
        (nested_bundle("trained"), "tiny"),
        (nested_bundle("masks"), "tiny"),
    )
    for number, (path, base) in enumerate(sources):
        out = tmp_path / f"{number}.safetensors"
        result = export_patch(path, out=out)
        check_document(result.to_json(), "transfer_receipt")
        assert json.loads((tmp_path / f"{out.name}.receipt.json").read_bytes()) == result.to_json()
        bundle = open_bundle(path)
        tower = bundle_tower(bundle).state
        assert same(patched(base, out), tensors(join_packed(tower)), base), path
        assert result.base == bundle.manifest.base.digest and result.patch["total"] == sum(
            a.size for a in tower.values()
        )
        assert result.patch["changed"] == sum(key["changed"] for key in result.keys)


def test_a_subnet_that_was_only_pruned_differs_where_it_is_pruned(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    result = export_patch(tiny_bundle, out=tmp_path / "p.safetensors")
    values = [value for name, value in load_file(tmp_path / "p.safetensors").items() if name.endswith(".values")]
    assert not any(value.any() for value in values)
    assert result.patch["changed"] == bundle.manifest.total - bundle.manifest.kept
    dry = export_patch(tiny_bundle, out=None)
    assert dry.keys == result.keys and dry.path is None and dry.patch["sha256"] is None


def test_an_earlier_round_is_patched_as_well(nested_bundle: Callable[[str], Path], tmp_path: Path) -> None:
    bundle: Bundle = open_bundle(nested_bundle("untrained"))
    earlier = min(info["sparsity"] for info in _rounds(bundle))
    export_patch(bundle.path, out=tmp_path / "p.safetensors", at_sparsity=earlier)
    tower = tower_at_sparsity(bundle, earlier).state
    assert same(patched("tiny", tmp_path / "p.safetensors"), tensors(join_packed(tower)), "tiny")


def _rounds(bundle: Bundle) -> list[dict[str, Any]]:
    from opentrans_cli.bundle.rounds import available

    return [vars(info) for info in available(bundle)]


def test_bad_places_and_options_are_refused_before_anything_is_read(
    tiny_bundle: Path, tmp_path: Path, run_cli: Any
) -> None:
    with pytest.raises(OptionError, match=r"a patch is a safetensors file: --out .*; let its name"):
        export_patch(tiny_bundle, out=tmp_path / "p.pth")
    (tmp_path / "p.safetensors").write_bytes(b"")
    with pytest.raises(OutputError, match="already exists"):
        export_patch(tiny_bundle, out=tmp_path / "p.safetensors")
    done = run_cli("transfer", tiny_bundle, "--to", "patch", "-o", tmp_path / "p.safetensors", "--force", "--quiet")
    assert done.stdout == f"{tmp_path / 'p.safetensors'}\n"
    wrong = run_cli("transfer", tiny_bundle, "--to", "patch", "--compact", "--dry-run")
    assert wrong.exit_code == 2 and "of --to open-clip alone: --compact" in wrong.stderr
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"p.safetensors", "p.safetensors.receipt.json"}
