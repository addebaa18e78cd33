"""models: the sources that can be named, and which of them lie on this disk; no network is used."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from opentrans_cli.assets import tiny_config, tiny_weights
from opentrans_cli.bundle.folder import MANIFEST
from opentrans_cli.bundle.hub.source import pulled_bundles
from opentrans_cli.bundle.layout import OPEN_CLIP_CONFIG
from opentrans_cli.clip.channels import channel_groups
from opentrans_cli.clip.open_clip import open_clip_config
from opentrans_cli.clip.source import WEIGHT_SUFFIXES, all_published
from opentrans_cli.errors import OptionError, did_you_mean
from opentrans_cli.files.folder_size import folder_size
from opentrans_cli.reporter import LOGGED, Reporter
from opentrans_cli.source_name import HUB, plain_source

FORMS = {
    "tiny": "the embedded model",
    "NAME[:TAG]": "open_clip's architecture and weights; openai if TAG is left out",
    "NAME:FILE": "open_clip's architecture, weights from a file",
    "FILE": "a checkpoint of any kind",
    "FOLDER": "a bundle, or a folder with open_clip_config.json",
    "hf://org/name[@revision]": "either of these on the Hugging Face Hub",
    "hf-hub:, local-dir:": "open_clip's spellings of the Hub and of a folder",
    "ViT-B/32, RN50x4": "OpenAI's spellings of names",
}
"""How a source is named, and what it is then."""

_EVERY_TOWER = ("unstructured", "layerwise", "N:M")
"""Patterns that look at one layer at a time, and so fit every tower."""


@dataclass(frozen=True)
class NamedSource:
    """A source, as it is typed."""

    source: str
    kind: str  # "embedded", "open_clip", "bundle", "folder" or "file"
    family: str | None  # of the image tower; None: only its tensors tell
    path: str | None  # where it lies on this disk
    bytes: int | None  # that it takes there

    @property
    def cached(self) -> bool:
        """Whether it can be used without a network."""
        return self.path is not None


@dataclass(frozen=True)
class TowerFamily:
    """Image towers of one kind, and how they can be pruned."""

    name: str
    sources: int  # of those listed
    patterns: tuple[str, ...]  # of `prune --pattern`


@dataclass(frozen=True)
class ModelsResult:
    """The sources that were found."""

    sources: tuple[NamedSource, ...]
    families: tuple[TowerFamily, ...]
    forms: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """The models report of `artifacts.schema.json`."""
        document = asdict(self)
        for listed, each in zip(document["sources"], self.sources, strict=True):
            listed["cached"] = each.cached
        return document


def models(word: str | None = None, *, cached: bool = False, reporter: Reporter | None = None) -> ModelsResult:
    """The sources that can be named: the embedded one, open_clip's, and what lies in the caches and the current folder.

    word: only sources in whose name or family it occurs, in upper or lower case. cached: only those on this disk. The
    patterns of a family are those that fit all its towers. Raises OptionError if `word` occurs nowhere.
    """
    reporter = reporter or LOGGED
    word = None if word is None else plain_source(word)
    found = [(each, config) for each, config in _all(reporter) if each.cached or not cached]
    if word is not None:
        found = [(each, config) for each, config in found if _has(each, word)]
        if not found:
            names = {part for each, _ in _all(reporter) for part in (each.source, each.source.partition(":")[0])}
            raise OptionError(
                f"no source{' on this disk' if cached else ''} has this in its name: '{word}'; "
                f"`opentrans models` lists them{did_you_mean(word, names)}"
            )
    counts = Counter(each.family for each, _ in found if each.family is not None)
    patterns: dict[str, list[set[str]]] = {}
    for each, config in found:
        if each.family is not None and config is not None:
            patterns.setdefault(each.family, []).append(set(_patterns(config)))
    families = tuple(
        TowerFamily(name, counts[name], tuple(p for p in (*_EVERY_TOWER, "channel") if all(p in fit for fit in fits)))
        for name, fits in sorted(patterns.items())
    )
    return ModelsResult(tuple(each for each, _ in found), families, FORMS)


def _has(each: NamedSource, word: str) -> bool:
    return any(word.casefold() in text.casefold() for text in (each.source, each.family or "", each.kind))


Found = tuple[NamedSource, Mapping[str, Any] | None]
"""A source, and the configuration of its CLIP."""


def _all(reporter: Reporter) -> Iterator[Found]:
    weights, config = tiny_weights(), tiny_config()["model_cfg"]
    yield NamedSource("tiny", "embedded", tower_family(config), str(weights), weights.stat().st_size), config
    yield from _here()
    yield from _pulled()
    cache = _hub_cache(reporter)
    known = set()
    for entry in all_published():
        held = cache.get(entry.repo or "", {})
        path = next((held[name] for name in entry.files if name in held), None)
        known.add(entry.repo)
        own = open_clip_config(entry.name)
        size = None if path is None else path.stat().st_size
        name = f"{entry.name}:{entry.tag}"
        yield NamedSource(name, "open_clip", tower_family(own), None if path is None else str(path), size), own
    for repo, files in sorted(cache.items()):
        if repo not in known and OPEN_CLIP_CONFIG in files:
            yield _folder(f"{HUB}{repo}", files[OPEN_CLIP_CONFIG].parent)


def _here() -> Iterator[Found]:
    """Bundles, folders in open_clip's layout, and files of weights in the current folder."""
    for path in sorted(Path().iterdir()):
        name = "./tiny" if path.name == "tiny" else path.name
        if os.path.isfile(path / MANIFEST):  # also where the folder may not be read
            yield _bundle(name, path)
        elif os.path.isfile(path / OPEN_CLIP_CONFIG):
            yield _folder(name, path)
        elif path.is_file() and path.name.endswith(WEIGHT_SUFFIXES):
            yield NamedSource(name, "file", None, str(path.resolve()), path.stat().st_size), None


