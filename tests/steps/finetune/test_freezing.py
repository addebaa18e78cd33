"""What is frozen follows from the alphas, by one ranking, and a choice can be told, applied and made again."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.clip.architecture import meta_visual
from opentrans_cli.clip.layers import candidates, convolutions, layer_weight, locate
from opentrans_cli.clip.prefix import block_of, blocks, modules_until
from opentrans_cli.errors import OptionError, SourceError
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.spectral.selection import Selection, selection_in_words
from opentrans_cli.steps.analyze.analyze import analyze
from opentrans_cli.steps.finetune import freezing as freeze_choice
from opentrans_cli.steps.finetune.freezing import (
    FreezeChoice,
    check_choice,
    choose_frozen,
    norm_behind,
)
from opentrans_cli.steps.finetune.options import FREEZE_OPTIONS, FinetuneOptions
from opentrans_cli.steps.segmentors.built import BuiltSegmentor, build_segmentor
from opentrans_cli.steps.sources import Tower, bundle_tower, load_tower
from opentrans_cli.training.freezing import state_hash

SMALL = {"queries": 4, "encoder_layers": 1, "decoder_layers": 2, "width": 32}
RN50 = {
    "embed_dim": 1024,
    "vision_cfg": {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64, "patch_size": None},
    "text_cfg": {"context_length": 77, "vocab_size": 100, "width": 64, "heads": 1, "layers": 1},
}


class Talk:
    """A reporter that remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.bar = freeze_choice.SILENT.bar

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def analyzed(tiny_bundle, tmp_path_factory) -> Path:
    """The tiny bundle with an alpha report."""
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("analyzed") / "bundle"))
    analyze(str(bundle))
    return bundle


def segmentor(source: Path | str, framework="deeplabv3"):
    tower = load_tower("tiny", Talk()) if source == "tiny" else bundle_tower(open_bundle(source))
    return build_segmentor(tower, framework, options=None if framework == "deeplabv3" else SMALL)


def choose(source, framework="deeplabv3", *, measured_now=False, talk=None, **options) -> FreezeChoice:
    given = FinetuneOptions(**options)
    return choose_frozen(segmentor(source, framework), given, measured_now=measured_now, reporter=talk or Talk())


def in_trunk(names):
    return tuple(f"backbone.{name}" for name in names)


@pytest.mark.parametrize("mode", ["heavy", "light", "random", "none"])
@pytest.mark.parametrize("ratio", [None, 0.3])
def test_the_frozen_layers_are_those_that_analyze_lists(analyzed, tmp_path, mode, ratio):
    rule = {"freeze": mode, "freeze_ratio": ratio, "seed": 5}
    listed = analyze(str(shutil.copytree(analyzed, tmp_path / "copy")), **rule).frozen
    for measured_now in (False, True):
        choice = choose(analyzed, measured_now=measured_now, **rule)
        assert choice.layers == in_trunk(listed)
        assert choice.prefix_end is None


@pytest.mark.parametrize(
    "rule", [{"freeze_ratio": 0.1}, {"freeze_threshold": 3.0}, {"freeze": "light"}, {"freeze_top": 2}]
)
def test_what_analyze_chose_is_frozen_as_long_as_nothing_else_is_given(tiny_bundle, tmp_path, rule):
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    listed = analyze(str(bundle), **rule).frozen
    talk = Talk()
    choice = choose(bundle, talk=talk)
    assert (choice.layers, choice.by, talk.said) == (in_trunk(listed), "analyze", [])
    assert choice.origin == f"as analyze chose: {selection_in_words(open_bundle(bundle).alpha()[1]['selection'])}"
    other = choose(bundle, freeze_ratio=0.4)
    assert (len(other.layers), other.by) == (math.floor(0.4 * len(choice.alphas)), "options")
    instead = f"instead of the {len(listed)} layers that analyze chose"
    assert other.origin.startswith(f"as given by --freeze-ratio: heavy, ratio 0.4, {instead}; trunk: alpha report")


