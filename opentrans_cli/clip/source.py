"""Load a CLIP from its source.

    tiny                      the embedded model
    NAME[:TAG]                open_clip's architecture and weights; TAG defaults to `openai`
    NAME:FILE                 open_clip's architecture, weights from a local file
    path to a file            a checkpoint of any kind; the tensors tell the architecture (ResNets, OpenAI's ViTs)
    path to a folder          with open_clip_config.json (open_clip's local-dir layout)
    hf://org/name[@revision]  the same layout on the Hugging Face Hub; nothing else of the repo is fetched

`source_name.py` lists other spellings of these. Bundles are sources as well, but they do not need open_clip:
`steps/sources.py` looks for them first. A local source makes no network call, and no pickle is executed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.assets import tiny_config, tiny_weights
from opentrans_cli.checkpoints.pruned import ZEROS, open_pruned
from opentrans_cli.checkpoints.reader import Checkpoint, open_checkpoint
from opentrans_cli.checkpoints.state_names import shared_prefix
from opentrans_cli.clip.architecture import (
    OPENAI_MARKS,
    NarrowTower,
    build_clip,
    fit_state,
    infer_config,
    load_state,
    plain_shapes,
    with_sizes_of,
)
from opentrans_cli.clip.key_tables import find_tower, find_towers
from opentrans_cli.clip.layers import split_packed
from opentrans_cli.clip.open_clip import open_clip_architectures, open_clip_config, open_clip_table
from opentrans_cli.clip.preprocess import Preprocess
from opentrans_cli.clip.tokenizer import Tokenizer
from opentrans_cli.errors import SourceError, did_you_mean
from opentrans_cli.files.near import near_path
from opentrans_cli.files.slots import FLOATS, decoded
from opentrans_cli.quiet import quiet_libraries
from opentrans_cli.source_name import HUB, plain_source

if TYPE_CHECKING:
    from torch import Tensor

# Whether a source names weights published by open_clip, and where they are on the Hugging Face Hub.


class Published(NamedTuple):
    """Weights in open_clip's table."""

    name: str  # architecture, "RN50-quickgelu"
    tag: str  # "openai"
    repo: str | None  # "timm/resnet50_clip.openai"; None for weights that are not on the Hub
    files: tuple[str, ...]  # names that the file of the weights may have there


def published(source: str) -> Published | None:
    """The entry of the source NAME[:TAG]; None for any other source. It only reads open_clip's table."""
    source = plain_source(source)
    name, _, tag = source.partition(":")
    if source == "tiny" or is_local(source) or (tag and is_local(tag)):
        return None
    record = _record(name, tag or DEFAULT_TAG)
    return _published(name, tag or DEFAULT_TAG, record) if record else None


def all_published() -> tuple[Published, ...]:
    """All entries of open_clip's table, in its order."""
    names = open_clip_table().list_pretrained()
    return tuple(_published(name, tag, _record(name, tag)) for name, tag in names)


def _published(name: str, tag: str, record: Mapping[str, Any]) -> Published:
    repo, file = _repo_and_file(record)
    return Published(name, tag, repo or None, _weight_files(file))


def _record(name: str, tag: str) -> Mapping[str, Any]:
    """open_clip's record of published weights: place, preprocessing, activation; {} if there are none of this name."""
    record: Mapping[str, Any] = open_clip_table().get_pretrained_cfg(name, tag)
    return record


def _repo_and_file(record: Mapping[str, Any]) -> tuple[str, str]:
    """The repo on the Hub ("" for weights that are elsewhere) and the file in it ("" for open_clip's usual names)."""
    owner, _, rest = record.get("hf_hub", "").partition("/")
    name, _, file = rest.partition("/")
    return f"{owner}/{name}".strip("/"), file


def _weight_files(file: str) -> tuple[str, ...]:
    """Names of the file with the weights of a repo, the first that is there counts; `file` as the record has it."""
    return (f"{Path(file).stem}.safetensors", file) if file else _HUB_WEIGHTS[:2]


