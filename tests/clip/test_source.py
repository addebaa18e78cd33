"""A CLIP is loaded from a folder or a file as open_clip loads it, whatever stands before its names."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.source import load_clip
from opentrans_cli.errors import SourceError

TEXT = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1}
VIT = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8}


def test_positions_of_another_image_size_are_resized_as_open_clip_does_and_told(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = {"embed_dim": 8, "vision_cfg": {**VIT, "image_size": 32}, "text_cfg": TEXT}
    large = {"embed_dim": 8, "vision_cfg": {**VIT, "image_size": 48}, "text_cfg": TEXT}
    weights = tmp_path / "open_clip_pytorch_model.bin"
    for dtype in (torch.float32, torch.float16):
        state = {name: tensor.to(dtype) for name, tensor in build_clip(small).state_dict().items()}
        torch.save(state, weights)
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": large, "preprocess_cfg": {}}))
        loaded = load_clip(str(tmp_path))
        assert loaded.note == f"{weights}: 17 positions of the image tower are resized to 37"
        if dtype is torch.float32:
            theirs = open_clip.create_model(f"local-dir:{tmp_path}", require_pretrained=True).state_dict()
            ours = loaded.model.state_dict()
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    torch.save({"module." + name: tensor for name, tensor in state.items() if "ln_post" not in name}, weights)
    with pytest.raises(SourceError, match=r"do not fit the architecture: .*ln_post.*; name another architecture"):
        load_clip(str(tmp_path))