def _pulled() -> Iterator[Found]:
    """Bundles of the Hub in our cache."""
    for name, path in pulled_bundles():
        yield _bundle(name, path)


def _bundle(source: str, path: Path) -> Found:
    config = _model_cfg(path / MANIFEST, "base", "model_cfg")
    return NamedSource(source, "bundle", tower_family(config), str(path.resolve()), folder_size(path).bytes), config


def _folder(source: str, path: Path) -> Found:
    config = _model_cfg(path / OPEN_CLIP_CONFIG, "model_cfg")
    return NamedSource(source, "folder", tower_family(config), str(path.resolve()), folder_size(path).bytes), config


def _model_cfg(file: Path, *keys: str) -> Mapping[str, Any] | None:
    """The configuration in a JSON file; None if there is none, which the command that reads the source will say."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        for key in keys:
            found = found[key]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def _hub_cache(reporter: Reporter) -> dict[str, dict[str, Path]]:
    """By repo in the cache of the Hub's client its files by name, those of the newest snapshot first."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return {}
    if cache.warnings:
        reporter.say(f"{len(cache.warnings)} repos in the Hub's cache are damaged, first: {cache.warnings[0]}")
    found: dict[str, dict[str, Path]] = {}
    for repo in cache.repos:
        if repo.repo_type == "model":
            for revision in sorted(repo.revisions, key=lambda each: each.last_modified):
                found.setdefault(repo.repo_id, {}).update({file.file_name: file.file_path for file in revision.files})
    return found


def tower_family(model_cfg: Mapping[str, Any] | None) -> str | None:
    """What kind of image tower a configuration is of: "ResNet", "ViT", or for timm's its kind, "timm convnext"."""
    vision = (model_cfg or {}).get("vision_cfg")
    if not isinstance(vision, Mapping):
        return None
    name = vision.get("timm_model_name")
    if name is not None:
        return f"timm {str(name).split('_')[0]}"
    return "ResNet" if isinstance(vision.get("layers"), list | tuple) else "ViT"


def _patterns(model_cfg: Mapping[str, Any]) -> tuple[str, ...]:
    """The patterns of `prune` that fit a tower."""
    try:
        channel_groups(model_cfg)
    except OptionError:
        return _EVERY_TOWER
    return (*_EVERY_TOWER, "channel")
