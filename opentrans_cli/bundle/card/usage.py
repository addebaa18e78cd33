"""The part of a model card that says how to use a bundle: code that runs as it stands, for its kind of tower."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import NamedTuple

from opentrans_cli.bundle.card.markup import printable
from opentrans_cli.bundle.layout import SPARSE_PATCH, WEIGHTS
from opentrans_cli.bundle.manifest import Manifest


class Pretrained(NamedTuple):
    """Weights by their name in open_clip."""

    name: str  # architecture, "RN50-quickgelu"
    tag: str  # "openai"
    repo: str | None  # where they lie on the Hugging Face Hub, "timm/resnet50_clip.openai"


_READ_MASKS = '''\
import json
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file


def read_masks(folder):
    """Name of a weight -> bool mask of its shape, True = kept."""
    masks, bits = {}, load_file(folder / "mask.safetensors")
    for layer in json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["layers"]:
        mask = np.unpackbits(bits[layer["name"]].numpy(), count=layer["total"], bitorder="little")
        masks[layer["name"] + ".weight"] = torch.from_numpy(mask.astype(bool)).reshape(layer["shape"])
    return masks
'''

_READ_STATE = '''

def read_state(folder, masks):
    """The image tower as an ordinary state dict: float32, dense, zero where it is pruned."""
    state = load_file(folder / "weights.safetensors")
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    for name, mask in masks.items():
        state[name] = torch.zeros(mask.shape).masked_scatter_(mask, state[name])
    return state
'''

_PACK = '''

def pack(tensors):
    """Joins query, key and value projections into one parameter, as open_clip's ViTs hold them."""
    ends = ("q_proj.weight", "k_proj.weight", "v_proj.weight")
    for owner in sorted({name[:-13] for name in tensors if name.endswith(ends)}):
        parts = [tensors.pop(owner + end, None) for end in ends]
        dense = torch.ones_like(next(part for part in parts if part is not None))  # a part that is not pruned
        tensors[owner + "in_proj_weight"] = torch.cat([dense if part is None else part for part in parts])
    return tensors
