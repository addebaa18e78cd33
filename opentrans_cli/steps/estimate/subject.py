"""What `finetune --estimate` counts: the segmentor of a bundle, or a fresh one around a tower without weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from opentrans_cli.assets import class_list_file
from opentrans_cli.bundle.hub.source import local_bundle
from opentrans_cli.bundle.layout import WEIGHTS
from opentrans_cli.bundle.manifest import Base
from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.clip.architecture import meta_visual
from opentrans_cli.clip.layers import candidates, convolutions
from opentrans_cli.clip.source import is_local, load_clip, named_config
from opentrans_cli.datasets.class_file import read_classes
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.errors import OptionError, SourceError
from opentrans_cli.frameworks.base import BACKBONE
from opentrans_cli.reporter import Reporter
from opentrans_cli.source_name import HUB, plain_source
from opentrans_cli.steps.finetune.options import FinetuneOptions
from opentrans_cli.steps.samples import open_samples
from opentrans_cli.steps.segmentors.built import BuiltSegmentor, segmentor_to_train
from opentrans_cli.steps.segmentors.words import text_class_indices
from opentrans_cli.steps.sources import Tower, bundle_tower
from opentrans_cli.steps.training_data import seen_ids
from opentrans_cli.training.costs.paper import CONVOLUTIONS, FROZEN_LAYERS, MEDIAN_LAYER, SIZE

ARCHITECTURE = "RN50-quickgelu"
COCO = "COCO, 133 classes of its panoptic task, train2017"
COCO_IMAGES = 118_287

# These replace alphas that are not published: for heavy-tailed, median and light-tailed layers, in this order.
_HEAVY, _MEDIAN, _LIGHT = 2.0, 3.0, 4.0

_NO_WEIGHTS = f"sha256:{64 * '0'}"


@dataclass(frozen=True)
class Classes:
    """The classes and crops of the training data, as far as they change the cost."""

    origin: str  # name of the data set
    class_indices: tuple[int, ...]  # class of each text; only seen classes take part
    images: int  # in the data set
    crop: int  # side of the crops in pixels

    @property
    def count(self) -> int:
        """Number of classes."""
        return max(self.class_indices) + 1


def classes_of(dataset: str | None, data: DatasetOptions | None, crop: int | None) -> Classes:
    """The seen classes of a data set, read without its pictures; None: COCO, with the papers' crop.

    Raises OptionError or DataError.
    """
    if dataset is None:
        coco = read_classes(class_list_file("coco")).vocabulary
        return Classes(COCO, text_class_indices(coco), COCO_IMAGES, crop or SIZE[0])
    samples = open_samples(dataset, data or DatasetOptions())
    seen = tuple(samples.vocabulary.classes[index] for index in seen_ids(samples))
    return Classes(dataset, text_class_indices(Vocabulary(seen)), len(samples), crop or samples.default_crop)


def bundle_segmentor_of(
    bundle: Path | str, options: FinetuneOptions, *, base: str | None, reporter: Reporter
) -> BuiltSegmentor:
    """The bundle's segmentor, else a fresh one around its tower. Raises BundleError, SourceError or OptionError."""
    opened = open_bundle(local_bundle(bundle, reporter))
    _check_here(opened, base)
    tower = bundle_tower(opened, base=base, reporter=reporter)
    return segmentor_to_train(tower, options.framework, seed=options.seed)


def segmentor_without_weights(options: FinetuneOptions, *, base: str | None) -> BuiltSegmentor:
    """A fresh segmentor around a tower of the architecture `base`, on the meta device, nothing pruned.

    base: a name of open_clip (no weights are loaded), `tiny`, or a local source; None: RN50. Raises SourceError
    or OptionError.
    """
    architecture, config = _architecture(base or ARCHITECTURE)
    # No picture is read and no weight is compared, so the digest and the preprocessing are not needed.
    preprocess = {"size": SIZE[0], "mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "", "resize_mode": ""}
    record = Base(base or ARCHITECTURE, architecture, dict(config), _NO_WEIGHTS, preprocess, "")
    with torch.device("meta"):
        tower = Tower(record, {}, {}, built=meta_visual(config))
        return segmentor_to_train(tower, options.framework, seed=options.seed)


def published_alphas(built: BuiltSegmentor, options: FinetuneOptions) -> dict[str, float]:
    """Numbers to rank layers without weights by, with names inside the module; none for layers that are always fixed.

    For RN50 the paper's list is the heavy-tailed half. For any other tower they are good only for a random choice.
    Raises OptionError if the list does not say what to freeze: for another tower, another share of the layers, or
    layers of the head.
    """
    layers = () if built.framework.frozen_trunk else convolutions(built.tower.visual)
    unknown = None
    if layers and not is_published_trunk(built):
        unknown = f"the layers of {built.tower.base.architecture}"
    elif layers and options.freeze_ratio is not None:
        unknown = f"a share of {options.freeze_ratio:g}"
    elif options.resolved_scope != "trunk":
        unknown = "the head's layers"
    if unknown is None:
        ranks = dict.fromkeys(layers, _LIGHT) | dict.fromkeys(FROZEN_LAYERS, _HEAVY) | {MEDIAN_LAYER: _MEDIAN}
        return {f"{BACKBONE}{layer}": ranks[layer] for layer in layers}
    if options.resolved_freeze in ("heavy", "light"):
        raise OptionError(f"no alphas without weights: {unknown}; give a bundle, or --freeze random, or none")
    names = [f"{BACKBONE}{layer}" for layer in layers]
    if options.resolved_scope != "trunk":
        names += [layer.name for layer in candidates(built.module) if not layer.name.startswith(BACKBONE)]
    return {name: _HEAVY + place for place, name in enumerate(names)}


def is_published_trunk(built: BuiltSegmentor) -> bool:
    """Whether the layers of the trunk are those that the paper ranked."""
    layers = convolutions(built.tower.visual)
    return len(layers) == CONVOLUTIONS and {*FROZEN_LAYERS, MEDIAN_LAYER} <= set(layers)


def _architecture(source: str) -> tuple[str, Mapping[str, Any]]:
    source = plain_source(source)
    if source.startswith(HUB):
        raise SourceError(f"an estimate downloads nothing: {source}; name an architecture of open_clip such as RN50")
    if source == "tiny" or is_local(source):
        clip = load_clip(source)
        return clip.architecture, clip.model_cfg
    name = source.partition(":")[0]
    return name, named_config(name)


def _check_here(bundle: Bundle, base: str | None) -> None:
    """An estimate downloads nothing, so the base of a bundle that holds only masks must be on this disk."""
    source = base or bundle.manifest.base.source
    if not bundle.has(WEIGHTS) and not (source == "tiny" or is_local(source)):
        raise SourceError(
            f"an estimate downloads nothing, and {bundle.path} holds masks alone; name a file with --base"
        )
