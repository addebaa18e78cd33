"""The embedded tiny CLIP: `tiny_clip.safetensors` (weights), `tiny_clip.json` (configuration), `MODEL_CARD.md`; and
`class_lists/`, ids and names of the classes of published data sets.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROWS, ROW_IDS = "token_embedding.rows", "token_embedding.row_ids"


def tiny_config() -> dict[str, Any]:
    """The configuration of the embedded model, as `open_clip_config.json` has it."""
    config: dict[str, Any] = json.loads(Path(__file__).with_name("tiny_clip.json").read_text(encoding="utf-8"))
    return config


def tiny_weights() -> Path:
    """The file of its weights; it has only some rows of the token embeddings, see `tiny_clip`."""
    return Path(__file__).with_name("tiny_clip.safetensors")


def class_list_file(name: str) -> Path:
    """The class file with the list `name`, such as "coco" (133 classes); ids are those of the data set's own files."""
    return Path(__file__).with_name("class_lists") / f"{name}.txt"


def tiny_clip() -> tuple[dict[str, Any], dict[str, Any], tuple[int, ...]]:
    """Configuration and state dict of the embedded model, and the ids of the tokens that occurred in training.

    Only the embeddings of those tokens are stored (float32 (n, D)). The other rows of the (vocabulary, D) table are
    fixed noise of the same scale: words that were not in training have no meaning, but differ from each other.
    """
    import torch
    from safetensors.torch import load_file

    config, state = tiny_config(), load_file(tiny_weights())
    rows, ids = state.pop(ROWS), state.pop(ROW_IDS).long()
    shape = (config["model_cfg"]["text_cfg"]["vocab_size"], rows.shape[1])
    table = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * rows.std()
    table[ids] = rows
    return config, {**state, "token_embedding.weight": table}, tuple(ids.tolist())