def test_every_freeze_option_that_is_given_overrules_analyze(analyzed):
    given = {
        "freeze": "heavy",
        "freeze_ratio": 0.0,
        "freeze_scope": "trunk",
        "freeze_prefix": True,
        "prefix_end": "stem",
        "warmup_steps": 1,
        "estimator": "xmin_peak",
    }
    assert given.keys() == set(FREEZE_OPTIONS)
    assert choose(analyzed).by == "analyze"
    for name, value in given.items():
        choice = choose(analyzed, **{name: value})
        assert choice.by == "options" and f"--{name.replace('_', '-')}: " in choice.origin


def test_a_list_may_freeze_what_no_rule_would_and_names_of_other_parts_are_told(tiny_bundle, tmp_path):
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    (tmp_path / "list").write_text("conv2\nattnpool.c_proj\n")
    analyze(str(bundle), include=("attnpool.*",), freeze_list=tmp_path / "list")
    talk = Talk()
    choice = choose(bundle, talk=talk)
    assert (choice.layers, choice.origin) == (("backbone.conv2",), "as analyze chose: a list")
    assert talk.said == ["chosen by analyze, but not trained in deeplabv3 anyway: attnpool.c_proj"]


def test_without_a_report_layers_are_chosen_by_the_defaults_and_measured(analyzed):
    talk = Talk()
    moved = segmentor(analyzed)
    layer_weight(moved.module, "backbone.layer1.0.conv2").mul_(50)
    reported = choose_frozen(moved, FinetuneOptions(), measured_now=False)
    measured = choose_frozen(moved, FinetuneOptions(), measured_now=True, reporter=talk)
    assert reported.alphas.keys() == measured.alphas.keys()
    odd = [name for name in reported.alphas if reported.alphas[name] != measured.alphas[name]]
    assert odd == ["backbone.layer1.0.conv2"]
    assert (measured.by, measured.origin) == ("defaults", "by default: heavy, median; trunk: measured, by xmin_peak")
    assert talk.said == ["no alpha report by xmin_peak of the trunk as it is now: analyzing it first"]


def test_a_report_by_another_estimator_is_not_ranked_by(analyzed):
    talk = Talk()
    assert choose(analyzed, estimator="xmin_mid", talk=talk).origin.endswith("; trunk: measured, by xmin_mid")
    assert talk.said == ["no alpha report by xmin_mid of the trunk as it is now: analyzing it first"]


def test_the_modules_are_the_layers_and_the_batchnorms_behind_them(analyzed):
    choice = choose(analyzed)
    norms = {norm_behind(segmentor(analyzed).module, layer) for layer in choice.layers}
    assert None not in norms
    assert set(choice.modules) == {*choice.layers, *norms}
    assert list(choice.modules) == sorted(choice.modules)


@pytest.mark.parametrize("framework", ["deeplabv3", "han"])
def test_with_the_model_as_scope_the_head_takes_part_in_one_ranking(analyzed, framework):
    talk = Talk()
    choice = choose(analyzed, framework, freeze_scope="model", freeze_ratio=0.5, talk=talk)
    built = segmentor(analyzed, framework)
    head = [layer.name for layer in candidates(built.module) if not layer.name.startswith("backbone.")]
    assert [name for name in choice.alphas if not name.startswith("backbone.")] == head
    assert [name for name in choice.alphas if name.startswith("backbone.")] == list(choose(analyzed).alphas)
    ranked = Selection("heavy", ratio=0.5).choose(choice.alphas)
    assert {name for name in ranked if "cross_attn." not in name or "out_proj" in name} <= set(choice.layers)
    assert set(choice.layers) <= set(ranked)
    assert choice.origin.endswith("; trunk: alpha report of the bundle, head: measured, by xmin_peak")
    assert "the head is fresh" in talk.said[1] and "--warmup-steps" in talk.said[1]


