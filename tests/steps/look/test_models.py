"""models: every source that is listed is one that can be named, and what lies on this disk is found there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.clip.source import is_local, published
from opentrans_cli.errors import OptionError
from opentrans_cli.steps.look.models import models
from opentrans_cli.steps.sources import is_bundle

COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def desk(tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a bundle and a file of weights, and caches: weights of open_clip, and a pulled bundle."""
    held = tmp_path / "hub" / "models--timm--resnet50_clip.openai"
    (held / "snapshots" / COMMIT).mkdir(parents=True)
    (held / "refs").mkdir()
    (held / "refs" / "main").write_text(COMMIT)
    (held / "snapshots" / COMMIT / "open_clip_model.safetensors").write_bytes(b"x" * 1000)
    other = tmp_path / "hub" / "models--ada--clip" / "snapshots" / COMMIT
    other.mkdir(parents=True)
    config = {"model_cfg": {"vision_cfg": {"timm_model_name": "convnext_atto"}}}
    (other / "open_clip_config.json").write_text(json.dumps(config))
    pulled = tmp_path / "cache" / "hub" / "ada--subnet"
    shutil.copytree(tiny_bundle, pulled / COMMIT)
    (pulled / "revisions.json").write_text(json.dumps({"v1": COMMIT, "": COMMIT}))
    desk = tmp_path / "desk"
    shutil.copytree(tiny_bundle, desk / "tiny")
    (desk / "clip.pt").write_bytes(b"y" * 10)
    (desk / "notes.txt").touch()
    (desk / "gone.safetensors").symlink_to(desk / "nowhere")
    monkeypatch.chdir(desk)
    monkeypatch.setenv("OPENTRANS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return desk


def test_what_is_listed_can_be_named_and_what_lies_here_is_found(desk: Path) -> None:
    found = models()
    check_document(json.loads(json.dumps(found.to_json())), "models_report")
    local = {each.source: each for each in found.sources if each.cached}
    assert list(local) == [
        "tiny",
        "clip.pt",
        "./tiny",
        "hf://ada/subnet",
        "hf://ada/subnet@v1",
        "RN50:openai",
        "RN50-quickgelu:openai",
        "hf://ada/clip",
    ]
    assert is_bundle("./tiny") and is_local("clip.pt") and local["clip.pt"].bytes == 10
    assert (local["RN50:openai"].bytes, local["RN50:openai"].family) == (1000, "ResNet")
    assert local["hf://ada/clip"].family == "timm convnext"
    named = [each for each in found.sources if each.kind == "open_clip"]
    assert len(named) > 150 and all(published(each.source) is not None and each.family for each in named)
    families = {family.name: family for family in found.families}
    assert "channel" in families["ResNet"].patterns and "channel" not in families["timm convnext"].patterns
    assert sum(family.sources for family in found.families) == sum(each.family is not None for each in found.sources)


def test_a_word_filters_by_name_and_family_and_a_slip_is_answered(desk: Path) -> None:
    assert {each.family for each in models("RESNET").sources} == {"ResNet"}
    assert [each.source for each in models("rn50", cached=True).sources] == ["RN50:openai", "RN50-quickgelu:openai"]
    with pytest.raises(OptionError, match=r"no source has this in its name: 'RN50x46'; .*did you mean RN50x4\?"):
        models("RN50x46")
