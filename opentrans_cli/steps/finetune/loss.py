"""The loss of fine-tuning and what is trained: a segmentor, and parameters of the loss that the bundle does not store.

Terms of the loss are "pixels" for a PixelSegmentor, "classes", "mask" and "dice" for a MaskSegmentor, and "kd" and
"grounding" if they are asked for. Their sum over all parts of a batch and all processes is the loss of the step.
Shapes: B images of H x W pixels, C classes, R regions, Q queries, D embedding, S side of the crop.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opentrans_cli.clip.prefix import replay
from opentrans_cli.clip.source import LoadedClip
from opentrans_cli.clip.text import embed_words
from opentrans_cli.datasets.streams import Stream
from opentrans_cli.datasets.textfile import read_captions
from opentrans_cli.distill.regions import pool_regions
from opentrans_cli.distill.text_guided import RegionHeads
from opentrans_cli.errors import DataError, OptionError
from opentrans_cli.frameworks.base import ClassText, Framework, MaskQueries, class_scores
from opentrans_cli.frameworks.mask_loss import (
    Matches,
    SetLossOptions,
    match_queries,
    present_classes,
    set_divisors,
    set_loss,
)
from opentrans_cli.frameworks.readout import resize
from opentrans_cli.reporter import SILENT, Reporter
from opentrans_cli.steps.finetune.grounding import Grounding, GroundingScale
from opentrans_cli.steps.finetune.options import FinetuneOptions
from opentrans_cli.steps.finetune.region_kd import RegionKd, Regions, RegionShare
from opentrans_cli.steps.region_teacher import RegionTeacher, raw_names
from opentrans_cli.steps.segmentors.built import BuiltSegmentor
from opentrans_cli.steps.segmentors.words import embed_vocabulary
from opentrans_cli.steps.training_data import IGNORED, TrainingData
from opentrans_cli.training.processes.distributed import World

SEGMENTOR = "segmentor."
"""Where the segmentor stands in the names of what is trained."""


class SegmentorOutputs(NamedTuple):
    """Outputs of the module for a batch; a tuple, so that wrappers of modules find the tensors in it."""

    scores: Tensor | None = None  # (B, C, H, W), of a PixelSegmentor
    queries: MaskQueries | None = None  # of a MaskSegmentor, with its auxiliary layers
    students: tuple[Tensor, ...] = ()  # rows of length 1: (R, D) of the given regions, or by layer (B, Q, D)
    text_scale: Tensor | None = None  # (1,), for the words in the distillation of regions
    grounding_scale: Tensor | None = None  # (1,), for the cosine of words and queries


class TrainedModule(nn.Module):
    """`segmentor` and, if the options ask for them, the parameters of distillation and grounding; wrap and call this.

    Every parameter that requires gradients takes part in each call, so that processes need not look for unused ones.
    The embeddings of the seen classes are a buffer that no state has. Raises OptionError for a grounding of queries
    that have no embeddings.
    """

    text_embeddings: Tensor

    def __init__(self, built: BuiltSegmentor, options: FinetuneOptions, text: ClassText) -> None:
        super().__init__()
        self.segmentor: Any = built.module
        self.masks = built.framework.masks
        self.prefix_end: str | None = None  # where the cached features end, if batches have any
        self._text = text
        self.register_buffer("text_embeddings", text.embeddings.clone(), persistent=False)
        if options.grounding_weight and getattr(built.options, "classes", None) is not None:
            raise OptionError(
                "queries of a fixed list of classes have no embeddings to compare with words: --grounding-weight; "
                "leave it out"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.regions = RegionHeads(*self._sizes(built)) if options.kd_weight else None
        self.grounding = GroundingScale() if options.grounding_weight else None

    def _sizes(self, built: BuiltSegmentor) -> tuple[int, int, int]:
        """The number of layers with distilled embeddings, their width, and the width of the teacher's embeddings."""
        if not self.masks:
            return 1, built.dimension, built.dimension
        sizes = self.segmentor.decoder.sizes
        return sizes.decoder_layers + 1, sizes.width, built.dimension

    @property
    def text(self) -> ClassText:
        """The seen classes, on the module's device."""
        return ClassText(self.text_embeddings, self._text.class_indices, self._text.seen)

    def forward(
        self, images: Tensor, *features: Tensor, label_maps: Tensor | None = None, regions: Regions | None = None
    ) -> SegmentorOutputs:
        """Outputs of the segmentor for `images` (B, 3, H, W), the same kind in training and eval mode.

        features: those after `prefix_end`; the blocks up to it then compute nothing. label_maps: int64 (B, H, W), and
        `regions` in them, over which the embeddings of a PixelSegmentor are pooled for distillation.
        """
        with self._replaying(features):
            if self.masks:
                return self._of_queries(self.segmentor.queries(images, self.text))
            return self._of_pixels(images, label_maps, regions)

    def _of_queries(self, queries: MaskQueries) -> SegmentorOutputs:
        return SegmentorOutputs(
            queries=queries,
            students=() if self.regions is None else self.regions(queries.states),
            text_scale=None if self.regions is None else self.regions.scale * 1,
            grounding_scale=None if self.grounding is None else self.grounding(),
        )

    def _of_pixels(self, images: Tensor, label_maps: Tensor | None, regions: Regions | None) -> SegmentorOutputs:
        if self.regions is None:
            return SegmentorOutputs(scores=self.segmentor(images, self.text))
        assert label_maps is not None and regions is not None
        embedding = self.segmentor.embed(images)
        scores = class_scores(
            resize(self.segmentor.classifier(embedding, self.text_embeddings), images), self.text.class_indices
        )
        with torch.autocast(images.device.type, enabled=False):
            pooled = pool_regions(embedding.float(), label_maps, image_of=regions.image_of, class_of=regions.class_of)
            students = self.regions((pooled,))
        return SegmentorOutputs(scores=scores, students=students, text_scale=self.regions.scale * 1)

    @contextmanager
    def _replaying(self, features: tuple[Tensor, ...]) -> Iterator[None]:
        if not features:
            yield
            return
        assert self.prefix_end is not None
        with replay(self.segmentor.backbone, self.prefix_end, features):
            yield


