"""A CLIP is loaded as open_clip loads it, from wherever it lies and however it is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm.layers
import torch
from huggingface_hub import constants
from torch import Tensor

from opentrans_cli.clip import source
from opentrans_cli.clip.architecture import build_clip, load_state
from opentrans_cli.clip.open_clip import open_clip_module
from opentrans_cli.clip.source import load_clip, published, read_tower
from opentrans_cli.errors import SourceError
from opentrans_cli.reporter import Silent
from opentrans_cli.source_name import plain_source
from opentrans_cli.steps.sources import base_record, load_text_clip

TEXT = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1}
VIT = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}
RESNET = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "patch_size": None}
BATCHNORM = ("weight", "bias", "running_mean", "running_var")
TIMM = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "timm_proj": "linear", "image_size": 224}


def config(vision: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"embed_dim": 8, "vision_cfg": vision, "text_cfg": TEXT, **more}


def folder(path: Path, model_cfg: dict[str, Any], state: dict[str, Tensor]) -> Path:
    """A folder in open_clip's layout."""
    path.mkdir(exist_ok=True)
    torch.save(state, path / "open_clip_pytorch_model.bin")
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": {}}))
    return path


def random_state(model_cfg: dict[str, Any]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return build_clip(model_cfg).state_dict()


def hub_repo(root: Path, repo: str) -> Path:
    """The folder of a repo's files in the Hub's own cache."""
    home = root / f"models--{repo.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    (home / "snapshots").mkdir()
    return home / "snapshots" / ("0" * 40)


def test_one_number_is_the_mean_of_all_channels_as_in_open_clip(tmp_path: Path) -> None:
    path, state = tmp_path / "open_clip_config.json", random_state(config(VIT))
    folder(tmp_path, config(VIT), state)
    path.write_text(json.dumps({"model_cfg": config(VIT), "preprocess_cfg": {"mean": 0.5, "std": [0.1, 0.2, 0.3]}}))
    preprocess = load_clip(str(tmp_path)).preprocess
    assert (preprocess.mean, preprocess.std) == ((0.5,) * 3, (0.1, 0.2, 0.3))
    path.write_text(json.dumps({"model_cfg": config(VIT), "preprocess_cfg": {"mean": [0.5, 0.5]}}))
    with pytest.raises(SourceError, match=r"not three numbers: mean \[0.5, 0.5\]; check `preprocess_cfg`"):
        load_clip(str(tmp_path))


# Positions of another size.


def test_positions_of_another_image_size_are_resized_as_open_clip_does_and_told(tmp_path: Path) -> None:
    large = config({**VIT, "image_size": 48})
    large["text_cfg"] = {**TEXT, "context_length": 5}
    for dtype in (torch.float32, torch.float16):
        state = {name: tensor.to(dtype) for name, tensor in random_state(config(VIT)).items()}
        weights = folder(tmp_path, large, state) / "open_clip_pytorch_model.bin"
        loaded = load_clip(str(tmp_path))
        assert loaded.note == (
            f"{weights}: 8 positions of the text tower are resized to 5; "
            f"{weights}: 17 positions of the image tower are resized to 37"
        )
        if dtype is torch.float32:
            theirs = open_clip.create_model(f"local-dir:{tmp_path}", require_pretrained=True).state_dict()
            ours = loaded.model.state_dict()
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    without = {"module." + name: tensor for name, tensor in state.items() if "ln_post" not in name}
    with pytest.raises(SourceError, match=r"do not fit the architecture: .*ln_post.*; name another architecture"):
        load_clip(str(folder(tmp_path, large, without)))
    odd = {**state, "visual.positional_embedding": state["visual.positional_embedding"][:-1]}
    with pytest.raises(SourceError, match=r"positions are no square: 16 in visual.positional_embedding of"):
        load_clip(str(folder(tmp_path, large, odd)))
    with pytest.raises(SourceError, match=r"no squares: image_size \[48, 32\]"):
        load_clip(str(folder(tmp_path, config({**VIT, "image_size": [48, 32]}), state)))


def test_positions_of_attention_pools_and_of_timm_are_resized_too(tmp_path: Path) -> None:
    def resized(values: Tensor, side: int, before: int) -> Tensor:
        return timm.layers.resample_abs_pos_embed(values[None], [side, side], num_prefix_tokens=before)[0]

    state = random_state(config(RESNET))
    name = "visual.attnpool.positional_embedding"
    path = folder(tmp_path / "resnet", config({**RESNET, "image_size": 96}), state)
    assert read_tower(str(path)) is None
    loaded = load_clip(str(path))
    assert loaded.note is not None and "5 positions of the image tower are resized to 10" in loaded.note
    torch.testing.assert_close(loaded.model.state_dict()[name], resized(state[name], 3, 1))

    state, name = random_state(config(TIMM)), "visual.trunk.pos_embed"
    large = {**TIMM, "timm_model_name": "vit_tiny_patch16_384", "image_size": 384}  # timm's names hold the size
    loaded = load_clip(str(folder(tmp_path / "timm", config(large), state)))
    torch.testing.assert_close(loaded.model.state_dict()[name][0], resized(state[name][0], 24, 1))


# Other classes of open_clip.


@pytest.mark.parametrize("more", [{"custom_text": True}, {"custom_text": True, "init_logit_bias": -10.0}])
def test_a_clip_whose_text_tower_is_a_module_of_its_own_is_loaded_as_open_clip_does(
    more: dict[str, Any], tmp_path: Path
) -> None:
    path = str(folder(tmp_path, config(VIT, **more), random_state(config(VIT))))  # by the names of a plain CLIP
    loaded, theirs = load_clip(path), open_clip.create_model(f"local-dir:{path}", require_pretrained=True).eval()
    assert type(loaded.model).__name__ == "CustomTextCLIP"
    tokens = loaded.tokenizer(["a tree", "sky"])
    assert torch.equal(loaded.model.encode_text(tokens), theirs.encode_text(tokens))
    assert loaded.model.state_dict().keys() == theirs.state_dict().keys()
    assert load_state(loaded.model, theirs.state_dict(), origin="theirs") is None


# Published weights.


def test_published_weights_are_built_with_the_activation_of_their_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """For every name and tag of open_clip's table; open_clip 3 builds what the name says, with a warning."""
    monkeypatch.setattr(source, "_from_hub", lambda repo, names, revision=None: Path(repo, names[0]))
    table, told = open_clip_module("pretrained"), 0
    for name, tag in table.list_pretrained():
        record = table.get_pretrained_cfg(name, tag)
        place = source._place(f"{name}:{tag}")
        assert place.model_cfg is not None and record["hf_hub"].startswith(f"{place.path.parent}/")
        assert not record.get("quick_gelu") or place.model_cfg["quick_gelu"] is True
        assert (place.note is not None) == bool(place.model_cfg != open_clip_module("factory").get_model_config(name))
        told += place.note is not None
    assert told > 20
    assert source._place("RN50").note == "RN50:openai is built with QuickGELU, with which these weights were trained"


def test_plain_names_of_openai_weights_give_the_tower_they_were_trained_as(
    monkeypatch: pytest.MonkeyPatch, run_cli: Any, tmp_path: Path
) -> None:
    state = random_state(config(VIT))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    repo = "timm/vit_base_patch16_clip_224.openai"
    folder(hub_repo(tmp_path / "cache", repo), config(VIT), state)
    monkeypatch.setattr(source, "open_clip_config", lambda name: config(VIT) if name == "ViT-B-16" else None)
    pixels = torch.randn(1, 3, 32, 32)
    towers = [build_clip(config(VIT, quick_gelu=quick)) for quick in (True, False)]
    quick, plain = (tower.load_state_dict(state) and tower.visual(pixels) for tower in towers)  # type: ignore
    assert not torch.allclose(quick, plain)
    for spelling in ("ViT-B-16", "ViT-B/16", "ViT-B-16:openai", "ViT-B/16:OPENAI"):
        assert torch.equal(load_clip(spelling).model.visual(pixels), quick)
        found = published(spelling)
        assert found is not None and found[:3] == ("ViT-B-16", spelling.partition(":")[2] or "openai", repo)
    result = run_cli("prune", "ViT-B/16", "--sparsity", "0.5", "--out", tmp_path / "subnet")
    assert result.exit_code == 0 and "ViT-B-16:openai is built with QuickGELU" in result.stderr
    base = json.loads((tmp_path / "subnet" / "manifest.json").read_text())["base"]
    assert (base["source"], base["activation"], base["model_cfg"]["quick_gelu"]) == ("ViT-B/16", "quick_gelu", True)


def test_a_file_of_openai_under_a_plain_name_is_built_as_openai_built_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(source, "open_clip_config", lambda name: config(VIT))
    marks = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(8), "vocab_size": torch.tensor(49408)}
    torch.save({**random_state(config(VIT)), **marks}, tmp_path / "vit.pt")
    tower = read_tower(f"ViT-B-16:{tmp_path / 'vit.pt'}")
    assert tower is not None and tower.activation == "quick_gelu"
    assert tower.note is not None and "OpenAI's own file, so built with QuickGELU" in tower.note


