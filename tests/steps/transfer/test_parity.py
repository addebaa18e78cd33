"""The trunk in numpy is that of open_clip."""

from __future__ import annotations

import numpy as np
import torch

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.features import STAGES, stage_features
from opentrans_cli.clip.source import load_clip
from opentrans_cli.steps.transfer.parity import trunk_features, trunk_tensors

TEXT = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1}


def random_tower(blocks, width):
    torch.manual_seed(0)
    vision = {"layers": blocks, "width": width, "image_size": 64, "patch_size": None}
    visual = build_clip({"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}).visual
    for name, tensor in visual.state_dict().items():
        if "bn" in name or "downsample.1" in name:
            tensor.copy_(torch.rand(tensor.shape) + 0.5)
    return visual


def test_all_stages_are_those_of_open_clip_with_weights_of_any_precision():
    for blocks, size in (([1, 1, 1, 1], (64, 64)), ([2, 3, 1, 2], (32, 96))):
        visual = random_tower(blocks, 8).half().float()  # weights that half precision holds
        image = np.random.default_rng(1).standard_normal((3, *size), dtype=np.float32)
        with torch.inference_mode():
            expected = stage_features(visual, torch.from_numpy(image)[None])
        for state in (visual.state_dict(), {name: value.half() for name, value in visual.state_dict().items()}):
            found = trunk_features(lambda name, state=state: state[name].numpy(), blocks, image)
            for stage, features in zip(STAGES, found, strict=True):
                assert features.dtype == np.float32
                np.testing.assert_allclose(features, expected[stage][0].numpy(), rtol=1e-4, atol=1e-4)


def test_it_asks_for_every_tensor_of_the_trunk_and_no_other():
    visual = load_clip("tiny").model.visual
    blocks = [len(getattr(visual, stage)) for stage in STAGES]
    asked = set()

    def weights(name):
        asked.add(name)
        return visual.state_dict()[name].numpy()

    trunk_features(weights, blocks, np.zeros((3, 32, 32), np.float32))
    assert asked == set(trunk_tensors(blocks))
    others = set(visual.state_dict()) - asked
    assert all(name.startswith("attnpool.") or name.endswith("num_batches_tracked") for name in others)