def pixel_cross_entropy(
    scores: Tensor, label_map: Tensor, ignore_index: int, *, labelled: Tensor | float | None = None
) -> Tensor:
    """Cross-entropy summed over the labelled pixels and divided by `labelled`, 0-d. Without labelled pixels it is zero
    with zero gradients.

    `scores`: (B, C, H, W), unnormalised. `label_map`: int64 (B, H, W), classes 0 to C - 1, or `ignore_index`.
    `labelled`: the number of labelled pixels in the whole batch, of which this is a part; None: this is all of it.
    """
    if labelled is None:
        labelled = (label_map != ignore_index).sum().clamp(min=1)
    # A CPU computes the softmax over the last dimension twice as fast; scores in channels_last are not even copied.
    rows = scores.permute(0, 2, 3, 1).reshape(-1, scores.shape[1])
    return F.cross_entropy(rows, label_map.reshape(-1), ignore_index=ignore_index, reduction="sum") / labelled


_SALT = 0x6C6F7373  # makes these random numbers independent of others from the same seed

Batch = tuple[Tensor, ...]
"""Images float32 (B, 3, S, S), label maps int64 (B, S, S), crop numbers and rows int64 (B,), features of a prefix."""


class Whole(NamedTuple):
    """What the terms of a step are divided by."""

    labelled: float  # pixels
    sets: Tensor  # see set_divisors
    captioned: float  # images whose words take part
    regions: RegionShare | None


class Part(NamedTuple):
    """A part of a batch in the form that the terms need."""

    label_maps: Tensor
    seeds: list[int]  # of the crops in this run
    rows: list[int]


@dataclass(frozen=True)
class Terms:
    """What the loss uses in addition to the labels."""

    options: FinetuneOptions
    world: World
    kd: RegionKd | None = None
    grounding: Grounding | None = None

    @property
    def sets(self) -> SetLossOptions:
        """Options of the loss over sets of masks."""
        o = self.options
        return SetLossOptions(
            classes=o.class_weight,
            mask=o.mask_weight,
            dice=o.dice_weight,
            no_object=o.no_object_weight,
            points=o.points,
            oversample=o.oversample,
            importance=o.importance,
            region_dropout=o.region_dropout,
        )


