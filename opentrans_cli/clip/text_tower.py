"""A text tower alone, from the tensors that segmentation checkpoints keep of it."""

from __future__ import annotations

import re
from collections.abc import Mapping

import open_clip
from torch import Tensor

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.preprocess import Preprocess
from opentrans_cli.clip.source import LoadedClip
from opentrans_cli.errors import SourceError

_NAMES = re.compile(
    r"positional_embedding|text_projection|token_embedding\.weight|ln_final\.(weight|bias)|transformer\.resblocks\..+"
)
# open_clip builds towers in pairs; this image tower is never run.
_NO_IMAGES = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None}
_HEAD = 64  # width of an attention head in every published CLIP


def text_tensors(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of a text tower below `prefix`, by open_clip's names; empty if there are none."""
    inside = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    return {key: tensor for key, tensor in inside.items() if _NAMES.fullmatch(key)}


def text_clip(tensors: Mapping[str, Tensor], *, source: str, quick_gelu: bool) -> LoadedClip:
    """A CLIP whose text tower has `tensors`, names as for `text_tensors`; it embeds words and no images.

    quick_gelu: the activation, which tensors do not tell: OpenAI's weights want it, others GELU. Raises SourceError if
    the tensors are not those of one text tower.
    """
    try:
        width, dimension = tensors["text_projection"].shape
        layers = 1 + max(int(key.split(".")[2]) for key in tensors if key.startswith("transformer."))
        text_cfg = {
            "context_length": tensors["positional_embedding"].shape[0],
            "vocab_size": tensors["token_embedding.weight"].shape[0],
            "width": width,
            "heads": max(1, width // _HEAD),
            "layers": layers,
        }
    except (KeyError, ValueError) as error:
        raise SourceError(f"no whole text tower: {source}; name a CLIP that has one with --base") from error
    model_cfg = {"embed_dim": dimension, "vision_cfg": _NO_IMAGES, "text_cfg": text_cfg, "quick_gelu": quick_gelu}
    model = build_clip(model_cfg)
    wanted = {key: value.shape for key, value in model.state_dict().items() if _NAMES.fullmatch(key)}
    odd = [key for key in {**wanted, **tensors} if key not in tensors or wanted.get(key) != tensors[key].shape]
    if odd:
        raise SourceError(f"no whole text tower: '{odd[0]}' in {source}; name a CLIP that has one with --base")
    model.load_state_dict(dict(tensors), strict=False)
    return LoadedClip(
        model=model.float().eval(),
        tokenizer=open_clip.SimpleTokenizer(context_length=text_cfg["context_length"]),
        source=source,
        architecture="text tower",
        model_cfg=model_cfg,
        preprocess=Preprocess(size=_NO_IMAGES["image_size"]),  # type: ignore[arg-type]
    )