# Spellings.


def test_every_spelling_of_a_source_is_one_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for given, plain in {
        "RN50": "RN50",
        "RN50x64:openai": "RN50x64:openai",
        "ViT-B/32": "ViT-B-32",
        "ViT-L/14@336px": "ViT-L-14-336",
        "ViT-B/32-quickgelu:laion400m_e31": "ViT-B-32-quickgelu:laion400m_e31",
        "ViT-B/32:weights/own.pt": "ViT-B-32:weights/own.pt",
        "hf-hub:org/name@v1": "hf://org/name@v1",
        "hf-hub:/org/name": "hf://org/name",
        "local-dir:/there/vit": "/there/vit",
        "local-dir:RN50": "./RN50",
        "models/ViT-B/32": "models/ViT-B/32",
        "vit.pt": "vit.pt",
    }.items():
        assert plain_source(given) == plain
    (tmp_path / "ViT-B").mkdir()
    (tmp_path / "ViT-B" / "32").mkdir()
    assert plain_source("ViT-B/32") == "ViT-B/32"  # what lies on the disk comes first


def test_commands_take_the_spellings_of_open_clip(
    monkeypatch: pytest.MonkeyPatch, run_cli: Any, tmp_path: Path
) -> None:
    """A bundle made from such a source finds its text tower again."""
    from PIL import Image

    state = random_state(config(RESNET))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    repo = folder(hub_repo(tmp_path / "cache", "org/name"), config(RESNET), state)
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "RN50", config(RESNET), state)
    Image.new("RGB", (64, 64)).save("photo.png")
    assert repo.is_dir()
    for number, given in enumerate(("local-dir:RN50", "hf-hub:org/name")):
        for command in (
            ("prune", given, "--sparsity", "0.5", "--out", f"b{number}"),
            ("segment", f"local-dir:b{number}", "photo.png", "--words", "sky,tree", "--out", f"o{number}"),
            ("analyze", given, "--json"),
            ("inspect", f"local-dir:b{number}"),
        ):
            result = run_cli(*command)
            assert result.exit_code == 0, (command, result.stderr)


