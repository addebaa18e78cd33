"""Build CLIP models from open_clip configurations, and find the configuration from a checkpoint's tensors."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.clip.layers import Shapes, split_shapes
from opentrans_cli.clip.open_clip import open_clip_module
from opentrans_cli.errors import SourceError
from opentrans_cli.quiet import quiet_libraries

if TYPE_CHECKING:
    from torch import Tensor, nn


class Shaped(Protocol):
    """Anything with a shape: a torch tensor, an array, or a tensor's description in a file."""

    @property
    def shape(self) -> Sequence[int]: ...


# Find the configuration of a CLIP's image tower, ResNet or ConvNeXt, from its tensors.


_IMAGE_SIZE = 256  # pixels; nothing in a ConvNeXt depends on it

# From the number of blocks in each of the four stages and the channels of the first stage to timm's name.
_CONVNEXTS: dict[tuple[tuple[int, ...], int], str] = {
    ((2, 2, 6, 2), 40): "convnext_atto",
    ((2, 2, 6, 2), 48): "convnext_femto",
    ((2, 2, 6, 2), 64): "convnext_pico",
    ((2, 2, 8, 2), 80): "convnext_nano",
    ((3, 3, 9, 3), 96): "convnext_tiny",
    ((3, 3, 27, 3), 96): "convnext_small",
    ((3, 3, 27, 3), 128): "convnext_base",
    ((3, 3, 27, 3), 192): "convnext_large",
    ((3, 3, 27, 3), 256): "convnext_xlarge",
    ((3, 4, 30, 3), 384): "convnext_xxlarge",
}
_PROJECTIONS = {"head.proj.weight": "linear", "head.mlp.fc2.weight": "mlp"}


def infer_tower(state: Mapping[str, Shaped]) -> dict[str, Any]:
    """The configuration of an image tower, from its tensors by names inside it; `meta_visual` builds the tower.

    `infer_vision` says what cannot be known for a ResNet without its attention pool. Raises SourceError if the tensors
    belong to neither kind of tower.
    """
    return infer_convnext(state) if "trunk.stem.0.weight" in state else infer_vision(state)


def infer_convnext(state: Mapping[str, Shaped]) -> dict[str, Any]:
    """The same as `infer_tower` for a timm ConvNeXt in open_clip's tower."""
    blocks = tuple(
        len({key.split(".")[4] for key in state if key.startswith(f"trunk.stages.{stage}.blocks.")})
        for stage in range(4)
    )
    width = state["trunk.stem.0.weight"].shape[0]
    name = _CONVNEXTS.get((blocks, width))
    head = next((key for key in _PROJECTIONS if key in state), None)
    if name is None or head is None:
        raise SourceError(
            f"not the ConvNeXt of a published CLIP: {blocks} blocks, {width} channels; give the source as NAME:FILE"
        )
    vision = {
        "timm_model_name": name,
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": _PROJECTIONS[head],
        "timm_drop": 0.0,
        "timm_drop_path": 0.0,
        "image_size": _IMAGE_SIZE,
    }
    return {"embed_dim": state[head].shape[0], "vision_cfg": vision}


OPENAI_MARKS = ("input_resolution", "context_length", "vocab_size")
"""Scalars that only the state dicts of OpenAI's own archives hold beside the weights."""

_SMALLEST_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}
_COUNTER = "num_batches_tracked"
_TIMM_NAME = re.compile(r"[A-Za-z0-9_.]+")  # excludes names with "hf-hub:" or "local-dir:"
_PUBLISHED_GRID = 7  # positions along a side at 224 pixels
_SIZES = ("width", "head_width", "image_size", "patch_size")
_MAX_NUMBER, _MAX_LAYERS = 2**16, 512  # of pixels, channels and blocks; the largest published towers have 48 blocks