DEFAULT_TAG = "openai"
"""The weights of an architecture that is named without a tag."""

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".th", ".bin", ".ckpt", ".pkl", ".index.json")
_OTHER_SOURCES = (
    "use `tiny`, a bundle folder, a local checkpoint (FILE or NAME:FILE), a folder with open_clip_config.json, "
    "open_clip's NAME:TAG, or hf://org/name"
)
_NO_FOLDER = (
    "neither a bundle nor an open_clip folder: {} (needs manifest.json, or open_clip_config.json with model_cfg)"
)
_CONFIG = "open_clip_config.json"
_HUB_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors")
_MORE_WEIGHTS = (  # in folders on this disk
    *("open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.pth", "pytorch_model.bin", "pytorch_model.pth"),
    *("open_clip_model.safetensors.index.json", "model.safetensors.index.json", "pytorch_model.bin.index.json"),
)
_IMAGE_SIZE = 224  # pixels, where a configuration does not say it
_NO_WEIGHTS = ("attn_mask", "position_ids")  # constants that TorchScript and older libraries save


@dataclass(frozen=True, kw_only=True)
class ClipRecord:
    """What is known about a CLIP apart from its tensors."""

    source: str  # as the user gave it
    architecture: str  # open_clip name, or "tiny", or "ModifiedResNet" where only tensors were given
    model_cfg: dict[str, Any]
    preprocess: Preprocess
    note: str | None = None  # what had to be assumed; a step reports it

    @property
    def activation(self) -> str:
        """Activation of the text tower; OpenAI's weights need `quick_gelu`."""
        return "quick_gelu" if self.model_cfg.get("quick_gelu", False) else "gelu"


@dataclass(frozen=True)
class LoadedClip(ClipRecord):
    """A CLIP in eval mode, float32, on the CPU."""

    model: Any  # open_clip CLIP: .visual, .encode_image, .encode_text
    tokenizer: Tokenizer
    read_tokens: tuple[int, ...] | None = None  # the tokens used in training, if they are known to be few


@dataclass(frozen=True)
class ImageTower(ClipRecord):
    """The image tower of a CLIP as stored in its file: no model is built, and torch is not loaded."""

    state: Mapping[str, NDArray[Any]]  # float32, by names inside the tower, in module order, one per layer


def is_local(source: str) -> bool:
    """Whether `source` names something on this disk: it has a path separator, a weight suffix, or exists."""
    source = plain_source(source)
    if source.startswith(HUB):
        return False
    return "/" in source or source.endswith(WEIGHT_SUFFIXES) or Path(source).exists()


class _Place(NamedTuple):
    """A checkpoint with a CLIP, and what is known about it from elsewhere."""

    path: Path
    architecture: str = "ModifiedResNet"
    model_cfg: dict[str, Any] | None = None  # None: it is found from the tensors
    given: Mapping[str, Any] = {}  # its preprocessing
    note: str | None = None  # what is to be said about `model_cfg`
    local: bool = True  # False: it is of the Hub, where files of its tokenizer may be asked for


def load_clip(source: str) -> LoadedClip:
    """Load the CLIP named by `source` (see above). Raises SourceError in one line for everything that can go wrong."""
    return _load_tiny() if source == "tiny" else _load_file(_place(source), source)