'''

_LOOK = """\
opentrans inspect subnet
opentrans segment subnet photo.jpg --words "person, grass, sky" --out pictures
"""

_PATCH = """\
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file

patch = load_file(hf_hub_download({repo!a}, {file!a}{pinned}))
for name in (key.removesuffix(".indices") for key in patch if key.endswith(".indices")):
    state[name].view(-1)[patch[name + ".indices"].long()] = patch[name + ".values"]  # state: model.state_dict()
"""

_APPLY = """\
import opentrans_cli as ot

subnet = ot.apply({source!a}, model{values})
subnet.hold(optimizer)  # where the model is trained further: after every step, or removed weights grow back
"""


def usage(
    manifest: Manifest, *, repo: str, revision: str | None, dense: bool, patch: bool, base: Pretrained | None
) -> str:
    """The section "Use" in Markdown.

    `dense`: the repository has the files that open_clip loads; `patch`: it has a sparse patch of the base; `base`: what
    the base is called in open_clip, None for another.
    """
    return "\n\n".join(_parts(manifest, repo, revision, dense, patch, base))


def _parts(
    manifest: Manifest, repo: str, revision: str | None, dense: bool, patch: bool, base: Pretrained | None
) -> Iterator[str]:
    yield "## Use"
    yield "With `opentrans` (Python package `opentrans-cli`), which checks every byte and needs no framework:"
    yield fence("bash", pull_line(repo, revision, base=None if _has_values(manifest) else manifest.base.source) + _LOOK)
    yield "### open_clip"
    if dense:
        yield fence("python", _open_clip(f"hf-hub:{repo}"))
    else:
        yield "Write the whole CLIP, with the text tower of the base, into a folder once, and load that:"
        yield fence("bash", "opentrans transfer subnet --to open-clip --out subnet-open-clip\n")
        yield fence("python", _open_clip("local-dir:subnet-open-clip"))
    yield "### Plain torch"
    values = "a value is stored where its bit is set" if _has_values(manifest) else "values are those of the base"
    yield f"The files need no code of ours: a mask is one bit a weight, {values}."
    yield fence("python", plain_torch(manifest, repo=repo, revision=revision, base=base))
    if patch:
        yield "### Sparse patch"
        yield (
            f"`{SPARSE_PATCH}` turns the base's weights, named as open_clip names them, into this subnet: for a tensor "
            "`NAME`, `NAME.indices` are flat positions (C order) and `NAME.values` what is put there."
        )
        pinned = "" if revision is None else f", revision={revision!a}"
        yield fence("python", _PATCH.format(repo=repo, file=SPARSE_PATCH, pinned=pinned))
    yield "### Your own model"
    yield (
        "It is found in FC-CLIP, detectron2, mmsegmentation, timm, Hugging Face or whatever holds this tower, "
        f"{'and gives it its values' if _has_values(manifest) else 'whose own values are kept'}."
    )
    values = ', weights="subnet"' if _has_values(manifest) else ""
    yield fence("python", _APPLY.format(source=f"hf://{repo}" + (f"@{revision}" if revision else ""), values=values))


def _is_resnet(manifest: Manifest) -> bool:
    """Whether the tower is one of CLIP's ResNets, whose configuration has a depth for each stage."""
    vision = manifest.base.model_cfg.get("vision_cfg")
    return isinstance(vision, dict) and isinstance(vision.get("layers"), list)


def plain_torch(manifest: Manifest, *, repo: str, revision: str | None, base: Pretrained | None) -> str:
    """Python that reads masks and state dict of the tower without opentrans, but for a base only opentrans knows."""
    has_values = _has_values(manifest)
    pinned = "" if revision is None else f", revision={revision!a}"
    packed = "" if _is_resnet(manifest) else "pack({})"
    wrap = (packed or "{}").format
    lines = [f"folder = Path(snapshot_download({repo!a}{pinned}))", "masks = read_masks(folder)"]
    if has_values:
        lines.append(f"state = {wrap('read_state(folder, masks)')}")
    if packed:
        lines.append(f"masks = {wrap('masks')}")
    if not has_values:
        lines += _base_lines(manifest, base)
    definitions = _READ_MASKS + (_READ_STATE if has_values else "") + (_PACK if packed else "")
    return definitions + "\n\n" + "\n".join(lines) + "\n"


def _has_values(manifest: Manifest) -> bool:
    return manifest.file(WEIGHTS) is not None


def _base_lines(manifest: Manifest, base: Pretrained | None) -> list[str]:
    if base is None:
        loaded = [
            "from opentrans_cli.clip.source import load_clip\n",
            f"state = load_clip({manifest.base.source!a}).model.visual.state_dict()",
        ]
    else:
        loaded = [
            "import open_clip\n",
            f"state = open_clip.create_model({base.name!r}, pretrained={base.tag!r}).visual.state_dict()",
        ]
    return ["", *loaded, "for name, mask in masks.items():", "    state[name] = state[name] * mask"]


def pull_line(repo: str, revision: str | None, *, base: str | None = None) -> str:
    """The command that downloads the bundle into the folder `subnet`; one of masks alone is completed from `base`."""
    where = repo if revision is None else f"{repo}@{revision}"
    values = "" if base is None else f"--base {shlex.quote(printable(base))} "
    return f"opentrans pull {shlex.quote(printable(where))} {values}--out subnet\n"


def _open_clip(where: str) -> str:
    return (
        "import open_clip\n\n"
        f"model, _, preprocess = open_clip.create_model_and_transforms({where!a})\n"
        f"tokenizer = open_clip.get_tokenizer({where!a})\n"
    )


def fence(language: str, code: str) -> str:
    """`code`, whole lines, as a block of Markdown; no line of it may begin with four backticks."""
    return f"````{language}\n{code}````"
