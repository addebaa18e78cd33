"""Every kind of source gives its weights one layer at a time, under the names a bundle has."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from opentrans_cli.bundle.layout import WEIGHTS
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.clip import architecture
from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.layers import convolutions
from opentrans_cli.clip.source import load_clip
from opentrans_cli.errors import OptionError, SourceError
from opentrans_cli.reporter import Reporter
from opentrans_cli.steps.analyze.source import LeftOut, SpectrumSource, open_spectrum_source
from opentrans_cli.steps.prune.prune import prune

RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None}
VIT = {"image_size": 16, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16}
TEXT = {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1}


@pytest.fixture
def file(tmp_path: Path) -> Callable[[dict[str, Tensor]], str]:
    def write(state: dict[str, Tensor], name: str = "file.safetensors") -> str:
        save_file(state, tmp_path / name)
        return str(tmp_path / name)

    return write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, object]], Path]:
    """A CLIP with random weights in open_clip's layout."""

    def make(vision: dict[str, object]) -> Path:
        target = tmp_path_factory.mktemp("clip")
        config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": TEXT}
        torch.manual_seed(0)
        state = {name: tensor.contiguous() for name, tensor in build_clip(config).state_dict().items()}
        save_file(state, target / "open_clip_model.safetensors")
        (target / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
        return target

    return make


def reasons(source: SpectrumSource) -> dict[str, tuple[str, ...]]:
    return {group.reason: group.names for group in source.left_out(source.chosen()) if group.names}


def values(source: SpectrumSource) -> dict[str, Tensor]:
    return {name: torch.from_numpy(source.read(name).copy()) for name in source.chosen()}


# Towers.


def test_a_resnet_has_all_its_convolutions_the_first_included_in_module_order():
    visual = load_clip("tiny").model.visual
    source = open_spectrum_source("tiny")
    assert source.chosen() == convolutions(visual)
    assert reasons(source) == {"output head": tuple(f"attnpool.{part}_proj" for part in "kqvc")}
    assert set(source.chosen(include=["attnpool.*"])) - set(source.chosen()) == set(reasons(source)["output head"])
    for layer in source.layers:
        weight = torch.from_numpy(source.read(layer.name))
        assert tuple(weight.shape) == layer.shape and torch.equal(weight, visual.get_submodule(layer.name).weight)
    assert source.bundle is None and source.model_cfg == load_clip("tiny").model_cfg
    assert {layer.kind for layer in source.layers} == {"conv", "linear"}


def test_a_bundle_gives_zeros_where_it_is_pruned(tiny_bundle):
    source = open_spectrum_source(str(tiny_bundle))
    assert source.bundle is not None and source.bundle.path == tiny_bundle
    assert source.chosen() == convolutions(load_clip("tiny").model.visual)
    for layer, mask in open_bundle(tiny_bundle).masks().items():
        assert np.array_equal(source.read(layer) != 0, mask)


def test_a_vit_has_its_linear_layers_and_the_parts_of_its_attention(folder):
    source = open_spectrum_source(str(folder(VIT)))
    assert source.chosen() == tuple(layer.name for layer in source.layers)
    assert [layer.kind for layer in source.layers] == ["conv"] + 2 * (3 * ["attention"] + 3 * ["linear"])


@pytest.mark.parametrize("vision", [RESNET, VIT], ids=["resnet", "vit"])
def test_a_file_of_a_clip_reads_as_its_folder_does(folder, vision, monkeypatch):
    """The same layers, order, kinds, values and choices, so that two reports compare; and no model is built."""
    root = folder(vision)
    built = open_spectrum_source(str(root))
    expected = values(built)
    monkeypatch.setattr(architecture, "build_clip", None)
    source = open_spectrum_source(str(root / "open_clip_model.safetensors"))
    read = values(source)
    assert list(read) == list(expected) and all(torch.equal(read[name], expected[name]) for name in read)
    assert {layer.name: layer.kind for layer in built.layers}.items() <= {
        layer.name: layer.kind for layer in source.layers
    }.items()
    heads = [name for name in (layer.name for layer in built.layers) if name not in read]
    assert set(source.chosen(include=["attnpool.*"] if heads else [])) == {*read, *heads}


def test_a_bundle_of_masks_alone_takes_the_weights_of_its_base(folder, tmp_path):
    base = folder(RESNET)
    bundle = prune(str(base), sparsity=0.5, mask_only=True, out=tmp_path / "masks", device="cpu")
    assert not open_bundle(bundle.path).has(WEIGHTS)
    moved = tmp_path / "moved"
    shutil.move(base, moved)
    with pytest.raises(SourceError, match="--base"):
        open_spectrum_source(str(bundle.path))
    source = open_spectrum_source(str(bundle.path), base=str(moved))
    assert 0.4 < float(torch.cat([w.flatten() for w in values(source).values()]).eq(0).float().mean()) < 0.6


# Files.


def test_a_bare_file_gives_its_tensors_without_a_model(file):
    torch.manual_seed(0)
    state = {"stem.weight": torch.randn(4, 3, 3, 3).half(), "fc.weight": torch.randn(5, 4), "fc.bias": torch.randn(5)}
    source = open_spectrum_source(file(state))
    assert source.chosen() == ("fc", "stem")
    assert all(np.array_equal(source.read(name), state[f"{name}.weight"]) for name in source.chosen())
    assert source.read("stem").dtype == np.float32
    assert source.left_out(source.chosen()) == (LeftOut("1-dimensional", 1, ()),)
    assert (source.bundle, source.model_cfg) == (None, None)


def test_a_file_called_like_a_model_is_a_file_but_tiny_is_the_embedded_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("RN50", "tiny", "weights.anything"):
        save_file({"fc.weight": torch.ones(2, 2)}, tmp_path / name)
    assert [layer.name for layer in open_spectrum_source("RN50").layers] == ["fc"]
    assert [layer.name for layer in open_spectrum_source("weights.anything").layers] == ["fc"]
    assert open_spectrum_source("tiny").chosen()[0] == "conv1"


def test_a_file_without_a_layer_is_refused(file):
    with pytest.raises(SourceError, match=r"^no 2-D or 4-D weight in .*file\.safetensors; "):
        open_spectrum_source(file({"bias": torch.ones(3), "count": torch.ones(3, 3, dtype=torch.int64)}))


def test_weights_that_are_stored_in_another_form_are_named_and_told(file):
    packed = {"b.qweight": torch.ones(2, 8, dtype=torch.int32), "b.scales": torch.ones(1, 16)}
    told: list[str] = []

    class Listener(Reporter):
        def say(self, text: str) -> None:
            told.append(text)

    source = open_spectrum_source(file(packed | {"a.weight": torch.ones(2, 2)}), reporter=Listener())
    assert source.chosen() == ("a",)
    assert LeftOut("stored in a form that is not read here", 1, ("b.qweight",)) in source.left_out(source.chosen())
    assert "1 weights such as 'b.qweight'; save the model in floating point" in told[0]
    with pytest.raises(SourceError, match=r"1 are stored in a form that is not read here: 'b.qweight'; save"):
        open_spectrum_source(file(packed))


def test_an_unknown_layer_is_a_key_error(file, tiny_bundle):
    for source in (file({"a.weight": torch.ones(2, 2)}), "tiny"):
        with pytest.raises(KeyError):
            open_spectrum_source(source).read("b")


# Choosing.


def test_patterns_add_and_take_away_and_taking_away_wins(file):
    state = {"a.0.weight": torch.ones(2, 2), "a.1.weight": torch.ones(2, 2), "pos_embed": torch.ones(3, 2)}
    source = open_spectrum_source(file(state))
    assert source.chosen() == ("a.0", "a.1")
    assert source.chosen(include=["pos_embed"]) == ("a.0", "a.1", "pos_embed")
    assert source.chosen(include=["pos_embed"], exclude=["a.0", "p*"]) == ("a.1",)
    assert source.left_out(["a.1"]) == (LeftOut("excluded", 1, ("a.0",)), LeftOut("embedding table", 1, ("pos_embed",)))


def test_a_pattern_takes_tables_only_if_it_matches_nothing_else(file):
    source = open_spectrum_source(file({"a.weight": torch.ones(2, 2), "a.pos_embed": torch.ones(3, 2)}))
    assert source.chosen(include=["a*"]) == ("a",)
    assert source.chosen(include=["a.*"]) == source.chosen(include=["a.pos_embed"]) == ("a.pos_embed", "a")


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_named_with_its_option(option):
    with pytest.raises(OptionError, match=rf"^no layer is called so: --{option} layer9\.\*; "):
        open_spectrum_source("tiny").chosen(**{option: ["layer1.*", "layer9.*"]})


def test_nothing_left_to_analyse_is_refused_with_the_reasons(file):
    with pytest.raises(OptionError, match=r"^no layer is left to analyse: .*\(embedding table\); "):
        open_spectrum_source(file({"pos_embed": torch.ones(3, 2)})).chosen()
    with pytest.raises(OptionError, match=r"\(excluded, output head\)"):
        open_spectrum_source("tiny").chosen(exclude=["*"])


# Checkpoints that people have.


@pytest.mark.parametrize(
    ("name", "layers", "first"),
    [
        ("resnet20-12fca82f.th", 20, "module.conv1"),
        ("resnet56-4bfd9763.th", 56, "module.conv1"),
        ("resnet50v2_imagenet_trunk_fp16.safetensors", 43, "conv1"),
        ("squeezenet1_1_imagenet_fp16.safetensors", 26, "classifier.1"),
    ],
)
def test_trained_weights_of_other_models_are_read_under_the_names_of_the_file(shared, name, layers, first):
    source = open_spectrum_source(str(shared / "data" / "weights" / name))
    chosen = source.chosen()
    assert (len(chosen), chosen[0]) == (layers, first)
    assert all(np.isfinite(source.read(layer)).all() for layer in chosen)
