"""The image tower of RN50 at full size, for measurements of it: the text tower beside it is small and not measured."""

from __future__ import annotations

from typing import Any

RN50: dict[str, Any] = {
    "embed_dim": 1024,
    "vision_cfg": {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64, "patch_size": None},
    "text_cfg": {"context_length": 77, "vocab_size": 100, "width": 64, "heads": 1, "layers": 1},
}