def test_a_head_that_was_or_will_be_trained_first_is_not_called_fresh(analyzed, tiny_segmentor):
    talk = Talk()
    choose(analyzed, freeze_scope="model", warmup_steps=2, talk=talk)
    built = segmentor("tiny")
    built = type(built)(built.framework, built.options, built.module, bundle_tower(open_bundle(tiny_segmentor)))
    choose_frozen(built, FinetuneOptions(freeze_scope="model"), measured_now=False, reporter=talk)
    assert not any("fresh" in line for line in talk.said)


def test_fixed_parts_and_layers_without_an_alpha_are_never_chosen(analyzed):
    for mode in ("heavy", "light", "random"):
        choice = choose(analyzed, freeze_scope="model", freeze=mode, freeze_ratio=1.0)
        assert not any("attnpool" in name for name in choice.alphas)
        assert choice.alphas["embedding"] == math.inf  # zeros in the beginning
        assert set(choice.layers) == {name for name, alpha in choice.alphas.items() if alpha < math.inf}


def test_heads_freeze_the_batchnorm_that_follows_in_a_sequence_and_no_other_norm():
    module = segmentor("tiny").module
    assert norm_behind(module, "decoder.0") == "decoder.1"
    assert norm_behind(module, "decoder.3") == "decoder.4"
    assert norm_behind(module, "pyramid.branches.2.0") == "pyramid.branches.2.1"
    assert norm_behind(module, "pyramid.image_level.0") is None
    assert norm_behind(module, "embedding") is None
    assert norm_behind(module, "backbone.layer2.0.downsample.0") == "backbone.layer2.0.downsample.1"
    han = segmentor("tiny", "han").module
    norms = [norm_behind(han, layer.name) for layer in candidates(han) if not layer.name.startswith("backbone.")]
    assert norms and not any(norms)
    assert any(isinstance(part, nn.GroupNorm) for part in han.modules())


def test_packed_attention_is_frozen_whole_or_not_at_all(monkeypatch):
    built = segmentor("tiny", "han")
    packed = [layer.name for layer in candidates(built.module) if layer.name.endswith("cross_attn.q_proj")]
    whole, partly = (name.removesuffix("q_proj") for name in packed)
    names = [layer.name for layer in candidates(built.module)]
    heavy = {*(f"{whole}{part}_proj" for part in "qkv"), f"{partly}q_proj", f"{partly}v_proj", "backbone.conv1"}
    alphas = {name: 2.0 if name in heavy else 5.0 for name in names}
    fixed(monkeypatch, alphas)
    talk = Talk()
    choice = choose_frozen(built, FinetuneOptions(freeze_scope="model"), measured_now=True, reporter=talk)
    assert set(choice.layers) == {*(f"{whole}{part}_proj" for part in "qkv"), "backbone.conv1"}
    assert any("1 projections chosen in part train" in line for line in talk.said)
    choice.apply(built.module)
    assert not built.module.get_parameter(f"{whole}in_proj_weight").requires_grad
    assert built.module.get_parameter(f"{partly}in_proj_weight").requires_grad


def fixed(monkeypatch, alphas) -> None:
    """Alphas by name inside the segmentor instead of measured ones."""

    def measure(names, *_, **__):
        return [SimpleNamespace(name=name, alpha=alphas[name]) for name in names]

    monkeypatch.setattr(freeze_choice, "measure", measure)


def prefix_of(monkeypatch, heavy, built=None, **options) -> FreezeChoice:
    """The choice where the layers `heavy` of the trunk, fewer than half, have the small alphas."""
    built = built or segmentor("tiny")
    alphas = {name: 2.0 if name in in_trunk(heavy) else 5.0 for name in in_trunk(convolutions(built.tower.visual))}
    fixed(monkeypatch, alphas)
    return choose_frozen(built, FinetuneOptions(freeze_prefix=True, **options), measured_now=True)


STEM = ("conv1", "conv2", "conv3")