class FinetuneLoss:
    """A Loss of training/loop.py that calls `module`, which is `trained` or a wrapper around it."""

    def __init__(self, module: nn.Module, trained: TrainedModule, terms: Terms) -> None:
        self._module: Callable[..., SegmentorOutputs] = module
        self._trained, self._terms, self._sets = trained, terms, terms.sets

    def whole(self, batch: Batch) -> Whole:
        """What the terms of the step are divided by, computed from this process's share; all processes must call it."""
        part = _part(batch, seed=self._terms.options.seed)
        labelled = (part.label_maps != IGNORED).sum().cpu().double()
        numbers = torch.cat([torch.stack([labelled, self._captioned(part)]), self._divisors(part)])
        self._terms.world.total(numbers)
        kd = self._terms.kd
        share = None if kd is None else kd.share(part.label_maps, part.seeds)
        return Whole(float(numbers[0]), numbers[2:], float(numbers[1]), share)

    def _divisors(self, part: Part) -> Tensor:
        if not self._trained.masks:
            return torch.zeros(0, dtype=torch.float64)
        sizes = self._trained.segmentor.decoder.sizes
        return set_divisors(
            part.label_maps,
            part.seeds,
            self._sets,
            classes=self._trained.text.classes,
            queries=sizes.queries,
            layers=sizes.decoder_layers + 1,
            ignore=IGNORED,
        )

    def _captioned(self, part: Part) -> Tensor:
        grounding, count = self._terms.grounding, 0
        if grounding is not None:
            masks = present_classes(part.label_maps, self._trained.text.classes, ignore=IGNORED).sum(1)
            count = grounding.count(part.rows, part.seeds, masks.tolist())
        return torch.tensor(count, dtype=torch.float64)

    def __call__(self, batch: Batch, whole: Whole) -> Mapping[str, Tensor]:
        """The weighted terms of a part of the step, 0-d float32."""
        images, features, part = batch[0], batch[4:], _part(batch, seed=self._terms.options.seed)
        kd, regions = self._terms.kd, None
        if kd is not None and whole.regions is not None:
            regions = kd.regions(part.label_maps, part.seeds, whole.regions)
        pooled = {} if self._trained.masks else {"label_maps": part.label_maps, "regions": regions}
        found = self._module(images, *features, **pooled)
        # Terms keep full precision under the caller's autocast, because they are sums over many pixels.
        with torch.autocast(images.device.type, enabled=False):
            return (self._of_masks if self._trained.masks else self._of_pixels)(found, part, whole, regions)

    def _of_pixels(
        self, found: SegmentorOutputs, part: Part, whole: Whole, regions: Regions | None
    ) -> dict[str, Tensor]:
        assert found.scores is not None
        labelled = max(1.0, whole.labelled)
        terms = {"pixels": pixel_cross_entropy(found.scores.float(), part.label_maps, IGNORED, labelled=labelled)}
        if regions is not None:
            terms["kd"] = self._taught(found.students[0], regions, found, part, whole)
        return terms

    def _of_masks(
        self, found: SegmentorOutputs, part: Part, whole: Whole, regions: Regions | None
    ) -> dict[str, Tensor]:
        queries = found.queries
        assert queries is not None
        matches = match_queries(queries, part.label_maps, part.seeds, self._sets, ignore=IGNORED)
        terms = set_loss(queries, matches, part.label_maps, part.seeds, self._sets, divisors=whole.sets, ignore=IGNORED)
        if regions is not None:
            parts = []
            for student, pairs in zip(found.students, matches, strict=True):
                chosen = _among(pairs, regions, self._trained.text.classes)
                students = student[chosen.image_of, chosen.query_of]
                parts.append(self._taught(students, Regions(chosen.image_of, chosen.class_of), found, part, whole))
            terms["kd"] = torch.stack(parts).sum()
        if self._terms.grounding is not None:
            terms["grounding"] = self._grounded(self._terms.grounding, found, matches, part, whole)
        return terms

    def _taught(self, students: Tensor, regions: Regions, found: SegmentorOutputs, part: Part, whole: Whole) -> Tensor:
        kd = self._terms.kd
        assert kd is not None and whole.regions is not None and found.text_scale is not None
        value = kd(students, regions, part.rows, found.text_scale, whole.regions)
        return self._terms.options.kd_weight * value

    def _grounded(
        self, grounding: Grounding, found: SegmentorOutputs, matches: list[Matches], part: Part, whole: Whole
    ) -> Tensor:
        assert found.queries is not None and found.grounding_scale is not None
        parts = [
            grounding(embeddings.float(), pairs, part.rows, part.seeds, found.grounding_scale, layer=layer)
            for layer, (embeddings, pairs) in enumerate(zip(found.queries.embeddings, matches, strict=True))
        ]
        weight = self._terms.options.grounding_weight
        return weight * torch.stack(parts).sum() / max(1.0, whole.captioned)


def _part(batch: Batch, *, seed: int) -> Part:
    seeds = [int(Stream(seed ^ _SALT, number).words(1)[0]) >> 1 for number in batch[2].tolist()]
    return Part(batch[1], seeds, batch[3].tolist())


def _among(pairs: Matches, regions: Regions, classes: int) -> Matches:
    """Those matches whose regions are in `regions`."""
    chosen = torch.isin(pairs.image_of * classes + pairs.class_of, regions.image_of * classes + regions.class_of)
    return Matches(*(part[chosen] for part in pairs))