def read_tower(source: str) -> ImageTower | None:
    """Only the image tower of a CLIP; None where open_clip has to build or resize it.

    Raises SourceError as `load_clip` does, except for errors in the text tower.
    """
    place = _Place(tiny_weights(), "tiny", tiny_config()["model_cfg"]) if source == "tiny" else _place(source)
    checkpoint, names, notes = _clip_in(place.path)
    with _telling_others(checkpoint):
        model_cfg = _config({own: checkpoint.tensors[name] for name, own in names.items()}, place, notes)
    inside = {name: own.removeprefix("visual.") for name, own in names.items() if own.startswith("visual.")}
    stored = {own: checkpoint.tensors[name] for name, own in inside.items()}
    shapes = plain_shapes(model_cfg)
    if shapes is None or any(each.dtype.startswith("float") and each.dtype not in FLOATS for each in stored.values()):
        return None
    for positions in ("positional_embedding", "attnpool.positional_embedding"):
        if positions in shapes and positions in stored and stored[positions].shape != shapes[positions]:
            return None
    state = {own: decoded(checkpoint.array(name), checkpoint.tensors[name].dtype) for name, own in inside.items()}
    for name, own in inside.items():
        if not np.isfinite(state[own]).all():
            raise SourceError(
                f"tensor holds NaN or infinite values: '{name}' in {place.path}; repair or replace the checkpoint"
            )
    with _telling_others(checkpoint):
        fitted = fit_state(split_packed(state), model_cfg, origin=str(place.path))
    return ImageTower(
        state=fitted,
        source=source,
        architecture=place.architecture,
        model_cfg=model_cfg,
        preprocess=_preprocess(model_cfg, place.given),
        note="; ".join(notes) or None,
    )


def _place(source: str) -> _Place:
    """Where the checkpoint of a source is, after a download if it is on the Hub."""
    source = plain_source(source)
    if source.startswith(HUB):
        return _in_folder(_download(source), source=source)._replace(local=False)
    name, _, tag = source.partition(":")
    if tag and is_local(tag) and not is_local(name):
        return _Place(Path(tag), name, named_config(name))
    if not is_local(source):
        return _published_place(name, tag or DEFAULT_TAG)
    path = Path(source)
    if not path.exists():
        raise SourceError(f"no such file or folder: {source}; {_OTHER_SOURCES}{near_path(path)}")
    return _in_folder(path, source=source) if path.is_dir() else _Place(path)


def _published_place(name: str, tag: str) -> _Place:
    model_cfg = named_config(name)
    tags, record = open_clip_table().list_pretrained_tags_by_model(name), _record(name, tag)
    if not record:
        raise SourceError(
            f"open_clip has no weights '{tag}' for {name} (known: {', '.join(tags) or 'none'}); "
            f"choose a tag, or {_OTHER_SOURCES}{did_you_mean(tag, tags)}"
        )
    note = None
    # Architectures have a second name that ends in -quickgelu; open_clip 3 builds what is named, whatever the weights.
    if record.get("quick_gelu") and not model_cfg.get("quick_gelu"):
        model_cfg = {**model_cfg, "quick_gelu": True}
        note = f"{name}:{tag} is built with QuickGELU, with which these weights were trained"
    repo, file = _repo_and_file(record)
    try:
        with quiet_libraries():
            path = _from_hub(repo, _weight_files(file))
        if path is None:
            raise FileNotFoundError(repo)
    except Exception as error:  # hub, network and file errors come in many classes
        reason = type(error).__name__
        raise SourceError(f"weights cannot be downloaded: {name}:{tag} ({reason}); {_OTHER_SOURCES}") from error
    return _Place(path, name, model_cfg, record, note, local=False)


def _clip_in(path: Path) -> tuple[Checkpoint, dict[str, str], list[str]]:
    """A checkpoint, the tensors of the CLIP in it by open_clip's names, and what has to be said about it.

    The prefix of the image tower's names is removed, and tensors outside the CLIP are left out. Raises SourceError if
    the file cannot be read, or holds quantised weights.
    """
    checkpoint = open_checkpoint(path)
    checkpoint.check_plain()
    tower = find_tower(checkpoint.tensors)
    known = tower is not None and tower.layout.name == "clip"
    below = tower.parent if tower is not None and known else shared_prefix(checkpoint.tensors)
    inside = {name: name.removeprefix(below) for name in checkpoint.tensors if name.startswith(below)}
    left = len(checkpoint.tensors) - len(inside)
    notes = [
        checkpoint.note,
        f"{path}: the CLIP is below '{below}', {left} tensors beside it are left" if left else None,
        f"{path}: the masks beside the weights are left; `opentrans import` reads them" if checkpoint.masks else None,
    ]
    names = {name: own for name, own in inside.items() if own.rpartition(".")[2] not in _NO_WEIGHTS}
    return checkpoint, names, [note for note in notes if note]


