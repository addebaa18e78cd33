"""transfer --to open-clip: stock open_clip loads the folder and gives the subnet's embeddings, narrow or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor, nn

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import BundleContents, open_bundle, write_bundle
from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.layers import arrays, layer_weights, prunable_layers, split_packed
from opentrans_cli.clip.source import LoadedClip, load_clip
from opentrans_cli.errors import OpentransError, OutputError, SourceError, TransferError
from opentrans_cli.files.tensorfile import write_tensors
from opentrans_cli.sparsity.masking import apply_masks
from opentrans_cli.sparsity.patterns.base import pattern_for
from opentrans_cli.steps.sources import base_record, bundle_tower
from opentrans_cli.steps.step_record import step_record
from opentrans_cli.steps.transfer.open_clip import export_open_clip

Content = Callable[[Path], dict[str, bytes]]

VIT = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1},
    "quick_gelu": True,
}
PREPROCESS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bilinear", "resize_mode": "squash"}


def pruned(source: str, pattern: str, out: Path, sparsity: float = 0.6) -> Path:
    """A bundle of `source`, its channels or single weights removed by magnitude."""
    clip = load_clip(source)
    visual = clip.model.visual
    chosen = pattern_for(pattern, clip.model_cfg)
    weights = layer_weights(visual, chosen.layers(prunable_layers(visual)))
    masks = chosen.masks({layer: weight.abs().numpy() for layer, weight in weights.items()}, sparsity)
    base = base_record(clip)
    apply_masks(visual, masks)
    step = step_record("prune", {"pattern": pattern}, seed=0)
    contents = BundleContents(base, pattern, sparsity, masks, arrays(split_packed(visual.state_dict())), (step,))
    return write_bundle(out, contents).path


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random ViT CLIP as an open_clip folder, with preprocessing of its own."""
    folder = tmp_path_factory.mktemp("vit") / "clip"
    folder.mkdir()
    torch.manual_seed(0)
    write_tensors(folder / "open_clip_model.safetensors", arrays(build_clip(VIT).state_dict()))
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": VIT, "preprocess_cfg": PREPROCESS}))
    return str(folder)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded CLIP without some of its channels; read only."""
    return pruned("tiny", "channel", tmp_path_factory.mktemp("narrow") / "bundle")


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded CLIP without some of its single weights; read only."""
    return pruned("tiny", "unstructured", tmp_path_factory.mktemp("single") / "bundle")


def stock(folder: Path) -> Any:
    return open_clip.create_model(f"local-dir:{folder}", require_pretrained=True).eval()


def embeddings(visual: nn.Module, size: int) -> Tensor:
    with torch.inference_mode():
        return visual(torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3)))


