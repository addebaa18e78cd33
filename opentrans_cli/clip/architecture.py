"""Build CLIP models from open_clip configurations, and read the configuration off a checkpoint's tensors."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from opentrans_cli.errors import SourceError

OPENAI_MARKS = ("input_resolution", "context_length", "vocab_size")
"""Scalars that only the state dicts of OpenAI's own archives hold beside the weights."""


@contextmanager
def quiet_open_clip() -> Iterator[None]:
    """open_clip talks on the root logger; what matters of it is raised as an error by the callers."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(previous)


def build_clip(model_cfg: Mapping[str, Any]) -> nn.Module:
    """A CLIP with untrained weights; `model_cfg` as in open_clip's `model_configs/*.json`.

    Raises SourceError if open_clip does not accept the configuration.
    """
    try:
        with quiet_open_clip():
            return open_clip.model.CLIP(**dict(model_cfg)).eval()  # type: ignore[no-any-return]
    except (TypeError, KeyError, ValueError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise SourceError(
            f"open_clip cannot build this architecture: {reason}; check `model_cfg` in the configuration"
        ) from error


def meta_visual(model_cfg: Mapping[str, Any]) -> nn.Module:
    """The visual tower alone on the meta device, in eval mode: shapes and names without weights.

    Raises SourceError if open_clip does not accept the configuration.
    """
    with torch.device("meta"):
        return build_clip(model_cfg).visual  # type: ignore[return-value]


def build_visual(model_cfg: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """The visual tower alone with the tensors of `state` (names inside the tower), in eval mode.

    Built on the meta device and assigned, so no memory is spent on weights that are replaced at once.
    """
    visual = meta_visual(model_cfg)
    try:
        visual.load_state_dict(dict(state), strict=True, assign=True)
    except RuntimeError as error:
        raise SourceError(f"tensors do not fit the architecture: {_first_mismatch(error)}") from error
    return visual.eval().requires_grad_(True)


def _first_mismatch(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # All missing names stand in one line, hundreds of them when the architecture is another.
    first, more, _ = (lines[1] if len(lines) > 1 else lines[0]).partition('", "')
    return f'{first}" and others' if more else first


def load_state(model: nn.Module, state: Mapping[str, Tensor], *, origin: str) -> None:
    """Load `state` strictly; raises SourceError naming `origin` and the first misfit."""
    try:
        model.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        raise SourceError(
            f"weights do not fit the architecture: {origin} ({_first_mismatch(error)}); name it as NAME:FILE"
        ) from error


def infer_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The configuration of a ModifiedResNet CLIP from the shapes of its tensors (open_clip key names).

    Text heads are taken as 64 wide, as in every published CLIP; the text activation is QuickGELU only if the tensors
    come from OpenAI's own archive. Raises SourceError if the tensors are not those of such a model.
    """
    needed = ("visual.layer1.0.conv1.weight", "visual.attnpool.c_proj.weight", "ln_final.weight")
    missing = [key for key in needed if key not in state]
    if missing:
        raise SourceError(
            f"cannot tell the architecture from the tensors: no '{missing[0]}'; give the source as NAME:FILE, "
            "for example RN50-quickgelu:weights.safetensors"
        )
    blocks = [
        len({key.split(".")[2] for key in state if key.startswith(f"visual.layer{stage}.")}) for stage in range(1, 5)
    ]
    grid = round((state["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
    width = state["ln_final.weight"].shape[0]
    layers = {key.split(".")[2] for key in state if key.startswith("transformer.resblocks.")}
    return {
        "embed_dim": state["visual.attnpool.c_proj.weight"].shape[0],
        "vision_cfg": {
            "image_size": grid * 32,
            "layers": blocks,
            "width": state["visual.layer1.0.conv1.weight"].shape[0],
            "patch_size": None,
        },
        "text_cfg": {
            "context_length": state["positional_embedding"].shape[0],
            "vocab_size": state["token_embedding.weight"].shape[0],
            "width": width,
            "heads": max(1, width // 64),
            "layers": len(layers),
        },
        "quick_gelu": any(key in state for key in OPENAI_MARKS),
    }