@contextmanager
def _telling_others(checkpoint: Checkpoint) -> Iterator[None]:
    """If the tensors of a CLIP do not fit, because they are masks or of several CLIPs, the error says that instead."""
    try:
        yield
    except NarrowTower:
        raise
    except SourceError as error:
        path, chosen = checkpoint.path, find_tower(checkpoint.tensors)
        form = open_pruned(path).format
        if form != ZEROS:
            raise SourceError(
                f"no plain weights but masks in the checkpoint: {path} ({form}); make a bundle of it with "
                f"`opentrans import {path} --base CLIP`, where CLIP is what it was pruned from"
            ) from error
        parents = sorted({f"'{tower.parent}'" for tower in find_towers(checkpoint.tensors)})
        if len(parents) > 1 and (chosen is None or not chosen.parent):
            raise SourceError(
                f"several towers in the checkpoint: {path}, below {', '.join(parents)}; save the tensors below one of "
                "them as a file of its own"
            ) from error
        raise


def _config(state: Mapping[str, Any], place: _Place, notes: list[str]) -> dict[str, Any]:
    """The configuration, found from the tensors if it is not known; what had to be assumed is added to `notes`."""
    openai = any(mark in state for mark in OPENAI_MARKS)
    if place.model_cfg is None:
        model_cfg = infer_config(state)
        if not openai:
            path = place.path
            notes.append(f"{path}: text activation taken as GELU; for OpenAI's weights give RN50-quickgelu:{path}")
        return model_cfg
    if place.note is not None:
        notes.append(place.note)
    inside = {name.removeprefix("visual."): tensor for name, tensor in state.items() if name.startswith("visual.")}
    model_cfg = with_sizes_of(place.model_cfg, inside)
    old, new = place.model_cfg["vision_cfg"], model_cfg["vision_cfg"]
    changed = [f"{name} {new[name]}, not {old.get(name, 'the usual')}" for name in new if new[name] != old.get(name)]
    if changed:
        notes.append(f"{place.path}: smaller than its architecture, so built with {' and '.join(changed)}")
    if openai and not model_cfg.get("quick_gelu"):
        notes.append(f"{place.path}: OpenAI's own file, so built with QuickGELU and not with GELU")
        return {**model_cfg, "quick_gelu": True}
    return model_cfg


def _finish(model: Any, record: Mapping[str, Any], *, folder: Path | None = None, local: bool = True) -> LoadedClip:
    tokenizer = Tokenizer(record["model_cfg"]["text_cfg"], folder=folder, local=local)
    return LoadedClip(model=model.float().eval(), tokenizer=tokenizer, **record)


def _load_tiny() -> LoadedClip:
    from opentrans_cli.assets import tiny_clip

    config, state, read_tokens = tiny_clip()
    model_cfg = config["model_cfg"]
    model = build_clip(model_cfg)
    load_state(model, state, origin="tiny")
    record = {"source": "tiny", "architecture": "tiny", "model_cfg": model_cfg}
    return replace(_finish(model, {**record, "preprocess": _preprocess(model_cfg, {})}), read_tokens=read_tokens)


def _load_file(place: _Place, source: str) -> LoadedClip:
    """The CLIP in a checkpoint; without `model_cfg` the architecture is found from its tensors."""
    checkpoint, names, notes = _clip_in(place.path)
    state: dict[str, Tensor] = {names[name]: tensor for name, tensor in checkpoint.finite(list(names)).items()}
    with _telling_others(checkpoint):
        model_cfg = _config(state, place, notes)
        model = build_clip(model_cfg)
        weights = {key: value for key, value in state.items() if key not in OPENAI_MARKS}
        notes += [note for note in [load_state(model, weights, origin=str(place.path))] if note]
    record = {
        "source": source,
        "architecture": place.architecture,
        "model_cfg": model_cfg,
        "preprocess": _preprocess(model_cfg, place.given),
        "note": "; ".join(notes) or None,
    }
    return _finish(model, record, folder=place.path.parent, local=place.local)


