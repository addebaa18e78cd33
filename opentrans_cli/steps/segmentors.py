"""Segmentors for the steps: built around a bundle's tower, with the text embeddings of a vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from opentrans_cli.bundle.contents import BundleContents
from opentrans_cli.bundle.manifest import Segmentor as SegmentorRecord
from opentrans_cli.bundle.manifest import Step
from opentrans_cli.bundle.records import json_bytes
from opentrans_cli.clip.layers import has_layer
from opentrans_cli.clip.source import LoadedClip
from opentrans_cli.clip.text import DEFAULT_TEMPLATES, text_embeddings, unread_words
from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.errors import BundleError, DataError, OptionError
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.frameworks.base import ClassText, Framework
from opentrans_cli.frameworks.mask_inference import semantic_scores
from opentrans_cli.sparsity.patterns.base import pattern_for
from opentrans_cli.steps.picture_size import Sides, at_size
from opentrans_cli.steps.provenance import arrays, tensors
from opentrans_cli.steps.reporter import SILENT, Reporter
from opentrans_cli.steps.segmentor_call import SegmentorCall
from opentrans_cli.steps.sources import Tower, numpy_masks
from opentrans_cli.training.cost import LayerCost

BACKBONE = "backbone."

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
    companions: Mapping[str, Tensor] = field(default_factory=dict)  # masks by tensor name, see patterns/base.py

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

    def masks(self) -> dict[str, Tensor]:
        """Masks by layer name inside `module`, of the layers it has: a framework may leave out the attention pool."""
        inside = {f"{BACKBONE}{layer}": mask for layer, mask in self.tower.masks.items()}
        return {layer: mask for layer, mask in inside.items() if has_layer(self.module, layer)}

    def held(self) -> dict[str, Tensor]:
        """Masks of the tensors that the pattern holds at zero beside the layers, by name inside `module`."""
        there = dict(self.module.named_parameters())
        inside = {f"{BACKBONE}{name}": mask for name, mask in self.companions.items()}
        return {name: mask for name, mask in inside.items() if name in there}

    def costs(
        self, resolution: tuple[int, int], *, owners: tuple[int, ...], training: bool = False
    ) -> tuple[LayerCost, ...]:
        """MACs of one image of `resolution` (height, width) classified by embeddings that belong to `owners`.

        training: of what the loss is taken of, which for masks is more than the scores: the earlier layers of the
        decoder give theirs as well.
        """
        call = SegmentorCall(self.module, self.framework.masks, self.dimension, resolution, owners, training)
        return call.formulas(self.kept_shares())

    def kept_shares(self) -> dict[str, float]:
        """Kept weights / all weights by masked layer inside the module, in [0, 1]."""
        return {layer: int(mask.sum()) / mask.numel() for layer, mask in self.masks().items()}

    def record(self, classes: Sequence[tuple[str, ...]] = (), *, seen: Sequence[str] = ()) -> SegmentorRecord:
        """What the manifest says about it: its classes, and the names of those with training labels."""
        options = asdict(self.options)
        return SegmentorRecord(self.framework.name, options, tuple(classes), tuple(seen), self.framework.templates)

    def contents(
        self, step: Step, record: SegmentorRecord, *, report: tuple[str, Mapping[str, Any]], keep_alpha: bool
    ) -> BundleContents:
        """A new bundle made by `step` from the tower's own: same base and masks, tensors as they are now.

        `report` is its name and document; `keep_alpha` says whether the tower's weights, and so its spectra, are still
        those of the parent.
        """
        parent = self.tower.bundle
        assert parent is not None
        manifest = parent.manifest
        return BundleContents(
            base=manifest.base,
            pattern=manifest.pattern,
            target_sparsity=manifest.target_sparsity,
            masks=numpy_masks(self.tower.masks),
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
    companions = _companions(tower)  # before the framework takes parts off the tower
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = chosen.build(tower.visual, resolved).eval()
    return BuiltSegmentor(chosen, resolved, module, tower, companions)


def _companions(tower: Tower) -> dict[str, Tensor]:
    if tower.bundle is None:
        return {}
    return pattern_for(tower.bundle.manifest.pattern, tower.visual).companions(tower.masks)


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
    """The segmentor a bundle holds, else the tower read out without training."""
    return bundle_segmentor(tower) or build_segmentor(tower, TRAINING_FREE)


def segmentor_to_train(tower: Tower, framework: str | None, *, seed: int) -> BuiltSegmentor:
    """The segmentor a bundle holds, else a fresh one of `framework`, or of DEFAULT_FRAMEWORK if that is None.

    Raises OptionError if the bundle's is of another framework, or has nothing to train.
    """
    built = bundle_segmentor(tower) or build_segmentor(tower, framework or DEFAULT_FRAMEWORK, seed=seed)
    name = built.framework.name
    if framework not in (None, name):
        raise OptionError(f"the bundle's segmentor is {name}, not {framework}; say --framework {name}")
    if not built.framework.trainable:
        raise OptionError(f"segmentor has nothing to train: {name}; transfer the subnet to deeplabv3, han or fcclip")
    return built


def class_owners(vocabulary: Vocabulary) -> tuple[int, ...]:
    """The class of each synonym, class by class."""
    return tuple(index for index, synonyms in enumerate(vocabulary.classes) for _ in synonyms)


def embed_vocabulary(
    clip: LoadedClip,
    vocabulary: Vocabulary,
    *,
    templates: Sequence[str] = DEFAULT_TEMPLATES,
    seen: Sequence[bool] | None = None,
    reporter: Reporter = SILENT,
) -> ClassText:
    """Text embeddings of every synonym of every class; words the text tower never read are told.

    templates: prompts, those of the framework. seen: by class, whether training labelled it; all if None.
    """
    names = [name for synonyms in vocabulary.classes for name in synonyms]
    if clip.read_tokens is not None:
        _tell_unread(unread_words(clip.tokenizer, names, read_tokens=clip.read_tokens), clip, reporter)
    embeddings = text_embeddings(clip.model, clip.tokenizer, names, templates=templates)
    return ClassText(embeddings, class_owners(vocabulary), tuple(seen or (True,) * len(vocabulary)))


def _tell_unread(words: Sequence[str], clip: LoadedClip, reporter: Reporter) -> None:
    if words:
        shown = ", ".join(words[:8]) + (", ..." if len(words) > 8 else "")
        reporter.say(f"words that {clip.source} never read in training, so without meaning to it: {shown}")


Queries = tuple[Tensor, Tensor, tuple[int, int]]
"""What `Predictor.queries` gives."""


class Predictor:
    """A segmentor ready to label images with the classes of a vocabulary."""

    def __init__(
        self, built: BuiltSegmentor, text: ClassText, *, device: torch.device, sides: Sides | None = None
    ) -> None:
        self.framework = built.framework.name
        self._module: Any = built.module.to(device).eval()
        self._preprocess = built.tower.preprocess
        self._device, self._text, self._sides = device, text.to(device), sides

    @torch.no_grad()
    def scores(self, image: np.ndarray) -> Tensor:
        """Scores of every class at every pixel of `image` (H, W, 3) uint8: float32 (C, H, W), on the CPU.

        Raises DataError for an image smaller than the tower's stride.
        """
        scores: Tensor = self._module(self._batch(image), self._text)
        return at_size(scores[0].float().cpu(), image.shape[0], image.shape[1])

    def label_map(self, image: np.ndarray) -> Tensor:
        """Class of every pixel of `image`, as for `scores`: int64 (H, W), on the CPU."""
        return self.scores(image).argmax(0)

    @torch.no_grad()
    def queries(self, image: np.ndarray) -> Queries:
        """Class logits (Q, C + 1) and mask logits (Q, h, w) of a MaskSegmentor, on the CPU, and the size (H, W) of
        the picture it looked at.
        """
        batch = self._batch(image)
        found = self._module.queries(batch, self._text)
        return found.class_logits[0].cpu(), found.mask_logits[0].cpu(), (batch.shape[2], batch.shape[3])

    def scores_of(self, found: Queries, image: np.ndarray) -> Tensor:
        """`scores` of `image` from its `queries`, without looking at it again."""
        classes, masks, size = found
        return at_size(semantic_scores(classes[None], masks[None], size)[0], image.shape[0], image.shape[1])

    def looks_at(self, height: int, width: int) -> tuple[int, int]:
        """Height and width at which a picture of this size is looked at."""
        return (height, width) if self._sides is None else self._sides.shape(height, width)

    def _batch(self, image: np.ndarray) -> Tensor:
        """`image` as it is looked at, normalised (1, 3, H, W)."""
        looked_at = image if self._sides is None else self._sides.resized(image)
        height, width = looked_at.shape[:2]
        if min(height, width) < 32:
            raise DataError(f"image is smaller than the tower's stride of 32: {width} x {height}; enlarge it")
        return self._preprocess.normalise(torch.from_numpy(np.ascontiguousarray(looked_at))[None].to(self._device))
