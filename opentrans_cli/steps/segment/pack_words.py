"""segment --save-vocabulary: save words with their embeddings in a file, so that the text tower runs only once."""

from __future__ import annotations

from pathlib import Path

from opentrans_cli.bundle.hub.source import local_source
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.clip.source import LoadedClip, load_clip
from opentrans_cli.clip.text import DEFAULT_TEMPLATES
from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.datasets.vocabulary_pack import SUFFIX, write_pack
from opentrans_cli.errors import OptionError
from opentrans_cli.files.targets import check_file_target, prepare_parent
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.frameworks.base import Framework
from opentrans_cli.reporter import SILENT, Reporter
from opentrans_cli.steps.segmentors.opened import names_of
from opentrans_cli.steps.segmentors.published import published_words
from opentrans_cli.steps.segmentors.words import embed_vocabulary, packed
from opentrans_cli.steps.sources import is_bundle, load_text_clip


def pack_words(
    source: str | None,
    vocabulary: Vocabulary,
    *,
    out: Path,
    framework: str | None = None,
    checkpoint: Path | None = None,
    seen: Path | None = None,
    base: str | None = None,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> Path:
    """Embed `vocabulary` with the text tower of a source, or of a framework's own `checkpoint`; write the pack `out`.

    Prompts are those of `framework`, else of the bundle's segmentor. A class is seen if one of its words is in the
    class file `seen`. Without that file the record of the bundle decides; for a framework that is already trained, a
    class is seen if it is one of COCO's. Raises SourceError, BundleError, HubError, DataError or OptionError.
    """
    if out.suffix != SUFFIX:
        raise OptionError(f"vocabulary packs end in {SUFFIX}: --save-vocabulary {out}; add it")
    check_file_target(out, force=force, option="--save-vocabulary")
    prepare_parent(out)
    chosen: Framework | None = None if framework is None else FRAMEWORKS.load(framework)
    trained_on = names_of(seen) if seen is not None or (chosen is not None and chosen.trainable) else ()
    templates = DEFAULT_TEMPLATES if chosen is None else chosen.templates
    if checkpoint is not None:
        assert framework is not None
        clip = published_words(framework, checkpoint, base=base, reporter=reporter)
    else:
        assert source is not None
        clip, recorded, prompts = _of_source(source, base, reporter)
        trained_on = trained_on or recorded
        templates = templates if chosen is not None or not prompts else prompts
    flags = vocabulary.seen_by(trained_on) if trained_on else None
    text = embed_vocabulary(clip, vocabulary, templates=templates, seen=flags, reporter=reporter)
    write_pack(out, packed(vocabulary, text, templates))
    return out


def _of_source(
    source: str, base: str | None, reporter: Reporter
) -> tuple[LoadedClip, tuple[str, ...], tuple[str, ...]]:
    """The CLIP that embeds words for a source, and the classes and prompts its segmentor was trained with."""
    place = local_source(source, reporter)
    if not is_bundle(place):
        return load_clip(source), (), ()
    manifest = open_bundle(place).manifest
    record = manifest.segmentor
    clip = load_text_clip(manifest.base, base, reporter)
    return clip, (record.seen if record else ()), (record.templates if record else ())