def check_loss_options(options: FinetuneOptions, framework: Framework) -> None:
    """Raises OptionError for options of the loss that contradict each other or the framework."""
    weights = ("class_weight", "mask_weight", "dice_weight", "kd_weight", "grounding_weight")
    if framework.masks and not any(getattr(options, name) for name in weights):
        raise OptionError("nothing would be learned: every weight of the loss is 0; give --mask-weight, say")
    _check_grounding(options, framework)


def _check_grounding(options: FinetuneOptions, framework: Framework) -> None:
    if options.captions is not None and not options.grounding_weight:
        raise OptionError(f"captions without a part in the loss: {options.captions}; give --grounding-weight as well")
    if not options.grounding_weight:
        return
    if not framework.masks:
        raise OptionError(
            f"words are compared with queries, and {framework.name} has none: --grounding-weight; leave it out"
        )
    if options.captions is None:
        raise OptionError("words of images are missing: --grounding-weight; name their file with --captions")
    if options.batch_size < 2 * options.accumulate:
        raise OptionError(
            f"a caption needs others to be told from: --batch-size {options.batch_size} in {options.accumulate} parts; "
            "give at least 2 images a part"
        )


def loss_identity(options: FinetuneOptions) -> dict[str, str]:
    """What the loss reads besides data set and CLIP, for the identity of a run: the digest of the captions, if any.

    Raises DataError if they cannot be read.
    """
    if options.captions is None:
        return {}
    try:
        content = Path(options.captions).read_bytes()
    except OSError as error:
        raise DataError(f"captions cannot be read: {options.captions} ({error.strerror}); name a text file") from error
    return {"captions": hashlib.sha256(content).hexdigest()}


def make_loss(
    built: BuiltSegmentor,
    loader: TrainingData,
    clip: LoadedClip,
    options: FinetuneOptions,
    world: World,
    reporter: Reporter = SILENT,
) -> tuple[TrainedModule, Callable[[nn.Module], FinetuneLoss]]:
    """The module to train, on the world's device, and a function that makes the loss from the module to call instead.

    clip: the base of the bundle, dense: its text tower embeds the words, its visual tower is the teacher of regions.
    Raises OptionError for options the segmentor does not support, DataError for captions that cannot be read or fit no
    image.
    """
    check_loss_options(options, built.framework)
    text = embed_vocabulary(clip, loader.seen_vocabulary, templates=built.framework.templates, reporter=reporter)
    trained = TrainedModule(built, options, text)
    trained.to(world.device)
    terms = Terms(
        options,
        world,
        kd=_region_kd(built, loader, clip, world=world) if options.kd_weight else None,
        grounding=_grounding(loader, clip, options, world=world, reporter=reporter)
        if options.grounding_weight
        else None,
    )
    return trained, lambda module: FinetuneLoss(module, trained, terms)


def _region_kd(built: BuiltSegmentor, loader: TrainingData, clip: LoadedClip, *, world: World) -> RegionKd:
    teacher = RegionTeacher(copy.deepcopy(clip.model.visual).to(world.device), loader)
    text = raw_names(clip)(loader.seen_vocabulary.names).to(world.device)
    return RegionKd(teacher, text, world=world, whole_cells=not built.framework.masks)


def _grounding(
    loader: TrainingData, clip: LoadedClip, options: FinetuneOptions, *, world: World, reporter: Reporter
) -> Grounding:
    """The grounding term, with the words of all images that have a caption, embedded once."""
    if options.batch_size < 2 * options.accumulate * world.size:
        raise OptionError(
            f"a caption needs others to be told from: {world.size} processes share --batch-size {options.batch_size}; "
            "give at least 2 images a process and part"
        )
    path = Path(str(options.captions))
    captions = read_captions(path)
    samples = loader.samples
    rows = {row: captions[name] for row in range(len(samples)) if (name := samples.name(row)) in captions}
    if not rows:
        raise DataError(
            f"captions of none of the images: {path}, first '{next(iter(captions))}'; "
            f"images are called like '{samples.name(0)}'"
        )
    reporter.say(f"captions for {len(rows)} of {len(samples)} images")
    words = sorted({word for caption in rows.values() for word in caption})
    place = {word: index for index, word in enumerate(words)}
    embeddings = embed_words(clip, words, templates=("{}",), reporter=reporter)
    return Grounding(
        {row: tuple(place[word] for word in caption) for row, caption in rows.items()}, embeddings.to(world.device)
    )