# Towers from which another program took channels or blocks.


def without(state: dict[str, Tensor], rows: int, *parts: str) -> dict[str, Tensor]:
    """Hidden units above `rows` removed from the MLPs whose names hold one of `parts`."""
    narrow = dict(state)
    for name in state:
        if name.startswith("visual.") and any(part in name for part in parts):
            if "c_fc" in name:
                narrow[name] = state[name][:rows].clone()
            elif name.endswith("c_proj.weight"):
                narrow[name] = state[name][:, :rows].clone()
    return narrow


def test_a_smaller_tower_that_open_clip_can_build_is_built_and_told(tmp_path: Path) -> None:
    vit = config({**VIT, "layers": 2})
    state = random_state(vit)
    fewer = {name: tensor for name, tensor in state.items() if "visual.transformer.resblocks.1." not in name}
    narrow_resnet = random_state(config({**RESNET, "width": 4}))
    for name, model_cfg, given, told in (
        ("mlp", vit, without(state, 50, "mlp"), "mlp_ratio 1.5625, not the usual"),
        ("odd", vit, without(state, 49, "mlp"), "mlp_ratio 1.53125, not the usual"),
        ("blocks", vit, fewer, "layers 1, not 2"),
        ("resnet", config(RESNET), narrow_resnet, "width 4, not 8"),
    ):
        path = str(folder(tmp_path / name, model_cfg, given))
        tower, whole = read_tower(path), load_clip(path)
        assert tower is not None and tower.note is not None and tower.note.endswith(f"so built with {told}")
        assert whole.note == tower.note and whole.model_cfg == tower.model_cfg
        assert torch.equal(whole.model.state_dict()[list(given)[-1]], given[list(given)[-1]])