def build_clip(model_cfg: Mapping[str, Any]) -> nn.Module:
    """A CLIP with untrained weights, in eval mode; `model_cfg` as in open_clip's `model_configs/*.json`.

    Nothing is downloaded for its weights. Raises SourceError if open_clip does not accept the configuration.
    """
    config = copy.deepcopy(dict(model_cfg))
    text: dict[str, Any] = config["text_cfg"] if isinstance(config.get("text_cfg"), dict) else {}
    foreign = "hf_model_name" in text
    if foreign:
        text["hf_model_pretrained"] = False  # the checkpoint has the weights
    kind = ("model", "CLIP")
    if config.pop("custom_text", False) or foreign:
        kind = ("coca_model", "CoCa") if "multimodal_cfg" in config else ("model", "CustomTextCLIP")
    try:
        with quiet_libraries():
            return getattr(open_clip_module(kind[0]), kind[1])(**config).eval()  # type: ignore[no-any-return]
    except (TypeError, ValueError, AssertionError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SourceError(
            f"open_clip cannot build this architecture: {reason}; check `model_cfg` in the configuration"
        ) from error
    except OSError as error:
        raise SourceError(
            f"text tower is described on the Hub, which cannot be asked: {text.get('hf_model_name')}; "
            f"get it with `hf download {text.get('hf_model_name')} config.json`"
        ) from error


def meta_visual(model_cfg: Mapping[str, Any]) -> nn.Module:
    """The visual tower alone on the meta device, in eval mode: shapes and names without weights.

    The configuration may be untrusted: building makes no network call and reads no file, and the size is limited.
    Raises SourceError if the configuration is not allowed or open_clip does not accept it.
    """
    with unfilled():
        return build_clip(_harmless(model_cfg)).visual  # type: ignore[return-value]


_FILL = {"normal_", "uniform_", "trunc_normal_", "zero_", "zeros_", "ones_", "fill_", "constant_", "mul_"}
_FILL |= {"triu_"} | {f"{name}_{kind}_" for name in ("xavier", "kaiming") for kind in ("normal", "uniform")}
_SCALE = {"mul", "div", "__mul__", "__rmul__", "__truediv__"}


@contextmanager
def unfilled() -> Iterator[None]:
    """Tensors created inside the block are on the meta device, and no initial values are computed for them.

    On that device, torch's code for random and scaled initial values is in Python and imports torch's compiler.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Unfilled(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name, kwargs = func.__name__, kwargs or {}
            if func is torch.randn:
                return torch.empty(*args, **kwargs, device="meta")
            tensor = args[0] if args else kwargs.get("tensor")
            # A product with another tensor may have another shape, so only scaling by a number is left out.
            by_number = name in _SCALE and not any(isinstance(other, torch.Tensor) for other in args[1:])
            if (name in _FILL or by_number) and isinstance(tensor, torch.Tensor) and tensor.is_meta:
                return tensor
            return func(*args, **kwargs)

    with torch.device("meta"), Unfilled():
        yield


def _harmless(model_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """`model_cfg` with the smallest text tower, and nothing in its image tower that is loaded from elsewhere."""
    vision = model_cfg.get("vision_cfg")
    if not isinstance(vision, Mapping):
        raise SourceError("configuration has no image tower: `vision_cfg`; check `model_cfg`")
    layers = _numbers(vision.get("layers", 0))
    sizes = [number for key in _SIZES for number in _numbers(vision.get(key, 1))]
    numbers = [number for value in (*vision.values(), model_cfg.get("embed_dim")) for number in _numbers(value)]
    narrow = (
        len(layers) > 1 and min([2, *_numbers(vision.get("width", 2))]) < 2
    )  # the stem of a ResNet has half its width
    if min([1, *sizes]) < 1 or narrow or max([0, *map(abs, numbers)]) > _MAX_NUMBER or sum(layers) > _MAX_LAYERS:
        raise SourceError("configuration is of no image tower: a number is out of range; check `model_cfg`")
    name = vision.get("timm_model_name")
    if name is not None and not (isinstance(name, str) and _TIMM_NAME.fullmatch(name)):
        raise SourceError(f"not a model of timm: {str(name)[:100]!r}; check `model_cfg`")
    pretrained = {} if name is None else {"timm_model_pretrained": False}  # else timm downloads weights
    whole = {name: value for name, value in model_cfg.items() if name != "multimodal_cfg"}
    return {**whole, "vision_cfg": {**vision, **pretrained}, "text_cfg": dict(_SMALLEST_TEXT)}


_CLIP_KEYS = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
_RESNET_KEYS = {"layers", "width", "head_width", "image_size", "patch_size"}
_VIT_KEYS = _RESNET_KEYS | {"mlp_ratio", "no_ln_pre", "pool_type", "final_ln_after_pool"}
_VIT_DEFAULTS = {"layers": 12, "width": 768, "head_width": 64, "image_size": 224, "patch_size": 16, "mlp_ratio": 4.0}


def tower_shapes(model_cfg: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors of an image tower by name, in module order. Raises SourceError as `meta_visual` does.

    The usual ResNets and ViTs need no torch for this; any other tower is built on the meta device.
    """
    plain = plain_shapes(model_cfg)
    if plain is not None:
        return plain
    return {name: tuple(tensor.shape) for name, tensor in meta_visual(model_cfg).state_dict().items()}


def plain_shapes(model_cfg: Mapping[str, Any]) -> dict[str, tuple[int, ...]] | None:
    """`tower_shapes` where no torch is needed, else None. Raises SourceError for a wrong configuration."""
    config = _harmless(model_cfg)
    vision, size = config["vision_cfg"], config.get("embed_dim")
    if not config.keys() <= _CLIP_KEYS or type(size) is not int:
        return None
    if isinstance(vision.get("layers"), list):
        numbers = [*vision["layers"], vision.get("width"), vision.get("image_size")]
        plain = vision.keys() <= _RESNET_KEYS and len(vision["layers"]) == 4
        return dict(_resnet_shapes(vision, size)) if plain and all(type(one) is int for one in numbers) else None
    given = {**_VIT_DEFAULTS, **vision}
    numbers = [given[key] for key in ("layers", "width", "head_width", "image_size", "patch_size")]
    plain = vision.keys() <= _VIT_KEYS and vision.get("pool_type", "tok") in ("tok", "avg")
    if not plain or any(type(one) is not int for one in numbers) or given["width"] % given["head_width"]:
        return None
    return dict(_vit_shapes(given, size))


_Shapes = Iterator[tuple[str, tuple[int, ...]]]


def _resnet_shapes(vision: Mapping[str, Any], size: int) -> _Shapes:
    """The shapes of open_clip's ModifiedResNet."""
    width, channels = vision["width"], 3
    for number, out in enumerate((width // 2, width // 2, width), start=1):
        yield f"conv{number}.weight", (out, channels, 3, 3)
        yield from _batchnorm(f"bn{number}", out)
        channels = out
    for stage, blocks in enumerate(vision["layers"]):
        inner = width * 2**stage
        for block in range(blocks):
            name = f"layer{stage + 1}.{block}"
            for number, shape in enumerate(
                ((inner, channels, 1, 1), (inner, inner, 3, 3), (4 * inner, inner, 1, 1)), 1
            ):
                yield f"{name}.conv{number}.weight", shape
                yield from _batchnorm(f"{name}.bn{number}", shape[0])
            if block == 0:  # the first block of a stage changes the width or the stride
                yield f"{name}.downsample.0.weight", (4 * inner, channels, 1, 1)
                yield from _batchnorm(f"{name}.downsample.1", 4 * inner)
            channels = 4 * inner
    yield "attnpool.positional_embedding", ((vision["image_size"] // 32) ** 2 + 1, channels)
    for part, out in (("k", channels), ("q", channels), ("v", channels), ("c", size)):
        yield from _linear(f"attnpool.{part}_proj", out, channels)


def _vit_shapes(vision: Mapping[str, Any], size: int) -> _Shapes:
    """The shapes of open_clip's VisionTransformer with its usual blocks and no attention pool."""
    width, patch = vision["width"], vision["patch_size"]
    hidden = int(width * vision["mlp_ratio"])
    yield "class_embedding", (width,)
    yield "positional_embedding", ((vision["image_size"] // patch) ** 2 + 1, width)
    yield "proj", (width, size)
    yield "conv1.weight", (width, 3, patch, patch)
    if not vision.get("no_ln_pre"):
        yield from _linear("ln_pre", width)
    for block in range(vision["layers"]):
        name = f"transformer.resblocks.{block}"
        yield from _linear(f"{name}.ln_1", width)
        yield f"{name}.attn.in_proj_weight", (3 * width, width)
        yield f"{name}.attn.in_proj_bias", (3 * width,)
        yield from _linear(f"{name}.attn.out_proj", width, width)
        yield from _linear(f"{name}.ln_2", width)
        yield from _linear(f"{name}.mlp.c_fc", hidden, width)
        yield from _linear(f"{name}.mlp.c_proj", width, hidden)
    yield from _linear("ln_post", width)


def _linear(name: str, out: int, *into: int) -> _Shapes:
    """The shapes of weight and bias of a linear layer or a norm."""
    yield f"{name}.weight", (out, *into)
    yield f"{name}.bias", (out,)


def _batchnorm(name: str, channels: int) -> _Shapes:
    yield from ((f"{name}.{leaf}", (channels,)) for leaf in ("weight", "bias", "running_mean", "running_var"))
    yield f"{name}.num_batches_tracked", ()


def _numbers(value: object) -> list[int | float]:
    """The numbers in a value of a configuration, which may be a list of them."""
    values = value if isinstance(value, list) else [value]
    return [number for number in values if isinstance(number, int | float) and not isinstance(number, bool)]


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


class NarrowTower(SourceError):
    """A tower whose layers have fewer channels than its architecture, in a way that open_clip cannot build."""


def check_shapes(given: Shapes, wanted: Shapes, *, origin: str) -> None:
    """Raises SourceError, naming `origin` and the first wrong tensor, unless both have the same names and shapes.

    It is a NarrowTower if the names are the same and nothing is larger than wanted.
    """
    others = [name for name, shape in wanted.items() if name in given and tuple(given[name]) != shape]
    for problem, names in (
        ("missing", [name for name in wanted if name not in given]),
        ("not known", [name for name in given if name not in wanted]),
        ("of another shape", others),
    ):
        if not names:
            continue
        first = f"'{names[0]}'"
        if names is others:
            own, full = written_shape(given[names[0]]), written_shape(wanted[names[0]])
            if all(_inside(given[name], wanted[name]) for name in others):
                raise NarrowTower(
                    f"narrower than its architecture: {first} is {own} in {origin}, not {full}; name the architecture "
                    "of the file, or, if a program took channels out of it, import the masks that it had before, or "
                    "prune with --pattern channel"
                )
        more = f" and {len(names) - 1} others" if len(names) > 1 else ""
        raise SourceError(
            f"weights do not fit the architecture: {origin} ({first}{more}, {problem}); "
            "name another architecture, as NAME:FILE or in `model_cfg`"
        )


def _inside(given: Sequence[int], wanted: Sequence[int]) -> bool:
    return len(given) == len(wanted) and all(own <= other for own, other in zip(given, wanted, strict=True))


def written_shape(shape: Sequence[int]) -> str:
    """A shape for messages: "64 x 32 x 3 x 3"."""
    return " x ".join(map(str, shape)) or "one number"


def fit_state(
    state: Mapping[str, NDArray[Any]], model_cfg: Mapping[str, Any], *, origin: str
) -> dict[str, NDArray[Any]]:
    """The tensors of an image tower, one per layer, in module order, as float32; counters are int64.

    Raises SourceError as `check_shapes` does.
    """
    shapes = split_shapes(tower_shapes(model_cfg))
    # Files from before torch 1.0 have no counter of batches, and nothing depends on it.
    counters = {name: np.zeros((), np.int64) for name in shapes if name.endswith(_COUNTER) and name not in state}
    given = {**state, **counters}
    check_shapes({name: array.shape for name, array in given.items()}, shapes, origin=origin)
    ordered = {name: given[name] for name in shapes}
    kinds = {name: np.int64 if name.endswith(_COUNTER) else np.float32 for name in ordered}
    return {name: array.astype(kinds[name], copy=False) for name, array in ordered.items()}


def _first_mismatch(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # The message lists all missing names in one line, and there are hundreds of them when the architecture is wrong.
    first, more, _ = (lines[1] if len(lines) > 1 else lines[0]).partition('", "')
    return f'{first}" and others' if more else first


def load_state(model: nn.Module, state: Mapping[str, Tensor], *, origin: str) -> str | None:
    """Load `state` strictly, with positions resized as open_clip and timm do; returns a note if some were.

    Raises SourceError naming `origin` and the first tensor that does not fit.
    """
    given, notes = _as_built(model, dict(state)), list[str]()
    for key, tower, size in _positions(model):
        if key in given and given[key].shape != size.shape and given[key].shape[-1] == size.shape[-1]:
            count, wanted = given[key].shape[-2], size.shape[-2]
            given[key] = _resized(given[key].float(), size.shape, size.grid, f"{key} of {origin}")
            notes.append(f"{origin}: {count} positions of the {tower} tower are resized to {wanted}")
    own = model.state_dict()
    # Files from before torch 1.0 have no counter of batches, and nothing depends on it.
    given |= {name: tensor for name, tensor in own.items() if name.endswith(_COUNTER) and name not in given}
    check_shapes(
        {name: tuple(tensor.shape) for name, tensor in given.items()},
        {name: tuple(tensor.shape) for name, tensor in own.items()},
        origin=origin,
    )
    model.load_state_dict(given, strict=True)
    return "; ".join(notes) or None


def _as_built(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` by the names and shapes of `model`, where they are those of another form of this CLIP in open_clip."""
    import torch

    state = open_clip_module("convert").convert_state_dict(model, state)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = open_clip_module("model").convert_to_custom_text_state_dict(state)
    for scalar in ("logit_scale", "logit_bias"):
        own = getattr(model, scalar, None)
        if scalar in state and own is not None and state[scalar].numel() == own.numel():
            state[scalar] = state[scalar].reshape(own.shape)
    if getattr(model, "logit_bias", None) is not None and "logit_bias" not in state:
        state["logit_bias"] = torch.zeros_like(model.logit_bias)
    return state


class _Wanted(NamedTuple):
    shape: tuple[int, ...]  # (..., positions, channels)
    grid: tuple[int, int] | None  # positions in the image, the last ones of all; None: they are in a row


def _positions(model: Any) -> Iterator[tuple[str, str, _Wanted]]:
    """The position embeddings of a CLIP: name, "image" or "text", and what is wanted."""
    visual, own = model.visual, model.state_dict()
    text = "positional_embedding" if "positional_embedding" in own else "text.positional_embedding"
    if text in own:
        yield text, "text", _Wanted(tuple(own[text].shape), None)
    for name in ("positional_embedding", "attnpool.positional_embedding", "trunk.pos_embed"):
        if (key := f"visual.{name}") not in own:
            continue
        shape = tuple(own[key].shape)
        grid = getattr(getattr(getattr(visual, "trunk", visual), "patch_embed", visual), "grid_size", None)
        if grid is None or name.startswith("attnpool"):
            side = math.isqrt(shape[-2])
            grid = (side, side)
        yield key, "image", _Wanted(shape, (grid[0], grid[1]))


def _resized(values: Tensor, shape: tuple[int, ...], grid: tuple[int, int] | None, what: str) -> Tensor:
    """Position embeddings `values` (..., N, D) at another number of positions; those before the image stay.

    In an image bicubic with antialiasing, in a text linear, as in open_clip 3 and timm. Raises SourceError, which says
    `what`, if the given positions of an image are no square.
    """
    import torch
    import torch.nn.functional as F

    rows = values.reshape(-1, values.shape[-1])
    if grid is None:
        row = F.interpolate(rows.T[None], size=shape[-2], mode="linear", align_corners=False)
        return row[0].T.reshape(shape)
    before = shape[-2] - grid[0] * grid[1]
    side = math.isqrt(max(0, len(rows) - before))
    if side < 1 or side * side != len(rows) - before:
        raise SourceError(f"positions are no square: {len(rows)} in {what}; name another architecture, as NAME:FILE")
    image = rows[before:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([rows[:before], image.permute(0, 2, 3, 1).reshape(grid[0] * grid[1], -1)]).reshape(shape)


def infer_config(state: Mapping[str, Shaped]) -> dict[str, Any]:
    """The configuration of a CLIP with a ModifiedResNet, or of a ViT of OpenAI's, from the shapes of its tensors.

    Names are open_clip's. Heads are taken as 64 wide, as in OpenAI's CLIPs; the activation is QuickGELU only if the
    tensors come from OpenAI's own archive. A ViT from elsewhere has no configuration, since its image tower depends on
    both. Raises SourceError if the tensors are not those of such a model.
    """
    openai = any(key in state for key in OPENAI_MARKS)
    needed: tuple[str, ...] = ("visual.layer1.0.conv1.weight", "visual.attnpool.c_proj.weight", "ln_final.weight")
    vit = any(key == "visual.class_embedding" or key.startswith(f"visual.{_VIT_BLOCKS}") for key in state)
    if vit:
        needed = ("visual.conv1.weight", "visual.positional_embedding", "visual.proj", "ln_final.weight")
    missing = [key for key in needed if key not in state]
    problem = f"no '{missing[0]}'" if missing else "those of a ViT do not say its heads and activation"
    name = "ViT-B-16" if vit else "RN50"
    example = f"{name}:weights.safetensors, or {name}-quickgelu:weights.safetensors for OpenAI's"
    timm = any(key.startswith("visual.trunk.") for key in state)
    if timm:
        problem = "those of a tower of timm do not say all of it"
        example = f"{'ViT-B-16-SigLIP' if 'visual.trunk.patch_embed.proj.weight' in state else 'convnext_base'}:FILE"
    if missing or timm or (vit and not openai):
        raise SourceError(
            f"cannot tell the architecture from the tensors: {problem}; give the source as NAME:FILE, for example "
            f"{example}"
        )
    width = state["ln_final.weight"].shape[0]
    inside = {key.removeprefix("visual."): tensor for key, tensor in state.items() if key.startswith("visual.")}
    return {
        **(_infer_vit(inside) if vit else infer_vision(inside)),
        "text_cfg": {
            "context_length": state["positional_embedding"].shape[0],
            "vocab_size": state["token_embedding.weight"].shape[0],
            "width": width,
            "heads": max(1, width // 64),
            "layers": _blocks(state, "transformer.resblocks."),
        },
        "quick_gelu": openai,
    }


def _blocks(state: Iterable[str], prefix: str) -> int:
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})


def _infer_vit(state: Mapping[str, Shaped]) -> dict[str, Any]:
    """The image tower's part of `infer_config` for a ViT of OpenAI's; names are inside the tower."""
    width, _, patch, _ = state["conv1.weight"].shape
    side = math.isqrt(state["positional_embedding"].shape[0] - 1)
    vision = {"image_size": side * patch, "width": width, "patch_size": patch}
    return {
        "embed_dim": state["proj"].shape[1],
        "vision_cfg": {**vision, "layers": _blocks(state, _VIT_BLOCKS), **_vit_hidden(state, width)},
    }


_VIT_BLOCKS = "transformer.resblocks."


def _vit_hidden(state: Mapping[str, Shaped], width: int) -> dict[str, float]:
    first = state.get(f"{_VIT_BLOCKS}0.mlp.c_fc.weight")
    if first is None:
        return {}
    hidden, ratio = first.shape[0], first.shape[0] / width
    return {"mlp_ratio": ratio if int(width * ratio) == hidden else (hidden + 0.5) / width}  # open_clip rounds down


def with_sizes_of(model_cfg: Mapping[str, Any], state: Mapping[str, Shaped]) -> dict[str, Any]:
    """`model_cfg` with the numbers of an image tower from which channels or blocks were taken, where open_clip has one.

    These are a ResNet with another width or other numbers of blocks, and a ViT with fewer blocks or with MLPs that all
    have another size. `state`: tensors by names inside the tower, packed projections not split. If no such numbers fit
    all shapes, `model_cfg` is returned as it is. Raises SourceError for a wrong configuration.
    """
    shapes = plain_shapes(model_cfg)
    given = {name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith(_COUNTER)}
    if shapes is None or given == {name: shape for name, shape in shapes.items() if not name.endswith(_COUNTER)}:
        return dict(model_cfg)
    vision = model_cfg["vision_cfg"]
    if isinstance(vision["layers"], list):
        first = state.get("layer1.0.conv1.weight")
        blocks = [_blocks(state, f"layer{stage}.") for stage in range(1, 5)]
        sizes: dict[str, Any] = {"layers": blocks} if first is None else {"layers": blocks, "width": first.shape[0]}
    else:
        width = vision.get("width", _VIT_DEFAULTS["width"])
        sizes = {"layers": _blocks(state, _VIT_BLOCKS), **_vit_hidden(state, width)}
    changed = {name: size for name, size in sizes.items() if size != vision.get(name, _VIT_DEFAULTS.get(name))}
    fitted = {**model_cfg, "vision_cfg": {**vision, **changed}}
    try:
        wanted = plain_shapes(fitted) or {}
    except SourceError:
        return dict(model_cfg)
    positions = {"positional_embedding", "attnpool.positional_embedding"}  # they are resized
    alike = {name: shape for name, shape in wanted.items() if not name.endswith(_COUNTER) and name not in positions}
    same = alike == {name: shape for name, shape in given.items() if name not in positions}
    return fitted if same else dict(model_cfg)


def infer_vision(state: Mapping[str, Shaped]) -> dict[str, Any]:
    """The image tower's part of `infer_config`, for files without a text tower; names are inside the tower.

    `meta_visual` can build it; `build_clip` cannot, as there is no `text_cfg`. Frameworks often drop the attention
    pool, which tells the image size and `embed_dim`. These are then set to 224, as in the smallest published CLIPs, and
    to the width of the last stage. Raises SourceError if the tensors are not those of a ModifiedResNet.
    """
    blocks = [len({key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")}) for stage in range(1, 5)]
    # The stem tells the width, since programs that take channels out of the blocks keep what goes from block to block.
    first = state.get("conv3.weight", state.get("layer1.0.conv1.weight"))
    pool = state.get("attnpool.c_proj.weight")
    if first is None or 0 in blocks:
        raise SourceError("cannot tell the architecture from the tensors: no four stages; give the source as NAME:FILE")
    positions = state.get("attnpool.positional_embedding")
    grid = _PUBLISHED_GRID if positions is None else round((positions.shape[0] - 1) ** 0.5)
    return {
        "embed_dim": 32 * first.shape[0] if pool is None else pool.shape[0],
        "vision_cfg": {"image_size": grid * 32, "layers": blocks, "width": first.shape[0], "patch_size": None},
    }