def check_text(model: Any, clip: LoadedClip) -> None:
    tokens = torch.randint(1, 32, (2, model.context_length), generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        assert torch.equal(model.encode_text(tokens), clip.model.encode_text(tokens))
    assert torch.equal(model.logit_scale, clip.model.logit_scale)


def test_stock_open_clip_gives_the_subnet_s_embeddings_bit_for_bit(single: Path, tmp_path: Path) -> None:
    result = export_open_clip(single, out=tmp_path / "clip")
    model = stock(tmp_path / "clip")
    assert torch.equal(embeddings(model.visual, 64), embeddings(bundle_tower(open_bundle(single)).visual, 64))
    check_text(model, load_clip("tiny"))
    assert result.compact is None


def test_a_compact_resnet_is_narrower_and_gives_the_same_embeddings(narrow: Path, tmp_path: Path) -> None:
    result = export_open_clip(narrow, out=tmp_path / "clip", compact=True)
    model, tower = stock(tmp_path / "clip"), bundle_tower(open_bundle(narrow))
    torch.testing.assert_close(embeddings(model.visual, 64), embeddings(tower.visual, 64), atol=1e-5, rtol=1e-5)
    check_text(model, load_clip("tiny"))
    assert result.compact is not None and result.compact["width"] == 10 and result.compact["difference"] < 1e-5
    count = sum(parameter.numel() for parameter in model.visual.parameters())
    dense = sum(parameter.numel() for parameter in tower.visual.parameters())
    assert (result.compact["parameters"], result.compact["dense_parameters"]) == (count, dense)
    assert count < 0.45 * dense
    assert model.visual.conv3.out_channels == 10


def test_a_vit_keeps_its_preprocessing_and_activation(vit: str, tmp_path: Path) -> None:
    bundle = pruned(vit, "channel", tmp_path / "bundle")
    tower = bundle_tower(open_bundle(bundle))
    for compact, hidden in ((False, 256), (True, 102)):
        export_open_clip(bundle, out=tmp_path / "clip", compact=compact, force=True)
        model = stock(tmp_path / "clip")
        torch.testing.assert_close(embeddings(model.visual, 32), embeddings(tower.visual, 32), atol=1e-5, rtol=1e-5)
        check_text(model, load_clip(vit))
        assert model.visual.transformer.resblocks[1].mlp.c_fc.out_features == hidden
        assert {key: model.visual.preprocess_cfg[key] for key in PREPROCESS} == PREPROCESS
        assert load_clip(str(tmp_path / "clip")).preprocess == load_clip(vit).preprocess


def test_the_folder_is_a_source_for_the_next_bundle(narrow: Path, tmp_path: Path) -> None:
    export_open_clip(narrow, out=tmp_path / "clip", compact=True)
    again = pruned(str(tmp_path / "clip"), "channel", tmp_path / "bundle", sparsity=0.5)
    result = export_open_clip(again, out=tmp_path / "smaller", compact=True)
    assert result.compact is not None and result.compact["width"] < 10
    assert stock(tmp_path / "smaller").visual.conv3.out_channels == result.compact["width"]


def test_the_receipt_accounts_for_every_tensor_as_it_was_written(narrow: Path, tmp_path: Path) -> None:
    result = export_open_clip(narrow, out=tmp_path / "clip", compact=True)
    receipt = json.loads((tmp_path / "clip" / "transfer.json").read_text())
    check_document(receipt, "transfer_receipt")
    assert receipt == result.to_json()
    written = stock(tmp_path / "clip").state_dict()
    bundle = open_bundle(narrow)
    assert [key["source"] for key in receipt["keys"]] == list(bundle_tower(bundle).visual.state_dict())
    for key in receipt["keys"]:
        assert key["shape"] == list(written[key["target"]].shape)
        if key["kept"] is not None:
            assert key["kept"] == written[key["target"]].numel()
    assert sum(key["kept"] or 0 for key in receipt["keys"]) == bundle.manifest.kept
    assert (receipt["bundle"], receipt["text_tower"], receipt["framework"]) == (bundle.digest, "tiny", "open-clip")


def test_packed_projections_count_the_weights_of_their_three_parts(vit: str, tmp_path: Path) -> None:
    bundle = pruned(vit, "unstructured", tmp_path / "bundle")
    keys = {key["source"]: key for key in export_open_clip(bundle, out=None).keys}
    assert sum(key["kept"] or 0 for key in keys.values()) == open_bundle(bundle).manifest.kept
    assert 0 < keys["transformer.resblocks.0.attn.in_proj_weight"]["kept"] < 3 * 64 * 64


def test_the_same_bundle_gives_the_same_bytes(narrow: Path, tmp_path: Path, content: Content) -> None:
    for name in ("one", "other"):
        export_open_clip(narrow, out=tmp_path / name, compact=True)
    files = content(tmp_path / "one")
    assert files == content(tmp_path / "other")
    assert sorted(files) == ["open_clip_config.json", "open_clip_model.safetensors", "transfer.json"]


def test_only_whole_channels_can_be_left_out(single: Path, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match=r"only whole channels.*pruned unstructured; prune with --pattern channel"):
        export_open_clip(single, out=tmp_path / "clip", compact=True)
    assert list(tmp_path.iterdir()) == []


def test_another_clip_s_text_tower_is_refused_before_anything_is_written(
    narrow: Path, vit: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match="not the CLIP this bundle was cut from"):
        export_open_clip(narrow, out=tmp_path / "clip", base=vit)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_needs_no_text_tower_and_gives_the_same_keys(narrow: Path, tmp_path: Path) -> None:
    dry = export_open_clip(narrow, out=None, compact=True, base=str(tmp_path / "gone"))
    assert dry.path is None and list(tmp_path.iterdir()) == []
    assert dry.keys == export_open_clip(narrow, out=tmp_path / "clip", compact=True).keys


def test_what_is_there_is_replaced_only_by_force_and_only_if_it_was_written_so(
    narrow: Path, single: Path, tmp_path: Path, content: Content
) -> None:
    out = tmp_path / "clip"
    export_open_clip(single, out=out)
    before = content(out)
    with pytest.raises(OutputError, match=r"already exists: .*--force"):
        export_open_clip(narrow, out=out, compact=True)
    assert content(out) == before
    export_open_clip(narrow, out=out, compact=True, force=True)
    assert stock(out).visual.conv3.out_channels == 10
    (out / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds a file that this command did not write: .*notes\.txt"):
        export_open_clip(single, out=out, force=True)
    with pytest.raises(OutputError, match="not a folder"):
        export_open_clip(single, out=out / "notes.txt", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip"]


def test_a_failure_half_way_leaves_nothing(narrow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import opentrans_cli.steps.transfer.open_clip as step

    whole = step.write_file

    def full(path: Path, chunks: Any) -> None:
        if path.name == "open_clip_config.json":
            raise OSError(28, "No space left on device")
        whole(path, chunks)

    monkeypatch.setattr(step, "write_file", full)
    with pytest.raises(OpentransError, match="No space left on device"):
        export_open_clip(narrow, out=tmp_path / "clip")
    assert list(tmp_path.iterdir()) == []