def _in_folder(folder: Path, *, source: str) -> _Place:
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        model_cfg = dict(config["model_cfg"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{_NO_FOLDER.format(source)}; {_OTHER_SOURCES}") from error
    names = (*_HUB_WEIGHTS, *_MORE_WEIGHTS)
    weights = next((folder / name for name in names if (folder / name).is_file()), None)
    if weights is None:
        raise SourceError(f"no weights in the folder: {source}; put {_HUB_WEIGHTS[0]} beside open_clip_config.json")
    return _Place(weights, folder.name, model_cfg, config.get("preprocess_cfg", {}))


def _preprocess(model_cfg: dict[str, Any], given: Mapping[str, Any]) -> Preprocess:
    """The image size of the architecture, and other values from the checkpoint or, where it has none, from OpenAI."""
    size = model_cfg["vision_cfg"].get("image_size", _IMAGE_SIZE)
    sides = set(size) if isinstance(size, list | tuple) else {size}
    if len(sides) != 1:
        raise SourceError(f"image tower of pictures that are no squares: image_size {list(size)}; name another CLIP")
    default = Preprocess(size=sides.pop())
    return Preprocess(
        size=default.size,
        mean=_three("mean", given.get("mean") or default.mean),
        std=_three("std", given.get("std") or default.std),
        interpolation=given.get("interpolation") or default.interpolation,
        resize_mode=given.get("resize_mode") or default.resize_mode,
    )


def _three(name: str, value: Any) -> tuple[float, ...]:
    """A value for each channel; one number stands for all three, as in open_clip."""
    values = tuple(value) if isinstance(value, list | tuple) else (value,) * 3
    if len(values) != 3 or not all(isinstance(each, int | float) for each in values):
        raise SourceError(f"not three numbers: {name} {value!r}; check `preprocess_cfg` in the configuration")
    return values


def named_config(name: str) -> dict[str, Any]:
    """open_clip's configuration of an architecture, without weights. Raises SourceError for an unknown name."""
    config = open_clip_config(name)
    if config is None:
        near = did_you_mean(name, open_clip_architectures())
        raise SourceError(f"open_clip has no architecture: '{name}'; {_OTHER_SOURCES}{near}")
    return config


def _download(source: str) -> Path:
    """The folder in the Hub's own cache with the configuration and one file of weights, both of the same commit."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    repo, _, revision = source.removeprefix(HUB).partition("@")
    try:
        with quiet_libraries():
            folder = Path(hf_hub_download(repo, _CONFIG, revision=revision or None)).parent
            _from_hub(repo, _HUB_WEIGHTS, folder.name)
    except Exception as error:  # hub, network and file errors come in many classes
        if isinstance(error, EntryNotFoundError) and not isinstance(error, FileNotFoundError):
            raise SourceError(f"{_NO_FOLDER.format(source)}; {_OTHER_SOURCES}") from error
        raise SourceError(f"cannot be downloaded: {source} ({type(error).__name__}); {_OTHER_SOURCES}") from error
    return folder


def _from_hub(repo: str, names: Sequence[str], revision: str | None = None) -> Path | None:
    """The first of the files `names` that a repo has, in the Hub's own cache; None if it has none of them.

    What is cached is not asked for; else the Hub is asked once, as its client would try again for a minute. Raises
    what the client raises.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    for name in names:
        cached = try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
    for name in names:
        try:
            get_hf_file_metadata(hf_hub_url(repo, name, revision=revision), timeout=10)
        except EntryNotFoundError as error:
            if isinstance(error, FileNotFoundError):  # not in the cache, and the Hub does not answer
                raise
            continue
        return Path(hf_hub_download(repo, name, revision=revision))
    return None