def test_the_prefix_ends_with_the_last_block_up_to_which_most_layers_are_chosen(monkeypatch):
    assert prefix_of(monkeypatch, STEM[:2]).prefix_end == "stem"  # 2 of 3, then 2 of 7
    assert prefix_of(monkeypatch, STEM).prefix_end == "stem"  # then 3 of 7
    assert prefix_of(monkeypatch, (*STEM, "layer1.0.conv1")).prefix_end == "layer1.0"  # 4 of 7, then 4 of 11
    later = (*STEM, "layer1.0.conv1", "layer2.0.conv1", "layer2.0.conv2")
    assert prefix_of(monkeypatch, later).prefix_end == "layer2.0"  # 6 of 11, then 6 of 15
    low = ("conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.0.conv3")
    assert prefix_of(monkeypatch, low).prefix_end == "layer1.0"  # 1 of 3, then 4 of 7


def test_everything_inside_the_prefix_is_frozen_and_the_chosen_layers_above_stay_frozen(monkeypatch):
    built = segmentor("tiny")
    choice = prefix_of(monkeypatch, (*STEM, "layer1.0.conv1", "layer4.0.conv2"), built)
    visual = built.tower.visual
    inside = [name for name in convolutions(visual) if block_of(name) in ("stem", "layer1.0")]
    assert choice.layers == (*in_trunk(inside), "backbone.layer4.0.conv2")
    assert set(choice.modules) == {
        *in_trunk(modules_until(visual, "layer1.0")),
        "backbone.layer4.0.conv2",
        "backbone.layer4.0.bn2",
    }


def test_without_most_of_the_lowest_layers_there_is_no_prefix_and_it_is_said(monkeypatch):
    choice = prefix_of(monkeypatch, ("conv2", "layer3.0.conv2"))
    assert choice.prefix_end is None
    assert choice.layers == ("backbone.conv2", "backbone.layer3.0.conv2")
    talk = Talk()
    choose_frozen(segmentor("tiny"), FinetuneOptions(freeze_prefix=True), measured_now=True, reporter=talk)
    assert talk.said[-1].startswith("no prefix is frozen: most of the lowest layers are to be trained")


def rn50():
    """A segmentor around RN50's tower, shapes only."""
    visual = meta_visual(RN50)
    with torch.device("meta"):
        framework = FRAMEWORKS.load("deeplabv3")
        module = framework.build(visual, None)
    return BuiltSegmentor(framework, framework.options(), module, Tower(None, {}, {}, built=visual))  # type: ignore[arg-type]


def test_the_papers_list_of_rn50_closes_a_prefix_that_ends_in_layer4(monkeypatch, reference):
    """27 of 55 are frozen there; the lower blocks are so much heavier that 26 of the lowest 49 are among them."""
    rows = json.loads((reference / "clip_rn50_conv_layers.json").read_text())["layers"]
    listed = tuple(row["name"] for row in rows if row["frozen_in_official_commented_list"])
    choice = prefix_of(monkeypatch, listed, rn50())
    assert len(listed) == 27
    assert choice.prefix_end == "layer4.0"
    assert len(choice.layers) == 49 + 1
    assert choice.layers[-1] == "backbone.layer4.2.conv2"


@pytest.mark.parametrize("mode", ["none", "heavy"])
def test_a_named_end_is_taken_and_needs_no_other_switch(analyzed, mode):
    choice = choose(analyzed, freeze=mode, prefix_end="layer2.0")
    visual = segmentor(analyzed).tower.visual
    inside = in_trunk(name for name in convolutions(visual) if block_of(name) in blocks(visual)[:3])
    assert choice.prefix_end == "layer2.0"
    assert set(choice.layers) == {*inside, *(choose(analyzed, freeze=mode).layers)}
    assert choice.alphas.keys() == choose(analyzed, freeze=mode).alphas.keys()


