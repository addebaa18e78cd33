"""Write a full-size RN50 CLIP with random weights as an open_clip folder, for runs that measure size and speed.

    python benchmarks/random_rn50.py rn50-random

No accuracy can be expected of it. BatchNorm weights are drawn anew: open_clip starts every residual branch at 0.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from opentrans_cli.clip.architecture import build_clip

MODEL_CFG = {
    "embed_dim": 1024,
    "vision_cfg": {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64, "patch_size": None},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
    "quick_gelu": True,
}


def main(folder: Path) -> None:
    torch.manual_seed(0)
    model = build_clip(MODEL_CFG)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL_CFG}, indent=2) + "\n")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