@pytest.mark.parametrize("layout", ["folder", "bare", "import", "import with a base"])
def test_other_smaller_towers_are_refused_with_a_layer_and_both_shapes(
    layout: str, run_cli: Any, tmp_path: Path
) -> None:
    state = random_state(config(RESNET))
    first = "visual.layer1.0."
    for name in ("conv1.weight", "conv2.weight", *(f"bn{n}.{leaf}" for n in (1, 2) for leaf in BATCHNORM)):
        state[first + name] = state[first + name][:4].clone()
    for name in ("conv2.weight", "conv3.weight"):
        state[first + name] = state[first + name][:, :4].clone()
    full = folder(tmp_path / "full", config(RESNET), random_state(config(RESNET)))
    path = folder(tmp_path / "narrow", config(RESNET), state)
    file = path / "open_clip_pytorch_model.bin"
    command: dict[str, tuple[Any, ...]] = {
        "folder": ("prune", path, "--sparsity", "0.5"),
        "bare": ("prune", file, "--sparsity", "0.5"),
        "import": ("import", file),
        "import with a base": ("import", file, "--base", full),
    }
    result = run_cli(*command[layout], "--out", tmp_path / "subnet")
    assert result.exit_code == 1 and "Traceback" not in result.stderr
    assert "layer1.0.conv1.weight' is 4 x 8 x 1 x 1 in" in result.stderr and "8 x 8 x 1 x 1" in result.stderr
    assert "took channels out of it" in result.stderr and "--pattern channel" in result.stderr


def test_a_vit_of_openai_is_found_from_its_tensors_and_another_one_is_not(tmp_path: Path) -> None:
    vit = config({"layers": 2, "width": 64, "patch_size": 16, "image_size": 48}, quick_gelu=True)
    state = random_state(vit)
    marks = {"input_resolution": torch.tensor(48), "context_length": torch.tensor(8), "vocab_size": torch.tensor(49408)}
    torch.save({**state, **marks}, tmp_path / "vit.pt")
    loaded, pixels = load_clip(str(tmp_path / "vit.pt")), torch.randn(1, 3, 48, 48)
    theirs: Any = build_clip(vit)
    theirs.load_state_dict(state)
    assert torch.equal(loaded.model.visual(pixels), theirs.visual(pixels)) and loaded.activation == "quick_gelu"
    assert loaded.preprocess.size == 48
    torch.save(state, tmp_path / "vit.pt")
    example = "ViT-B-16:weights.safetensors, or ViT-B-16-quickgelu:weights.safetensors"
    with pytest.raises(SourceError, match=f"those of a ViT do not say its heads .* {example}"):
        load_clip(str(tmp_path / "vit.pt"))
    del state["visual.proj"]
    torch.save(state, tmp_path / "vit.pt")
    with pytest.raises(SourceError, match=r"no 'visual.proj'; .* ViT-B-16:weights"):
        load_clip(str(tmp_path / "vit.pt"))
    torch.save({"visual.trunk.stem.0.weight": torch.ones(1)}, tmp_path / "timm.pt")
    with pytest.raises(SourceError, match=r"a tower of timm .* convnext_base:FILE"):
        load_clip(str(tmp_path / "timm.pt"))


def test_masks_and_several_clips_in_a_file_are_told_instead_of_what_they_lack(tmp_path: Path) -> None:
    """Torch's pruning, masks alone, and a student beside its teacher."""
    state = random_state(config(RESNET))
    layer = "visual.layer1.0.conv1.weight"
    mask = (torch.arange(state[layer].numel()) % 2).reshape(state[layer].shape)
    weight = {name: tensor for name, tensor in state.items() if name != layer}
    two = {f"{who}.{name}": tensor.clone() for name, tensor in state.items() for who in ("student", "teacher")}
    for given, told in (
        ({**weight, f"{layer}_orig": state[layer], f"{layer}_mask": mask}, r"\(torch-prune\); .*`opentrans import .* "),
        ({**state, f"{layer}_mask": mask}, r"\(torch-prune\); .*`opentrans import .* --base CLIP`"),
        ({layer: mask}, r"\(masks\); .*`opentrans import .* --base CLIP`"),
        (two, r"several towers .*, below 'student.', 'teacher.'; save"),
    ):
        torch.save(given, tmp_path / "clip.pt")
        for load in (load_clip, read_tower):
            with pytest.raises(SourceError, match=told):
                load(str(tmp_path / "clip.pt"))
    torch.save({"state_dict": state, "masks": {layer: mask}}, tmp_path / "clip.pt")
    assert "the masks beside the weights are left; `opentrans import`" in str(load_clip(str(tmp_path / "clip.pt")).note)


def test_a_bundle_of_a_vit_that_was_built_with_the_wrong_activation_is_told(tmp_path: Path) -> None:
    heard: list[str] = []
    reporter = Silent()
    reporter.say = heard.append  # type: ignore[method-assign]
    path = str(folder(tmp_path, config(VIT, quick_gelu=True), random_state(config(VIT))))
    base = base_record(load_clip(path))
    load_text_clip(base, None, reporter)
    assert heard == [f"text tower: {path}"]
    load_text_clip(replace(base, model_cfg=config(VIT), activation="gelu"), None, reporter)
    assert heard[-1].startswith(f"{path} has quick_gelu where this bundle has gelu")
