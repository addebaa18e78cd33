"""Wiring of the loss of fine-tuning: options checked, teacher and words made ready, module and loss put together."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from opentrans_cli.clip.source import LoadedClip
from opentrans_cli.clip.text import text_embeddings
from opentrans_cli.datasets.textfile import read_captions
from opentrans_cli.errors import DataError, OptionError
from opentrans_cli.frameworks.base import Framework
from opentrans_cli.reporter import SILENT, Reporter
from opentrans_cli.steps.finetune.grounding import Grounding
from opentrans_cli.steps.finetune.loss import FinetuneLoss, Terms
from opentrans_cli.steps.finetune.module import TrainedModule
from opentrans_cli.steps.finetune.options import FinetuneOptions
from opentrans_cli.steps.finetune.region_kd import RegionKd
from opentrans_cli.steps.region_teacher import RegionTeacher, raw_names
from opentrans_cli.steps.segmentors.built import BuiltSegmentor
from opentrans_cli.steps.segmentors.words import embed_vocabulary
from opentrans_cli.steps.training_data import TrainingData
from opentrans_cli.training.processes.distributed import World


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
    """What the loss reads beside data set and CLIP, for the identity of a run: the digest of the captions, if any.

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
    feed: TrainingData,
    clip: LoadedClip,
    options: FinetuneOptions,
    world: World,
    reporter: Reporter = SILENT,
) -> tuple[TrainedModule, Callable[[nn.Module], FinetuneLoss]]:
    """What is trained, on the world's device, and the loss of what is to be called in its place.

    clip: the base of the bundle, dense: its text tower embeds the words, its visual tower teaches regions. Raises
    OptionError for options the segmentor cannot follow, DataError for captions that cannot be read or fit no image.
    """
    check_loss_options(options, built.framework)
    text = embed_vocabulary(clip, feed.seen_vocabulary, templates=built.framework.templates, reporter=reporter)
    trained = TrainedModule(built, options, text)
    trained.to(world.device)
    terms = Terms(
        options,
        world,
        kd=_region_kd(built, feed, clip, world=world) if options.kd_weight else None,
        grounding=_grounding(feed, clip, options, world=world, reporter=reporter) if options.grounding_weight else None,
    )
    return trained, lambda module: FinetuneLoss(module, trained, terms)


def _region_kd(built: BuiltSegmentor, feed: TrainingData, clip: LoadedClip, *, world: World) -> RegionKd:
    teacher = RegionTeacher(copy.deepcopy(clip.model.visual).to(world.device), feed)
    text = raw_names(clip)(feed.seen_vocabulary.names).to(world.device)
    return RegionKd(teacher, text, world=world, whole_cells=not built.framework.masks)


def _grounding(
    feed: TrainingData, clip: LoadedClip, options: FinetuneOptions, *, world: World, reporter: Reporter
) -> Grounding:
    """The words of all images with a caption, embedded once."""
    if options.batch_size < 2 * options.accumulate * world.size:
        raise OptionError(
            f"a caption needs others to be told from: {world.size} processes share --batch-size {options.batch_size}; "
            "give at least 2 images a process and part"
        )
    path = Path(str(options.captions))
    captions = read_captions(path)
    samples = feed.samples
    rows = {row: captions[name] for row in range(len(samples)) if (name := samples.name(row)) in captions}
    if not rows:
        raise DataError(
            f"captions of none of the images: {path}, first '{next(iter(captions))}'; "
            f"images are called like '{samples.name(0)}'"
        )
    reporter.say(f"captions for {len(rows)} of {len(samples)} images")
    words = sorted({word for caption in rows.values() for word in caption})
    place = {word: index for index, word in enumerate(words)}
    embeddings: Tensor = text_embeddings(clip.model, clip.tokenizer, words, templates=("{}",))
    return Grounding(
        {row: tuple(place[word] for word in caption) for row, caption in rows.items()}, embeddings.to(world.device)
    )