def test_an_unknown_end_a_prefix_nothing_ends_and_a_tower_without_blocks_are_refused():
    built = segmentor("tiny")
    with pytest.raises(OptionError, match=r"no such block: --prefix-end layer5; choose one of stem, layer1\.0, layer2"):
        check_choice(built, FinetuneOptions(prefix_end="layer5"))
    with pytest.raises(
        OptionError, match="nothing ends the prefix: --freeze none; name its last block by --prefix-end"
    ):
        check_choice(built, FinetuneOptions(freeze="none", freeze_prefix=True))
    other = BuiltSegmentor(built.framework, None, built.module, Tower(None, {}, {}, built=nn.Sequential()))  # type: ignore[arg-type]
    for options in (FinetuneOptions(freeze_prefix=True), FinetuneOptions(prefix_end="stem")):
        with pytest.raises(SourceError, match="no ResNet stages"):
            check_choice(other, options)


def test_a_framework_that_fixes_its_trunk_fixes_all_of_it_whatever_is_asked(analyzed):
    talk = Talk()
    choice = choose(analyzed, "fcclip", talk=talk)
    assert (choice.by, choice.origin) == ("framework", "the framework keeps the whole tower frozen; nothing was ranked")
    built = segmentor(analyzed, "fcclip")
    trunk = [name for name, _ in built.module.named_parameters() if name.startswith("backbone.")]
    choice.apply(built.module)
    assert {name.rpartition(".")[0] for name in trunk} <= set(choice.modules)
    assert choice.layers == in_trunk(layer.name for layer in candidates(built.tower.visual))
    assert choice.prefix_end is None and choice.alphas == {}
    assert talk.said == ["fcclip keeps the whole tower frozen, whatever --freeze says"]


def test_a_fixed_trunk_is_a_prefix_of_its_own_and_the_head_is_ranked_alone(analyzed):
    choice = choose(analyzed, "fcclip", freeze_scope="model", freeze_prefix=True, freeze="light")
    assert choice.prefix_end == "layer4.0"
    assert choice.alphas and not any(name.startswith("backbone.") for name in choice.alphas)
    assert any(not name.startswith("backbone.") for name in choice.layers)
    assert choice.origin.endswith("; head: measured, by xmin_peak")
    assert choose(analyzed, "fcclip", freeze="none", prefix_end="layer2.0").prefix_end == "layer2.0"


@pytest.mark.parametrize("framework", ["deeplabv3", "han", "fcclip"])
def test_a_choice_survives_json_and_is_applied_to_the_bit(analyzed, framework):
    options = FinetuneOptions(freeze_scope="model", prefix_end="layer1.0", freeze_ratio=0.7)
    built = segmentor(analyzed, framework)
    choice = choose_frozen(built, options, measured_now=False)
    assert FreezeChoice.from_json(json.loads(json.dumps(choice.to_json(), allow_nan=False))) == choice
    assert choice.apply(built.module) == choice.modules
    proof = state_hash(built.module, choice.modules)
    optimizer = torch.optim.AdamW([p for p in built.module.parameters() if p.requires_grad], lr=0.1, weight_decay=0.5)
    built.module.train()
    before = {name: value.clone() for name, value in built.module.state_dict().items()}
    for parameter in built.module.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert state_hash(built.module, choice.modules) == proof
    for layer in choice.layers:
        assert not built.module.get_parameter(locate(built.module, layer)[0]).requires_grad
    moved = [name for name, value in built.module.state_dict().items() if not torch.equal(value, before[name])]
    assert moved and not {name.rpartition(".")[0] for name in moved} & set(choice.modules)


def test_choosing_changes_nothing(analyzed):
    built = segmentor(analyzed)
    before = {name: value.clone() for name, value in built.module.state_dict().items()}
    choose_frozen(built, FinetuneOptions(freeze_scope="model", prefix_end="stem"), measured_now=True)
    assert all(torch.equal(value, before[name]) for name, value in built.module.state_dict().items())
    assert all(p.requires_grad for name, p in built.module.named_parameters() if "attnpool" not in name)
