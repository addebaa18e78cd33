"""Segmentors for the steps: built around a bundle's tower, with the text embeddings of a vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from opentrans_cli.bundle.contents import BundleContents
from opentrans_cli.bundle.manifest import SegmentorRecord, Step
from opentrans_cli.clip.layers import arrays, has_layer, tensors
from opentrans_cli.errors import BundleError, OptionError
from opentrans_cli.files.records import json_bytes
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.frameworks.base import BACKBONE, Framework
from opentrans_cli.sparsity.patterns.base import pattern_for
from opentrans_cli.sparsity.selection import Mask
from opentrans_cli.steps.segmentors.call import SegmentorCall
from opentrans_cli.steps.sources import Tower
from opentrans_cli.training.costs.macs import LayerCost

DEFAULT_FRAMEWORK = "deeplabv3"
"""The framework that is trained where neither a bundle nor the user names one."""

TRAINING_FREE = "maskclip"
"""The framework that reads out a source without a segmentor."""


@dataclass(frozen=True)
class BuiltSegmentor:
    """A segmentor around the tower of a bundle."""

    framework: Framework
    options: Any  # the framework's own options, resolved
    module: nn.Module  # a Segmentor, see frameworks/base.py
    tower: Tower  # its `visual` is the module's backbone
    coupled: Mapping[str, Mask] = field(default_factory=dict)  # masks by tensor name, see patterns/base.py

    @property
    def dimension(self) -> int:
        """Length D of the embeddings."""
        return int(self.tower.base.model_cfg["embed_dim"])

    def head(self) -> dict[str, np.ndarray]:
        """Tensors beyond the tower."""
        state = self.module.state_dict()
        return arrays({name: value for name, value in state.items() if not name.startswith(BACKBONE)})

    def tower_tensors(self) -> dict[str, np.ndarray]:
        """The whole tower as it is now, with the parts of the source's tower the segmentor does not use."""
        source = {} if self.tower.bundle is None else self.tower.bundle.tower()
        state = self.module.state_dict()
        used = {k.removeprefix(BACKBONE): v for k, v in state.items() if k.startswith(BACKBONE)}
        return {**source, **arrays(used)}

    def masks(self) -> dict[str, Mask]:
        """Masks by layer name inside `module`, of the layers it has: a framework may leave out the attention pool."""
        inside = {f"{BACKBONE}{layer}": mask for layer, mask in self.tower.masks.items()}
        return {layer: mask for layer, mask in inside.items() if has_layer(self.module, layer)}

    def held(self) -> dict[str, Mask]:
        """Masks of the tensors that the pattern holds at zero beside the layers, by name inside `module`."""
        there = dict(self.module.named_parameters())
        inside = {f"{BACKBONE}{name}": mask for name, mask in self.coupled.items()}
        return {name: mask for name, mask in inside.items() if name in there}

    def costs(self, resolution: tuple[int, int], *, class_indices: tuple[int, ...]) -> tuple[LayerCost, ...]:
        """MACs of what the loss needs for an image of `resolution` (height, width) and embeddings of `class_indices`.

        For frameworks that predict regions that is more than the scores: earlier decoder layers give theirs as well.
        """
        call = SegmentorCall(self.module, self.framework.masks, self.dimension, resolution, class_indices)
        return call.formulas(self.kept_shares())

    def kept_shares(self) -> dict[str, float]:
        """Kept weights / all weights by masked layer inside the module, in [0, 1]."""
        return {layer: int(mask.sum()) / mask.size for layer, mask in self.masks().items()}

    def record(self, classes: Sequence[tuple[str, ...]] = (), *, seen: Sequence[str] = ()) -> SegmentorRecord:
        """What the manifest records: the classes, and the names of those with training labels."""
        options = asdict(self.options)
        return SegmentorRecord(self.framework.name, options, tuple(classes), tuple(seen), self.framework.templates)

    def contents(
        self, step: Step, record: SegmentorRecord, *, report: tuple[str, Mapping[str, Any]], keep_alpha: bool
    ) -> BundleContents:
        """A new bundle made by `step` from the tower's own: same base and masks, tensors as they are now.

        `report` is its name and document. `keep_alpha` says whether the tower's weights, and so its spectra, are still
        those of the parent.
        """
        parent = self.tower.bundle
        assert parent is not None
        manifest = parent.manifest
        return BundleContents(
            base=manifest.base,
            pattern=manifest.pattern,
            target_sparsity=manifest.target_sparsity,
            masks=self.tower.masks,
            tower=self.tower_tensors(),
            steps=(*manifest.steps, step),
            dtype=manifest.layers[0].dtype,
            rounds=parent.rounds(),
            head=self.head(),
            segmentor=record,
            alpha=parent.alpha() if keep_alpha else None,
            reports={report[0]: json_bytes(report[1])},
        )


def build_segmentor(
    tower: Tower, framework: str, *, options: Mapping[str, Any] | None = None, seed: int = 0
) -> BuiltSegmentor:
    """A segmentor with a fresh head around `tower`, whose module is used and changed."""
    chosen: Framework = FRAMEWORKS.load(framework)
    resolved = chosen.options(options)
    coupled = _coupled(tower)  # before the framework removes parts of the tower
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = chosen.build(tower.visual, resolved).eval()
    return BuiltSegmentor(chosen, resolved, module, tower, coupled)


def _coupled(tower: Tower) -> dict[str, Mask]:
    if tower.bundle is None:
        return {}
    return pattern_for(tower.bundle.manifest.pattern, tower.base.model_cfg).coupled(tower.masks)


def bundle_segmentor(tower: Tower) -> BuiltSegmentor | None:
    """The segmentor a bundle holds, with its trained head; None if it holds none."""
    bundle = tower.bundle
    if bundle is None or bundle.manifest.segmentor is None:
        return None
    record = bundle.manifest.segmentor
    built = build_segmentor(tower, record.framework, options=record.options)
    head = tensors(bundle.head() or {})
    missing, unexpected = built.module.load_state_dict(head, strict=False)
    odd = [*unexpected, *(name for name in missing if not name.startswith(BACKBONE))]
    if odd:
        raise BundleError(
            f"segmentor does not fit its framework {record.framework}: '{odd[0]}' in {bundle.path}; upgrade opentrans"
        )
    return built


def any_segmentor(tower: Tower) -> BuiltSegmentor:
    """The segmentor that a bundle holds, else the tower read out without training."""
    return bundle_segmentor(tower) or build_segmentor(tower, TRAINING_FREE)


def segmentor_to_train(tower: Tower, framework: str | None, *, seed: int) -> BuiltSegmentor:
    """The bundle's segmentor, else a fresh one of `framework`, or of DEFAULT_FRAMEWORK if that is None.

    Raises OptionError if the bundle's is of another framework, or has nothing to train.
    """
    built = bundle_segmentor(tower) or build_segmentor(tower, framework or DEFAULT_FRAMEWORK, seed=seed)
    name = built.framework.name
    if framework not in (None, name):
        raise OptionError(f"the bundle's segmentor is {name}, not {framework}; say --framework {name}")
    if not built.framework.trainable:
        raise OptionError(f"segmentor has nothing to train: {name}; transfer the subnet to deeplabv3, han or fcclip")
    return built
