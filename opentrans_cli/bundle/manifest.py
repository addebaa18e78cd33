"""The content of `manifest.json`: the base, the pattern, all layers and files, and the steps that made the bundle.

The dataclasses are the format of version 1; `artifacts.schema.json` states the same for other programs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

from opentrans_cli.errors import BundleError
from opentrans_cli.files.records import Record, expect_keys, require, wrong

FORMAT = "opentrans-bundle"
VERSION = 1
DTYPES = ("float32", "float16", "bfloat16")
MAX_WEIGHTS = 2**33  # per bundle: 32 GiB as float32, far above any image encoder, far below an overflow

LAYER_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
# The only names a bundle can declare, so that no manifest can point anywhere else.
FILE_NAME = re.compile(
    r"(mask|weights|rounds|round_weights|alpha|segmentor)\.safetensors|README\.md|reports/[a-z0-9][a-z0-9._-]*\.(json|png)"
)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
SHA256 = re.compile(r"[0-9a-f]{64}")
# Names of verbs, patterns and frameworks are looked up in fixed tables and never imported.
PLAIN_NAME = re.compile(r"[a-z0-9][a-z0-9_.:-]*")
MAX_NAME = 200  # characters

_PREPROCESS = ("size", "mean", "std", "interpolation", "resize_mode")


@dataclass(frozen=True)
class Base(Record):
    """The dense CLIP image encoder a subnet was cut from."""

    source: str  # as the user gave it: "RN50-quickgelu:openai", "tiny", a path, "hf://org/name@revision"
    architecture: str  # open_clip name, "RN50-quickgelu"
    model_cfg: dict[str, Any]  # open_clip configuration; enough to build the architecture without a download
    digest: str  # `tower_digest` of the dense visual tower; a mask fits no other base
    # size (pixels, or [height, width]), mean and std (per channel), interpolation, resize_mode
    preprocess: dict[str, Any]
    activation: str  # "quickgelu" or "gelu"

    def check(self) -> None:
        _check_pattern(DIGEST, self.digest, "base.digest")
        expect_keys(self.preprocess, _PREPROCESS, "base.preprocess")
        size = self.preprocess["size"]
        sides = size if isinstance(size, list) and len(size) == 2 else [size]
        positive = all(type(side) is int and 0 < side <= 2**16 for side in sides)
        require(positive, "base.preprocess.size", "is neither a number of pixels nor [height, width]")
        for name in ("mean", "std"):
            values = self.preprocess[name]
            numbers = isinstance(values, list) and all(type(value) in (int, float) for value in values)
            require(numbers and len(values) == 3, f"base.preprocess.{name}", "is not three numbers")
        require(min(self.preprocess["std"]) > 0, "base.preprocess.std", "is not positive")
        for name in ("interpolation", "resize_mode"):
            require(isinstance(self.preprocess[name], str), f"base.preprocess.{name}", "is not text")


@dataclass(frozen=True)
class LayerEntry(Record):
    """One prunable layer."""

    name: str  # open_clip name inside the visual tower, "layer1.0.conv1"
    shape: tuple[int, ...]  # of its weight
    dtype: str  # in which its kept values are stored: "float32", "float16" or "bfloat16"
    kept: int  # weights where the mask is True
    total: int  # all weights

    def check(self) -> None:
        _check_pattern(LAYER_NAME, self.name, "layers[].name")
        where = f"layer {self.name!r}"
        require(self.dtype in DTYPES, where, f"has the unknown dtype {self.dtype!r}")
        require(0 < len(self.shape) <= 8, where, "has a shape of no or more than 8 dimensions")
        require(all(0 < side <= MAX_WEIGHTS for side in self.shape), where, "has a shape out of range")
        require(prod(self.shape) <= MAX_WEIGHTS, where, f"has more than {MAX_WEIGHTS} weights")
        require(self.total == prod(self.shape), where, "has a total that is not the product of its shape")
        require(0 <= self.kept <= self.total, where, "keeps less than none or more than all of its weights")


@dataclass(frozen=True)
class FileEntry(Record):
    """One file of the bundle."""

    name: str  # path inside the bundle, with forward slashes
    sha256: str  # hex
    bytes: int

    def check(self) -> None:
        _check_pattern(FILE_NAME, self.name, "files[].name")
        _check_pattern(SHA256, self.sha256, f"sha256 of {self.name!r}")
        require(0 <= self.bytes <= 2**40, f"size of {self.name!r}", "is out of range")


@dataclass(frozen=True)
class Step(Record):
    """One command that made or measured the bundle."""

    verb: str  # "prune", "analyze", ...
    options: dict[str, Any]  # every option, resolved
    seed: int | None
    versions: dict[str, str]  # package -> version
    data: str | None  # fingerprint of the data set, None without data
    parent: str | None  # digest of the bundle it started from; None for the first step
    metrics: dict[str, Any]

    def check(self) -> None:
        _check_pattern(PLAIN_NAME, self.verb, "steps[].verb")
        require(self.seed is None or 0 <= self.seed < 2**64, f"seed of step {self.verb!r}", "is out of range")
        if self.parent is not None:
            _check_pattern(DIGEST, self.parent, f"parent of step {self.verb!r}")


@dataclass(frozen=True)
class SegmentorRecord(Record):
    """The segmentation model a subnet was fine-tuned in; its tensors beyond the tower are in
    `segmentor.safetensors`.
    """

    framework: str
    options: dict[str, Any]
    classes: tuple[tuple[str, ...], ...]  # synonyms of each class, the first is its name
    seen: tuple[str, ...]  # names of the classes with training labels
    templates: tuple[str, ...]  # prompts, "{}" stands for the class

    def check(self) -> None:
        _check_pattern(PLAIN_NAME, self.framework, "segmentor.framework")
        # There are no classes directly after `transfer`, when the head has not been trained yet.
        require(all(self.classes), "segmentor.classes", "has a class without a name")
        names = {synonyms[0] for synonyms in self.classes}
        for name in self.seen:
            require(name in names, "segmentor.seen", f"names {name!r}, which is no class")
        for template in self.templates:
            good = template.count("{}") == 1 and template.count("{") == template.count("}") == 1
            require(good, "segmentor.templates", f"has {template!r}, which lacks a single {{}} for the class")


@dataclass(frozen=True)
class Manifest(Record):
    """Everything a bundle says about itself."""

    base: Base
    pattern: str  # "unstructured", "2:4", ...
    target_sparsity: float  # asked for: removed / prunable, in [0, 1]
    achieved_sparsity: float  # 1 - kept / total
    layers: tuple[LayerEntry, ...]
    files: tuple[FileEntry, ...]  # all but manifest.json
    steps: tuple[Step, ...]  # oldest first
    segmentor: SegmentorRecord | None
    version: int = VERSION

    @property
    def kept(self) -> int:
        """Prunable weights that are kept."""
        return sum(layer.kept for layer in self.layers)

    @property
    def total(self) -> int:
        """Prunable weights, kept or not."""
        return sum(layer.total for layer in self.layers)

    def file(self, name: str) -> FileEntry | None:
        """The entry of one file, None if the bundle does not have it."""
        return next((entry for entry in self.files if entry.name == name), None)

    def check(self) -> None:
        require(self.version == VERSION, "version", f"is {self.version}, not {VERSION}")
        _check_pattern(PLAIN_NAME, self.pattern, "pattern")
        require(0 <= self.target_sparsity <= 1, "target_sparsity", "is not in [0, 1]")
        require(len(self.layers) > 0, "layers", "is empty")
        _check_distinct((layer.name for layer in self.layers), "layers")
        require(self.total <= MAX_WEIGHTS, "layers", f"have more than {MAX_WEIGHTS} weights")
        exact = 1 - self.kept / self.total
        agrees = abs(self.achieved_sparsity - exact) < 1e-9
        require(agrees, "achieved_sparsity", f"is not {exact}, as the layers say")
        _check_distinct((entry.name for entry in self.files), "files")
        require(self.file("mask.safetensors") is not None, "files", "lack 'mask.safetensors'")
        if self.file("round_weights.safetensors") is not None:
            for name in ("weights.safetensors", "rounds.safetensors"):
                require(self.file(name) is not None, "files", f"have 'round_weights.safetensors' without {name!r}")
        headless = self.file("segmentor.safetensors") is None
        require(headless or self.segmentor is not None, "segmentor", "is null although its tensors are declared")
        for step in self.steps[1:]:
            require(step.parent is not None, f"step {step.verb!r}", "does not name its parent")

    def to_json(self) -> dict[str, Any]:
        """The document of `manifest.json`."""
        return {"format": FORMAT, **super().to_json()}

    @classmethod
    def from_json(cls, document: object, where: str = "manifest.json") -> Manifest:
        """The manifest in a parsed `manifest.json`.

        Raises BundleError if it is wrong; for a newer version the message asks the user to upgrade.
        """
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise BundleError(f'not the manifest of a bundle: {where} has no "format": "{FORMAT}"; pass a bundle')
        version = document.get("version")
        if type(version) is int and version > VERSION:
            raise BundleError(
                f"bundle of version {str(version)[:20]}, this program reads {VERSION}: {where}; upgrade opentrans"
            )
        rest = {key: value for key, value in document.items() if key != "format"}
        return super().from_json(rest, where)


def _check_pattern(pattern: re.Pattern[str], text: str, where: str) -> None:
    if not pattern.fullmatch(text) or len(text) > MAX_NAME:
        raise wrong(where, f"is {text[:MAX_NAME]!r}, which is not allowed")


def _check_distinct(names: Iterable[str], where: str) -> None:
    seen: set[str] = set()
    for name in names:
        require(name not in seen, where, f"has {name!r} twice")
        seen.add(name)
