"""The embedded tiny CLIP: `tiny_clip.safetensors` (weights), `tiny_clip.json` (configuration), `MODEL_CARD.md`."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

ROWS, ROW_IDS = "token_embedding.rows", "token_embedding.row_ids"


def tiny_clip() -> tuple[dict[str, Any], dict[str, Any]]:
    """Configuration and state dict of the embedded model.

    Only the token embeddings that training ever read are stored (float32 (n, D) with their int32 ids); the other rows
    of the (vocabulary, D) table are zero.
    """
    import torch
    from safetensors.torch import load_file

    folder = resources.files(__name__)
    config: dict[str, Any] = json.loads(folder.joinpath("tiny_clip.json").read_text(encoding="utf-8"))
    with resources.as_file(folder.joinpath("tiny_clip.safetensors")) as path:
        state = load_file(path)
    rows, ids = state.pop(ROWS), state.pop(ROW_IDS)
    table = torch.zeros(config["model_cfg"]["text_cfg"]["vocab_size"], rows.shape[1])
    table[ids.long()] = rows
    return config, {**state, "token_embedding.weight": table}
